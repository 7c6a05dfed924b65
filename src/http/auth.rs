//! Who calls, and what they may do. [`Authed`] runs before any other extractor of a handler looks
//! at the request, so an unknown caller learns nothing and sends nothing.

use std::marker::PhantomData;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};
use entity::ContentDigest;
use futures::future::LocalBoxFuture;
use sha2::{Digest, Sha256};

use crate::config::AuthMode;
use crate::ledger::Ledger;
use crate::upload::TenantId;

use super::Settings;
use super::problem::{Code, Problem};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// See images, originals, content and counts.
    Read,
    /// Upload and delete.
    Write,
    /// Everything within the key's tenant, and everybody's counts.
    Admin,
    /// Deliver deletion webhooks.
    Webhook,
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
            Self::Webhook => "webhook",
        }
    }
}

/// The scopes of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Every scope.
    pub const ALL: Self = Self(1 << Scope::Admin as u8);

    /// Reads a comma-separated list; unknown names grant nothing.
    pub fn parse(list: &str) -> Self {
        let known = [Scope::Read, Scope::Write, Scope::Admin, Scope::Webhook];
        let granted = list
            .split(',')
            .filter_map(|name| known.into_iter().find(|scope| scope.name() == name.trim()));
        Self(granted.fold(0, |bits, scope| bits | 1 << scope as u8))
    }

    /// Whether these allow `scope`; admin allows everything.
    pub fn allow(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8 | 1 << Scope::Admin as u8) != 0
    }
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose images it reaches.
    pub tenant: TenantId,
    /// What it may do.
    pub scopes: Scopes,
}

/// A scope as a type, so that a handler's signature says what it needs.
pub trait NeededScope: 'static {
    /// The scope.
    const SCOPE: Scope;
}

/// Needs [`Scope::Read`].
#[derive(Debug)]
pub struct Reader;
/// Needs [`Scope::Write`].
#[derive(Debug)]
pub struct Writer;
/// Needs [`Scope::Webhook`].
#[derive(Debug)]
pub struct Sender;

impl NeededScope for Reader {
    const SCOPE: Scope = Scope::Read;
}
impl NeededScope for Writer {
    const SCOPE: Scope = Scope::Write;
}
impl NeededScope for Sender {
    const SCOPE: Scope = Scope::Webhook;
}

/// A caller that may do what `N` names, and then, not before, the rest of the input.
#[derive(Debug)]
pub struct Authed<N, T = ()> {
    /// Who calls.
    pub caller: Caller,
    /// What else the handler wanted.
    pub input: T,
    needed: PhantomData<N>,
}

impl<N: NeededScope, T: FromRequest + 'static> FromRequest for Authed<N, T> {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let mut payload = payload.take();
        Box::pin(async move {
            let caller = authorize(&request, N::SCOPE).await?;
            let input = T::from_request(&request, &mut payload)
                .await
                .map_err(Into::into)?;
            Ok(Self {
                caller,
                input,
                needed: PhantomData,
            })
        })
    }
}

async fn authorize(request: &HttpRequest, needed: Scope) -> Result<Caller, Problem> {
    if Settings::of(request).auth == AuthMode::None {
        return Ok(Caller {
            tenant: TenantId::default(),
            scopes: Scopes::ALL,
        });
    }
    let secret = bearer(request.headers()).ok_or_else(|| {
        Problem::new(
            Code::Unauthorized,
            "send an API key: Authorization: Bearer <key>",
        )
        .with_header(header::WWW_AUTHENTICATE, challenge("Bearer"))
    })?;
    let hash: [u8; 32] = Sha256::digest(secret).into();
    let ledger = request
        .app_data::<Data<Ledger>>()
        .ok_or_else(|| Problem::plain(Code::InternalError))?;
    let key = ledger
        .find_working_key(&ContentDigest::from(hash))
        .await?
        .ok_or_else(|| {
            Problem::new(
                Code::Unauthorized,
                "the API key is unknown, expired or revoked",
            )
            .with_header(
                header::WWW_AUTHENTICATE,
                challenge("Bearer error=\"invalid_token\""),
            )
        })?;
    let scopes = Scopes::parse(&key.scopes);
    if !scopes.allow(needed) {
        let scope = needed.name();
        return Err(
            Problem::new(Code::Forbidden, format!("the API key has no scope {scope}")).with_header(
                header::WWW_AUTHENTICATE,
                challenge(&format!(
                    "Bearer error=\"insufficient_scope\", scope=\"{scope}\""
                )),
            ),
        );
    }
    let tenant = TenantId::parse(&key.tenant).ok_or_else(|| {
        let mut problem = Problem::plain(Code::InternalError);
        problem.cause = Some(format!(
            "key {} has the malformed tenant {:?}",
            key.id, key.tenant
        ));
        problem
    })?;
    Ok(Caller { tenant, scopes })
}

/// The credential of an `Authorization: Bearer` header (RFC 6750); the scheme is case-insensitive.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION);
    let value = values.next()?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    let secret = secret.trim();
    (values.next().is_none() && scheme.eq_ignore_ascii_case("bearer") && !secret.is_empty())
        .then_some(secret)
}

fn challenge(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("challenges are made of literals")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_grant_themselves_and_admin_grants_all() {
        let all = [Scope::Read, Scope::Write, Scope::Admin, Scope::Webhook];
        for scope in all {
            for other in all {
                let expected = scope == other || scope == Scope::Admin;
                assert_eq!(Scopes::parse(scope.name()).allow(other), expected);
            }
            assert!(Scopes::ALL.allow(scope));
            assert!(!Scopes::parse("").allow(scope));
            assert!(!Scopes::parse("READ,reader,adm in").allow(scope));
        }
        let two = Scopes::parse("read, webhook");
        assert!(two.allow(Scope::Read) && two.allow(Scope::Webhook) && !two.allow(Scope::Write));
    }

    #[test]
    fn bearer_credentials() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read(&["Bearer hpx_a"]).as_deref(), Some("hpx_a"));
        assert_eq!(read(&["bearer  hpx_a"]).as_deref(), Some("hpx_a"));
        for values in [
            &[][..],
            &["Bearer"],
            &["Bearer "],
            &["hpx_a"],
            &["Basic aGE6cA=="],
            &["Bearer a", "Bearer b"],
        ] {
            assert_eq!(read(values), None, "{values:?}");
        }
    }
}
