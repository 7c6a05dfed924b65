//! One struct per section, each with its defaults.
//!
//! What holds a secret has a hand-written `Debug`, so that no log line and no panic can print it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::redact::{hidden, url_without_password};
use super::units;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it listens.
    pub server: ServerConfig,
    /// Where the rows are.
    pub database: DatabaseConfig,
    /// Where the bytes are.
    pub storage: StorageConfig,
    /// What uploads may cost.
    pub upload: UploadConfig,
    /// What counts as the same content.
    pub dedup: DedupConfig,
    /// The actors that count references.
    pub refcount: RefcountConfig,
    /// When bytes go.
    pub cleanup: CleanupConfig,
    /// The trickle that verifies.
    pub verify: VerifyConfig,
    /// Who may call.
    pub auth: AuthConfig,
    /// Webhooks in.
    pub webhooks: WebhooksConfig,
    /// What is logged.
    pub log: LogConfig,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port; port 0 picks a free one.
    #[serde(with = "units::socket_address")]
    pub bind: SocketAddr,
    /// Threads that serve sockets; 0: one per core.
    pub workers: usize,
    /// How long a stop waits for what is in flight.
    #[serde(with = "units::duration")]
    pub drain_timeout: Duration,
    /// Connections served at once; more wait in the kernel's backlog.
    pub max_connections: usize,
}

/// `[database]`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `sqlite://path` or `postgres://…`.
    pub url: String,
    /// Connections in the pool (on SQLite: readers; there is one writer besides).
    pub max_connections: u32,
    /// The longest one statement may run (PostgreSQL).
    #[serde(with = "units::duration")]
    pub statement_timeout: Duration,
    /// The longest one statement may wait for a row lock (PostgreSQL; SQLite's busy timeout).
    #[serde(with = "units::duration")]
    pub lock_timeout: Duration,
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// Which store.
    pub backend: StorageBackend,
    /// `[storage.local]`
    pub local: LocalStorageConfig,
    /// `[storage.s3]`
    pub s3: S3StorageConfig,
}

/// `local` or `s3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageBackend {
    /// A folder.
    #[default]
    Local,
    /// An S3-compatible bucket.
    S3,
}

/// `[storage.local]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalStorageConfig {
    /// The folder.
    pub path: PathBuf,
}

/// `[storage.s3]`; what is `None` comes from AWS's own chain.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3StorageConfig {
    /// The bucket.
    pub bucket: String,
    /// Keys begin with it; no leading or trailing slash.
    pub prefix: String,
    /// `http://host:port` of a store other than AWS.
    #[serde(with = "units::optional_text")]
    pub endpoint: Option<String>,
    /// The region to sign for.
    #[serde(with = "units::optional_text")]
    pub region: Option<String>,
    /// `http://host/bucket/key` instead of `http://bucket.host/key`.
    pub path_style: bool,
    /// Access key.
    #[serde(with = "units::optional_text")]
    pub access_key_id: Option<String>,
    /// Secret key.
    #[serde(with = "units::optional_text")]
    pub secret_access_key: Option<String>,
    /// Requests in flight at once.
    pub max_concurrency: usize,
    /// How long a connection may take to open.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// How long a request may take, besides the time its bytes take at `min_throughput`.
    #[serde(with = "units::duration")]
    pub operation_timeout: Duration,
    /// Bytes a second that a transfer is granted; a lease grows by the time its bytes take at it.
    #[serde(with = "units::bytes")]
    pub min_throughput: u64,
}

/// `[upload]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadConfig {
    /// The largest file, in bytes.
    #[serde(with = "units::bytes")]
    pub max_bytes: u64,
    /// A file up to this stays in memory.
    #[serde(with = "units::bytes")]
    pub memory_threshold: u64,
    /// Bytes in memory for all bodies together.
    #[serde(with = "units::bytes")]
    pub memory_budget: u64,
    /// Sniffed types that are taken: `image/*`, `*/*`, `image/png`.
    pub accept: Vec<String>,
    /// Files in one multipart request.
    pub max_files: usize,
    /// How long a client may send nothing.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// Bytes a second below which an upload is ended, averaged from `min_rate_after` on.
    #[serde(with = "units::bytes")]
    pub min_rate: u64,
    /// How long an upload may be slow.
    #[serde(with = "units::duration")]
    pub min_rate_after: Duration,
    /// Where large bodies wait; empty: inside the local store, or `hapax-data/spool` with S3.
    pub spool_path: PathBuf,
    /// How long a pending row is left to its writer.
    #[serde(with = "units::duration")]
    pub lease: Duration,
    /// How long after its announcement a PUT may still land.
    #[serde(with = "units::duration")]
    pub put_deadline: Duration,
}

/// `[dedup]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupConfig {
    /// Who shares originals.
    pub scope: DedupScope,
}

/// `tenant` or `global`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DedupScope {
    /// Each tenant its own originals: nobody learns what others have.
    #[default]
    Tenant,
    /// All tenants share.
    Global,
}

/// `[refcount]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefcountConfig {
    /// Actors that count, each for its part of the hash space; 0: 1 on SQLite, on
    /// PostgreSQL one for every two cores, at most 4.
    pub shards: usize,
    /// Operations that may wait in one shard before uploads are refused with 503.
    pub queue: usize,
}

/// `[cleanup]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CleanupConfig {
    /// How long an original with count 0 is kept.
    #[serde(with = "units::duration")]
    pub grace_period: Duration,
    /// How often the reapers look.
    #[serde(with = "units::duration")]
    pub interval: Duration,
    /// `hapax cleanup`: count 0 for at least this long.
    #[serde(with = "units::duration")]
    pub older_than: Duration,
    /// `hapax cleanup`: at most this many originals.
    pub limit: u64,
}

/// `[verify]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyConfig {
    /// Whether the server verifies by itself, slowly.
    pub enabled: bool,
    /// From the beginning of a pass to the beginning of the next.
    #[serde(with = "units::duration")]
    pub interval: Duration,
    /// Rows and objects looked at a second, by all nodes together.
    pub rate: u64,
    /// Share of all objects that a pass reads and hashes, in millionths; 0: none.
    #[serde(with = "units::percent")]
    pub deep_sample: u32,
    /// Bytes a second that it reads for that.
    #[serde(with = "units::bytes")]
    pub read_rate: u64,
}

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// Whether keys are asked for.
    pub mode: AuthMode,
    /// Serve the network without keys.
    pub allow_anonymous: bool,
}

/// `none` or `keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// One tenant, `default`; everybody is admin.
    #[default]
    None,
    /// `Authorization: Bearer <key>`.
    Keys,
}

/// `[webhooks]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhooksConfig {
    /// `[webhooks.deletions]`
    pub deletions: DeletionWebhookConfig,
}

/// `[webhooks.deletions]`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletionWebhookConfig {
    /// Standard Webhooks secrets (`whsec_…`); any of them may have signed. None: the route is 404.
    pub secrets: Vec<String>,
    /// How long the first answer to a delivery is kept for its repetitions.
    #[serde(with = "units::duration")]
    pub retention: Duration,
}

impl Default for DeletionWebhookConfig {
    fn default() -> Self {
        Self {
            secrets: Vec::new(),
            // Senders repeat for days, not for weeks.
            retention: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A `tracing` filter: `info`, `hapax=debug,warn`.
    pub level: String,
}

/// `text` or `json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            workers: 0,
            drain_timeout: Duration::from_secs(30),
            max_connections: 25_000,
        }
    }
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: "sqlite://hapax-data/hapax.db".to_owned(),
            max_connections: 16,
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for LocalStorageConfig {
    fn default() -> Self {
        Self {
            path: "hapax-data/objects".into(),
        }
    }
}

impl Default for S3StorageConfig {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: "hapax".to_owned(),
            endpoint: None,
            region: None,
            path_style: false,
            access_key_id: None,
            secret_access_key: None,
            max_concurrency: 64,
            connect_timeout: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(30),
            min_throughput: MIB,
        }
    }
}

impl Default for UploadConfig {
    fn default() -> Self {
        Self {
            max_bytes: 5 * GIB,
            memory_threshold: MIB,
            memory_budget: 256 * MIB,
            accept: vec!["*/*".to_owned()],
            max_files: 100,
            idle_timeout: Duration::from_secs(30),
            min_rate: KIB,
            min_rate_after: Duration::from_secs(60),
            spool_path: PathBuf::new(),
            lease: Duration::from_secs(15 * 60),
            put_deadline: Duration::from_secs(60 * 60),
        }
    }
}

impl Default for RefcountConfig {
    fn default() -> Self {
        Self {
            shards: 0,
            queue: 4096,
        }
    }
}

impl Default for CleanupConfig {
    fn default() -> Self {
        Self {
            grace_period: Duration::ZERO,
            interval: Duration::from_secs(5),
            older_than: Duration::from_secs(24 * 60 * 60),
            limit: 100,
        }
    }
}

impl Default for VerifyConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(24 * 60 * 60),
            rate: 100,
            deep_sample: 0,
            read_rate: 4 * MIB,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            max_connections,
            statement_timeout,
            lock_timeout,
        } = self;
        f.debug_struct("DatabaseConfig")
            .field("url", &url_without_password(url))
            .field("max_connections", max_connections)
            .field("statement_timeout", statement_timeout)
            .field("lock_timeout", lock_timeout)
            .finish()
    }
}

impl fmt::Debug for S3StorageConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bucket,
            prefix,
            endpoint,
            region,
            path_style,
            access_key_id,
            secret_access_key,
            max_concurrency,
            connect_timeout,
            operation_timeout,
            min_throughput,
        } = self;
        f.debug_struct("S3StorageConfig")
            .field("bucket", bucket)
            .field("prefix", prefix)
            .field("endpoint", endpoint)
            .field("region", region)
            .field("path_style", path_style)
            .field("access_key_id", access_key_id)
            .field(
                "secret_access_key",
                &secret_access_key.as_deref().map(hidden),
            )
            .field("max_concurrency", max_concurrency)
            .field("connect_timeout", connect_timeout)
            .field("operation_timeout", operation_timeout)
            .field("min_throughput", min_throughput)
            .finish()
    }
}

impl fmt::Debug for DeletionWebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secrets: Vec<_> = self.secrets.iter().map(|secret| hidden(secret)).collect();
        f.debug_struct("DeletionWebhookConfig")
            .field("secrets", &secrets)
            .field("retention", &self.retention)
            .finish()
    }
}
