//! What no single value can say: ranges, and rules between keys. Every broken rule is reported.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::problem::ConfigProblem;
use super::redact::shown_value;
use super::sources::lookup;
use super::units::format_bytes;
use super::{AuthMode, Config, StorageBackend};

/// The largest object that one PUT may write: Amazon S3's own limit, and its imitators'.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const S3_MAX_PUT_BYTES: u64 = 5 << 30;
/// An S3 key has at most 1024 bytes; a digest, a generation and their slashes take 105.
const MAX_PREFIX_BYTES: usize = 512;
/// Standard Webhooks: a secret is 24 to 64 random bytes.
/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
const WEBHOOK_SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Far above any use, and far below what dates can be counted with.
const TEN_YEARS: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// PostgreSQL's time-outs are 32-bit milliseconds.
const POSTGRES_MAX_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Slower than this, a piece of an object takes so long that stores take the reader for dead.
const MIN_READ_RATE: u64 = 64 << 10;
const MILLISECOND: Duration = Duration::from_millis(1);

/// Collects broken rules.
struct Rules {
    /// The configuration as a tree, to show values from.
    tree: Value,
    problems: Vec<ConfigProblem>,
}

impl Rules {
    /// Notes a problem of `key` unless `holds`.
    fn demand(&mut self, holds: bool, key: &str, rule: impl Into<String>, hint: impl Into<String>) {
        self.demand_with(holds, key, &[], rule, hint);
    }

    /// As [`Rules::demand`], for a rule that is about other keys too.
    fn demand_with(
        &mut self,
        holds: bool,
        key: &str,
        with: &'static [&'static str],
        rule: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if holds {
            return;
        }
        let value = lookup(&self.tree, key).map(Value::to_string);
        self.problems.push(ConfigProblem {
            key: key.to_owned(),
            value: value.map(|value| shown_value(key, &value)),
            source: "default".to_owned(),
            rule: rule.into(),
            hint: hint.into(),
            with,
        });
    }

    fn demand_range<T: Copy + PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        value: T,
        range: std::ops::RangeInclusive<T>,
        hint: &str,
    ) {
        let rule = format!("{} to {}", range.start(), range.end());
        self.demand(range.contains(&value), key, rule, hint);
    }

    fn demand_time(&mut self, key: &str, value: Duration, least: Duration, most: Duration) {
        let rule = format!(
            "{} to {}",
            humantime::format_duration(least),
            humantime::format_duration(most)
        );
        let hint = "choose a time in this range";
        self.demand((least..=most).contains(&value), key, rule, hint);
    }
}

impl Config {
    /// Every rule that the values break together; empty when the configuration can be used.
    pub fn validate(&self) -> Vec<ConfigProblem> {
        let mut rules = Rules {
            tree: serde_json::to_value(self).expect("settings are plain numbers, texts and lists"),
            problems: Vec::new(),
        };
        self.check_server(&mut rules);
        self.check_database(&mut rules);
        self.check_prefix(&mut rules);
        if self.storage.backend == StorageBackend::S3 {
            self.check_s3(&mut rules);
            self.check_s3_puts(&mut rules);
        } else {
            rules.demand(
                !self.storage.local.path.as_os_str().is_empty(),
                "storage.local.path",
                "a folder",
                "name the folder that holds the objects",
            );
        }
        self.check_upload(&mut rules);
        self.check_deadlines(&mut rules);
        self.check_background(&mut rules);
        self.check_verify(&mut rules);
        self.check_webhooks(&mut rules);
        rules.demand(
            !self.log.level.is_empty() && EnvFilter::builder().parse(&self.log.level).is_ok(),
            "log.level",
            "a level (error, warn, info, debug, trace) or a list of target=level",
            "for example info, or hapax=debug,warn",
        );
        rules.problems
    }

    fn check_server(&self, rules: &mut Rules) {
        let server = &self.server;
        rules.demand_with(
            server.bind.ip().is_loopback()
                || self.auth.mode == AuthMode::Keys
                || self.auth.allow_anonymous,
            "server.bind",
            &["auth.mode", "auth.allow_anonymous"],
            "a loopback address while auth.mode is none",
            "set auth.mode = \"keys\" and make a key with `hapax keys create`, or set \
             auth.allow_anonymous = true to let everyone who reaches the address read, upload and delete",
        );
        rules.demand_range(
            "server.workers",
            server.workers,
            0..=1024,
            "0 means one per core",
        );
        rules.demand_range(
            "server.max_connections",
            server.max_connections,
            1..=1_000_000,
            "keep it below the limit of open files",
        );
        rules.demand_time(
            "server.drain_timeout",
            server.drain_timeout,
            Duration::ZERO,
            TEN_YEARS,
        );
    }

    fn check_database(&self, rules: &mut Rules) {
        let database = &self.database;
        let known_scheme = ["sqlite:", "postgres://", "postgresql://"]
            .iter()
            .any(|scheme| database.url.starts_with(scheme));
        rules.demand(
            known_scheme,
            "database.url",
            "a URL of sqlite: or postgres:",
            "for example sqlite://hapax-data/hapax.db or postgres://user:password@host/hapax",
        );
        let path = database
            .url
            .strip_prefix("sqlite:")
            .map(|path| path.trim_start_matches('/'));
        rules.demand(
            path.is_none_or(|path| !path.is_empty() && !database.url.contains(":memory:")),
            "database.url",
            "a file: rows in memory would be lost while their objects stay",
            "for example sqlite://hapax-data/hapax.db",
        );
        rules.demand_range(
            "database.max_connections",
            database.max_connections,
            1..=10_000,
            "keep the sum over all nodes below the database's own limit",
        );
        for (key, timeout) in [
            ("database.statement_timeout", database.statement_timeout),
            ("database.lock_timeout", database.lock_timeout),
        ] {
            rules.demand_time(key, timeout, MILLISECOND, POSTGRES_MAX_TIMEOUT);
        }
    }

    fn check_prefix(&self, rules: &mut Rules) {
        let prefix = &self.storage.s3.prefix;
        let sound = |part: &str| {
            !matches!(part, "" | "." | "..") && !part.chars().any(|c| c.is_control() || c == '\\')
        };
        rules.demand(
            prefix.is_empty() || (prefix.len() <= MAX_PREFIX_BYTES && prefix.split('/').all(sound)),
            "storage.s3.prefix",
            format!(
                "empty, or names divided by single slashes: none at either end, no `.` or `..`, \
                 at most {MAX_PREFIX_BYTES} bytes"
            ),
            "for example hapax or team/uploads",
        );
    }

    fn check_s3(&self, rules: &mut Rules) {
        let s3 = &self.storage.s3;
        rules.demand_with(
            !s3.bucket.is_empty() && !s3.bucket.contains(|c: char| c == '/' || c.is_whitespace()),
            "storage.s3.bucket",
            &["storage.backend"],
            "the name of a bucket while storage.backend is s3",
            "create a bucket for Hapax alone and name it here",
        );
        rules.demand(
            s3.endpoint.as_deref().is_none_or(is_http_url),
            "storage.s3.endpoint",
            "a URL of http:// or https:// with a host, or empty for AWS",
            "for example http://127.0.0.1:3900",
        );
        rules.demand_with(
            s3.access_key_id.is_some() == s3.secret_access_key.is_some(),
            "storage.s3.access_key_id",
            &["storage.s3.secret_access_key"],
            "set together with storage.s3.secret_access_key, or neither",
            "set both, or none to use AWS's own chain (environment, profile, instance role)",
        );
        rules.demand_range(
            "storage.s3.max_concurrency",
            s3.max_concurrency,
            1..=10_000,
            "64 keeps a fast link busy",
        );
        for (key, timeout) in [
            ("storage.s3.connect_timeout", s3.connect_timeout),
            ("storage.s3.operation_timeout", s3.operation_timeout),
        ] {
            rules.demand_time(key, timeout, MILLISECOND, TEN_YEARS);
        }
        rules.demand(
            s3.min_throughput >= 1,
            "storage.s3.min_throughput",
            "at least 1 B",
            "bytes a second that a transfer is granted",
        );
    }

    /// What one PUT can carry, and in which time.
    fn check_s3_puts(&self, rules: &mut Rules) {
        let s3 = &self.storage.s3;
        rules.demand_with(
            self.upload.max_bytes <= S3_MAX_PUT_BYTES,
            "upload.max_bytes",
            &["storage.backend"],
            format!(
                "at most {} while storage.backend is s3: one PUT takes no more",
                format_bytes(S3_MAX_PUT_BYTES)
            ),
            "lower it, or use the local store",
        );
        rules.demand_with(
            self.upload.lease > s3.operation_timeout,
            "upload.lease",
            &["storage.s3.operation_timeout"],
            format!(
                "longer than storage.s3.operation_timeout, {}: a PUT must end while its writer owns the row",
                humantime::format_duration(s3.operation_timeout)
            ),
            "raise upload.lease, and upload.put_deadline with it, or lower the time-out",
        );
    }

    fn check_upload(&self, rules: &mut Rules) {
        let upload = &self.upload;
        rules.demand(
            (1..=i64::MAX as u64).contains(&upload.max_bytes),
            "upload.max_bytes",
            "at least 1 B, and less than 8388608 TiB",
            "the largest file that is taken",
        );
        rules.demand_with(
            upload.memory_threshold <= upload.memory_budget,
            "upload.memory_threshold",
            &["upload.memory_budget"],
            format!(
                "at most upload.memory_budget, {}",
                format_bytes(upload.memory_budget)
            ),
            "lower it, or raise upload.memory_budget",
        );
        // One body's share of the budget is counted in 32 bits.
        rules.demand(
            upload.memory_threshold < 1 << 32,
            "upload.memory_threshold",
            "less than 4 GiB",
            "larger bodies are better off in a file",
        );
        rules.demand(
            (1..=1 << 50).contains(&upload.memory_budget),
            "upload.memory_budget",
            "1 B to 1024 TiB",
            "bytes of memory for all uploads in flight",
        );
        rules.demand(
            !upload.accept.is_empty() && upload.accept.iter().all(|entry| is_media_range(entry)),
            "upload.accept",
            "at least one media type or range: type/subtype, type/* or */*",
            "for example [\"image/*\", \"application/pdf\"], or [\"*/*\"] for everything",
        );
        rules.demand_range(
            "upload.max_files",
            upload.max_files,
            1..=1000,
            "files in one request",
        );
        for (key, time) in [
            ("upload.idle_timeout", upload.idle_timeout),
            ("upload.min_rate_after", upload.min_rate_after),
        ] {
            rules.demand_time(key, time, MILLISECOND, TEN_YEARS);
        }
    }

    fn check_deadlines(&self, rules: &mut Rules) {
        let upload = &self.upload;
        rules.demand_time("upload.lease", upload.lease, MILLISECOND, TEN_YEARS);
        rules.demand_time(
            "upload.put_deadline",
            upload.put_deadline,
            MILLISECOND,
            TEN_YEARS,
        );
        rules.demand_with(
            upload.put_deadline >= upload.lease,
            "upload.put_deadline",
            &["upload.lease"],
            format!(
                "at least upload.lease, {}: a writer may still be sending until its lease ends",
                humantime::format_duration(upload.lease)
            ),
            "raise it; four times the lease leaves room for a store that finishes late",
        );
    }

    fn check_background(&self, rules: &mut Rules) {
        rules.demand_range(
            "refcount.shards",
            self.refcount.shards,
            0..=256,
            "0 chooses by database",
        );
        rules.demand_range(
            "refcount.queue",
            self.refcount.queue,
            1..=1_000_000,
            "operations that may wait before uploads are refused",
        );
        let cleanup = &self.cleanup;
        for (key, time) in [
            ("cleanup.grace_period", cleanup.grace_period),
            ("cleanup.older_than", cleanup.older_than),
        ] {
            rules.demand_time(key, time, Duration::ZERO, TEN_YEARS);
        }
        let hour = Duration::from_secs(60 * 60);
        rules.demand_time(
            "cleanup.interval",
            cleanup.interval,
            10 * MILLISECOND,
            24 * hour,
        );
        rules.demand_range(
            "cleanup.limit",
            cleanup.limit,
            1..=1_000_000,
            "originals in one run",
        );
    }

    fn check_verify(&self, rules: &mut Rules) {
        let verify = &self.verify;
        rules.demand_time(
            "verify.interval",
            verify.interval,
            1000 * MILLISECOND,
            TEN_YEARS,
        );
        rules.demand_range(
            "verify.rate",
            verify.rate,
            1..=1_000_000,
            "rows and objects looked at a second; verify.enabled = false turns it off",
        );
        rules.demand(
            verify.read_rate >= MIN_READ_RATE,
            "verify.read_rate",
            format!("at least {}", format_bytes(MIN_READ_RATE)),
            "a store ends a connection that is read too slowly; lower verify.deep_sample to read less",
        );
    }

    fn check_webhooks(&self, rules: &mut Rules) {
        rules.demand(
            (HOUR..=TEN_YEARS).contains(&self.webhooks.deletions.retention),
            "webhooks.deletions.retention",
            "from an hour to ten years",
            "longer than the sender repeats a delivery: its documentation says how long that is",
        );
        let secrets = &self.webhooks.deletions.secrets;
        let bad: Vec<_> = (1..)
            .zip(secrets)
            .filter(|(_, secret)| !is_webhook_secret(secret))
            .map(|(position, _)| position.to_string())
            .collect();
        rules.demand(
            bad.is_empty(),
            "webhooks.deletions.secrets",
            format!(
                "each `whsec_` and the base64 of {} to {} bytes; not so: number {}",
                WEBHOOK_SECRET_BYTES.start(),
                WEBHOOK_SECRET_BYTES.end(),
                bad.join(", ")
            ),
            "make one with: echo \"whsec_$(openssl rand -base64 32)\"",
        );
    }
}

fn is_http_url(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.host().is_some_and(|h| !h.is_empty())
    })
}

/// `type/subtype`, `type/*` or `*/*`; the names are tokens as in RFC 9110, section 8.3.1.
fn is_media_range(entry: &str) -> bool {
    let token = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&b))
    };
    match entry.split_once('/') {
        Some(("*", "*")) => true,
        Some((kind, "*")) => token(kind),
        Some((kind, subtype)) => token(kind) && token(subtype),
        None => false,
    }
}

fn is_webhook_secret(secret: &str) -> bool {
    secret
        .strip_prefix("whsec_")
        .and_then(|encoded| STANDARD.decode(encoded).ok())
        .is_some_and(|bytes| WEBHOOK_SECRET_BYTES.contains(&bytes.len()))
}
