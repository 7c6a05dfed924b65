//! `hapax keys create|list|revoke`

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::{Subcommand, ValueEnum};
use entity::{ApiKeyId, ContentDigest, api_keys};
use rand::TryRng;
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::error::CliError;
use super::{Outcome, output, setup};
use crate::config::Config;
use crate::ledger::keys::NewKey;
use crate::upload::TenantId;

/// What every key begins with, so that scanners for leaked secrets can tell one.
const SECRET_PREFIX: &str = "hpx_";
/// 256 bits: a key's plain hash cannot be guessed back.
const SECRET_BYTES: usize = 32;
/// A key that is to live longer is better made without an end.
const LONGEST_LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

#[derive(Debug, Clone, Subcommand)]
pub(super) enum Action {
    /// Make a key; its secret is printed this once
    Create {
        /// Whose images it reaches
        #[arg(long, value_parser = parse_tenant)]
        tenant: TenantId,
        /// What it may do; may be given several times
        #[arg(long = "scope", required = true, value_enum)]
        scopes: Vec<Scope>,
        /// A label for people
        #[arg(long, default_value = "")]
        name: String,
        /// It stops working after this long, like 90d; without it, never
        #[arg(long, value_name = "TIME", value_parser = parse_life)]
        expires_in: Option<Duration>,
        /// One JSON object instead of the bare secret
        #[arg(long)]
        json: bool,
    },
    /// List every key, oldest first, without secrets
    List {
        /// One JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Take a key back, at once and for good
    Revoke {
        /// Its id, as `keys list` shows it
        id: Uuid,
        /// One JSON object instead of a line
        #[arg(long)]
        json: bool,
    },
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Scope {
    /// See images and their content
    Read,
    /// Upload and delete images
    Write,
    /// All of it, and everybody's counts
    Admin,
    /// Send deletion webhooks
    Webhook,
}

impl Scope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
            Self::Webhook => "webhook",
        }
    }
}

/// Reads a tenant's name from the command line.
pub(super) fn parse_tenant(name: &str) -> Result<TenantId, String> {
    TenantId::parse(name)
        .ok_or_else(|| "a tenant is 1 to 128 characters of A-Z a-z 0-9 . _ - @ :".to_owned())
}

fn parse_life(text: &str) -> Result<Duration, String> {
    let life = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match life {
        Duration::ZERO => Err("a key must live for a while".to_owned()),
        life if life > LONGEST_LIFE => Err("a key lives for at most 100 years".to_owned()),
        life => Ok(life),
    }
}

pub(super) async fn run(action: Action, config: &Config) -> Result<Outcome, CliError> {
    match action {
        Action::Create {
            tenant,
            mut scopes,
            name,
            expires_in,
            json,
        } => {
            scopes.sort_unstable();
            scopes.dedup();
            create(config, &tenant, &scopes, name, expires_in, json).await?;
        }
        Action::List { json } => list(config, json).await?,
        Action::Revoke { id, json } => revoke(config, ApiKeyId(id), json).await?,
    }
    Ok(Outcome::Done)
}

async fn create(
    config: &Config,
    tenant: &TenantId,
    scopes: &[Scope],
    name: String,
    expires_in: Option<Duration>,
    json: bool,
) -> Result<(), CliError> {
    // A new installation with auth.mode = "keys" needs a key before its first `serve`.
    let ledger = setup::ledger_or_new(config).await?;
    let now = ledger.database_time().await?;
    let life = expires_in.and_then(|life| TimeDelta::from_std(life).ok());
    let secret = new_secret()?;
    let scopes: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
    let key = ledger
        .insert_key(NewKey {
            id: ApiKeyId(Uuid::now_v7()),
            tenant: tenant.as_str().to_owned(),
            name,
            key_hash: hash_of(&secret),
            scopes: scopes.join(","),
            expires_at: life.and_then(|life| now.checked_add_signed(life)),
        })
        .await?;
    if json {
        let mut shown = as_json(&key, now);
        shown["secret"] = secret.into();
        return output::say_json(&shown);
    }
    // Alone on stdout, so that a script can take it: KEY=$(hapax keys create …).
    output::say(&secret)?;
    let expires = key.expires_at.map_or("never".to_owned(), rfc3339);
    output::complain(&format!(
        "key {} of tenant {}: scopes {}, expires {expires}; this is the only time its secret is shown",
        key.id, key.tenant, key.scopes,
    ));
    Ok(())
}

async fn list(config: &Config, json: bool) -> Result<(), CliError> {
    let ledger = setup::ledger(config).await?;
    let now = ledger.database_time().await?;
    let keys = ledger.list_keys().await?;
    if json {
        let keys: Vec<_> = keys.iter().map(|key| as_json(key, now)).collect();
        return output::say_json(&json!({ "keys": keys }));
    }
    let head = [
        "ID", "TENANT", "SCOPES", "STATE", "CREATED", "EXPIRES", "NAME",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(keys.iter().map(|key| {
        vec![
            key.id.to_string(),
            key.tenant.clone(),
            key.scopes.clone(),
            state_of(key, now).to_owned(),
            rfc3339(key.created_at),
            key.expires_at.map_or("never".to_owned(), rfc3339),
            output::harmless(&key.name),
        ]
    }));
    output::columns(&rows)
        .iter()
        .try_for_each(|line| output::say(line))
}

async fn revoke(config: &Config, id: ApiKeyId, json: bool) -> Result<(), CliError> {
    let ledger = setup::ledger(config).await?;
    let Some(key) = ledger.revoke_key(id).await? else {
        return Err(CliError::NoSuchKey(id.to_string()));
    };
    if json {
        return output::say_json(&as_json(&key, ledger.database_time().await?));
    }
    let when = key.revoked_at.map_or("now".to_owned(), rfc3339);
    output::say(&format!(
        "key {} of tenant {} is revoked since {when}",
        key.id, key.tenant
    ))
}

/// Fresh from the operating system's generator.
fn new_secret() -> Result<String, CliError> {
    let mut bytes = [0; SECRET_BYTES];
    rand::rngs::SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| CliError::Failed(format!("no randomness for a key: {error}")))?;
    Ok(format!("{SECRET_PREFIX}{}", hex::encode(bytes)))
}

fn hash_of(secret: &str) -> ContentDigest {
    let hash: [u8; 32] = Sha256::digest(secret).into();
    hash.into()
}

fn state_of(key: &api_keys::Model, now: DateTime<Utc>) -> &'static str {
    match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(end)) if end <= now => "expired",
        (None, _) => "working",
    }
}

fn as_json(key: &api_keys::Model, now: DateTime<Utc>) -> serde_json::Value {
    json!({
        "id": key.id.to_string(),
        "tenant": key.tenant,
        "name": key.name,
        "scopes": key.scopes.split(',').collect::<Vec<_>>(),
        "state": state_of(key, now),
        "created_at": rfc3339(key.created_at),
        "expires_at": key.expires_at.map(rfc3339),
        "revoked_at": key.revoked_at.map(rfc3339),
    })
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_and_never_the_same() {
        let (one, other) = (new_secret().expect("random"), new_secret().expect("random"));
        assert_ne!(one, other);
        assert_eq!(one.len(), SECRET_PREFIX.len() + 2 * SECRET_BYTES);
        assert_ne!(hash_of(&one), hash_of(&other));
    }
}
