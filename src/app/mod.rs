//! The composition root: opens database, store and spool, starts the actors, serves, and stops in
//! order.

mod instance;
mod instance_lock;
mod pipeline;
mod reapers;

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, StorageBackend, StorageConfig};
use crate::http;
use crate::ledger::LedgerError;
use crate::reap::IdentityError;
use crate::spool::{Caching, KnownOriginals, Spool};
use crate::store::{BlobStore, StoreError};
pub use instance::Instance;

/// How often the actors are looked after.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Why the server could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// `server.bind`.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database did not answer, or a migration failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store cannot be used.
    #[error("the object store cannot be used: {0}")]
    Store(#[from] StoreError),
    /// Nobody could say whose store this is.
    #[error("cannot compare the store's id with the database's: {0}")]
    Identity(#[from] IdentityError),
    /// The SQLite database's folder or lock file cannot be used.
    #[error("cannot keep the database in {}: {source}", path.display())]
    DatabaseFolder {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another `hapax serve` has this SQLite database.
    #[error("another `hapax serve` is running on this database: {lock_file} is locked")]
    AlreadyServing {
        /// The file that it locked.
        lock_file: String,
    },
    /// The spool's folder cannot be used.
    #[error("cannot spool in {}: {source}", path.display())]
    Spool {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The HTTP server or a signal handler failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// An actor ended by a panic: its callers would wait for ever.
    #[error("an actor ended unexpectedly")]
    ActorLost,
    /// Something was still in flight when `server.drain_timeout` was over.
    #[error("uploads were still in flight after {0:?}")]
    DrainTimeout(Duration),
}

/// Takes as many open files as the system lets this process have: the usual 1024 is less than
/// `server.max_connections`, and a connection takes two.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files stays where it is");
    }
}

/// Runs the server until SIGINT or SIGTERM, then finishes what is in flight. Call it inside an
/// actix system.
///
/// # Errors
/// See [`AppError`].
pub async fn serve(config: Config) -> Result<(), AppError> {
    let mut signals = Signals::listen()?;
    raise_open_files();
    let instance = Instance::start(&config).await?;
    let address = config.server.bind;
    let listener =
        TcpListener::bind(address).map_err(|source| AppError::Bind { address, source })?;
    let bound = listener.local_addr()?;
    let service = instance.service();
    let draining = Arc::new(AtomicBool::new(false));
    let server = http::serve(
        listener,
        service.clone(),
        instance.ledger().clone(),
        &config,
        draining.clone(),
    )?;
    let handle = server.handle();
    let serving = actix_rt::spawn(server);
    announce(bound);

    let lost = tokio::select! {
        () = signals.next() => false,
        () = actor_lost(&service) => true,
    };
    draining.store(true, Ordering::Relaxed);
    tracing::info!("stopping: finishing what is in flight");
    tokio::select! {
        () = handle.stop(true) => {}
        () = signals.next() => handle.stop(false).await,
    }
    // The server's own future only repeats that it stopped.
    let _ = serving.await;
    if lost {
        return Err(AppError::ActorLost);
    }
    instance.drain(config.server.drain_timeout).await?;
    tracing::info!("stopped");
    Ok(())
}

/// The store as the protocol wants it: a PUT ends well inside its writer's lease, and what the
/// store really checks is known before the first upload.
async fn open_store(config: &Config) -> Result<Arc<dyn BlobStore>, StoreError> {
    let mut storage: StorageConfig = config.storage.clone();
    storage.s3.operation_timeout = storage.s3.operation_timeout.min(config.upload.lease / 2);
    let store = crate::store::open(&storage).await?;
    let capabilities = store.probe().await?;
    tracing::info!(?capabilities, "object store opened");
    if !capabilities.verifies_checksum {
        tracing::warn!(
            "this object store takes a PUT whose SHA-256 is wrong: only the connection's own \
             checks stand between a flipped bit and a stored original"
        );
    }
    Ok(store)
}

/// Large bodies wait in the local store's own file system, so that they need not be copied: what is
/// spooled is what will be stored. For S3 they are read again at once, or forgotten.
fn open_spool(config: &Config) -> Result<Spool, AppError> {
    let upload = &config.upload;
    let path = match config.storage.backend {
        _ if !upload.spool_path.as_os_str().is_empty() => upload.spool_path.clone(),
        StorageBackend::Local => crate::store::LocalStore::spool_dir(&config.storage.local.path),
        StorageBackend::S3 => PathBuf::from("hapax-data/spool"),
    };
    let caching = match config.storage.backend {
        StorageBackend::Local => Caching::Direct,
        StorageBackend::S3 => Caching::Cached,
    };
    let spool = Spool::open(
        &path,
        upload.memory_budget,
        upload.memory_threshold,
        caching,
    )
    .map_err(|source| AppError::Spool { path, source })?;
    Ok(match config.storage.backend {
        StorageBackend::Local => spool.recognising(KnownOriginals::default()),
        StorageBackend::S3 => spool,
    })
}

/// The one line on stdout that scripts wait for.
fn announce(bound: std::net::SocketAddr) {
    tracing::info!(%bound, "serving");
    let mut stdout = std::io::stdout().lock();
    // Nobody has to read it.
    let _ = writeln!(stdout, "listening on http://{bound}").and_then(|()| stdout.flush());
}

/// Ends when an actor has: a panic is not caught, and every later message to it would fail.
async fn actor_lost(service: &crate::service::Service) {
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        if !service.is_alive() {
            tracing::error!("an actor ended unexpectedly: stopping");
            return;
        }
    }
}

/// Both ways of being asked to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Only kept: while somebody listens, a write past a limit on file sizes is an error like a full
    /// disk, and not the end of the process.
    _file_too_large: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let too_large = rustix::process::Signal::XFSZ.as_raw();
        Ok(Self {
            interrupt,
            terminate,
            _file_too_large: signal(SignalKind::from_raw(too_large))?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
