//! How the servers under test are configured: short leases and deadlines, so that everything that
//! waits for one happens many times within a run.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Bodies above this go through the spool's files.
pub(crate) const MEMORY_THRESHOLD_BYTES: usize = 48 * 1024;
/// How long a writer owns its row. A server that is paused for longer finds its rows gone.
pub(crate) const LEASE: Duration = Duration::from_secs(8);
/// After this no PUT may land any more; the proxy sees to that, as a store must.
pub(crate) const PUT_DEADLINE: Duration = Duration::from_secs(30);
/// After this the server gives a call to the store up.
pub(crate) const OPERATION_TIMEOUT: Duration = Duration::from_millis(2500);

pub(crate) const BUCKET: &str = "soak";
pub(crate) const PREFIX: &str = "hapax";
pub(crate) const S3_ACCESS_KEY: &str = "hapaxsoak";
pub(crate) const S3_SECRET_KEY: &str = "hapax-soak-secret";
/// Signs deletion webhooks.
pub(crate) const WEBHOOK_SECRET: &str = "whsec_c29hay1zb2FrLXNvYWstc29hay1zb2FrLXNvYWs=";

/// Gives a `hapax` command nothing of this process's own configuration, and all of the run's.
pub(crate) fn configure(command: &mut Command, database: &str, s3: &str, spool: &Path) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("HAPAX_") || text.starts_with("AWS_") || text == "RUST_LOG" {
            command.env_remove(&name);
        }
    }
    let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
    let settings = [
        ("SERVER__BIND", "127.0.0.1:0".to_owned()),
        ("SERVER__WORKERS", "2".to_owned()),
        ("DATABASE__URL", database.to_owned()),
        ("DATABASE__MAX_CONNECTIONS", "12".to_owned()),
        ("DATABASE__LOCK_TIMEOUT", "4s".to_owned()),
        ("DATABASE__STATEMENT_TIMEOUT", "10s".to_owned()),
        ("STORAGE__BACKEND", "s3".to_owned()),
        ("STORAGE__S3__BUCKET", BUCKET.to_owned()),
        ("STORAGE__S3__PREFIX", PREFIX.to_owned()),
        ("STORAGE__S3__ENDPOINT", s3.to_owned()),
        ("STORAGE__S3__REGION", "us-east-1".to_owned()),
        ("STORAGE__S3__PATH_STYLE", "true".to_owned()),
        ("STORAGE__S3__ACCESS_KEY_ID", S3_ACCESS_KEY.to_owned()),
        ("STORAGE__S3__SECRET_ACCESS_KEY", S3_SECRET_KEY.to_owned()),
        ("STORAGE__S3__CONNECT_TIMEOUT", "1s".to_owned()),
        (
            "STORAGE__S3__OPERATION_TIMEOUT",
            milliseconds(OPERATION_TIMEOUT),
        ),
        ("UPLOAD__LEASE", milliseconds(LEASE)),
        ("UPLOAD__PUT_DEADLINE", milliseconds(PUT_DEADLINE)),
        (
            "UPLOAD__MEMORY_THRESHOLD",
            MEMORY_THRESHOLD_BYTES.to_string(),
        ),
        // Room for a few dozen bodies: some find it full, and go to disk.
        ("UPLOAD__MEMORY_BUDGET", "2 MiB".to_owned()),
        ("UPLOAD__SPOOL_PATH", spool.display().to_string()),
        ("CLEANUP__INTERVAL", "1s".to_owned()),
        (
            "WEBHOOKS__DELETIONS__SECRETS",
            format!("[\"{WEBHOOK_SECRET}\"]"),
        ),
        ("LOG__LEVEL", "warn,hapax::access=off".to_owned()),
    ];
    for (name, value) in settings {
        command.env(format!("HAPAX__{name}"), value);
    }
}
