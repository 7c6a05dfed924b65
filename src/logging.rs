//! Logs to stderr: stdout belongs to what a command prints.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{LogConfig, LogFormat};

/// What would drown everything else, unless the configured level names it: sqlx tells of every
/// statement at `info`, and the HTTP library of every request that is no HTTP at `error`, which is what
/// clients could fill a disk with.
const QUIETED: &str = "sqlx=warn,actix_http::h1::dispatcher=off";

/// Starts logging. A second call changes nothing: tests start many servers in one process.
pub fn start(config: &LogConfig) {
    // The level was checked with the configuration; a bad one here still logs what matters.
    let level = format!("{QUIETED},{}", config.level);
    let filter = EnvFilter::try_new(&level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        // It would tell of a line that stderr did not take on stderr, and panic there: a full disk
        // below the log must not end requests.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colours).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was already started");
    }
}
