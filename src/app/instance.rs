//! The server without its sockets: database, store, spool and actors, put together in order and
//! taken apart in order.

use std::sync::Arc;
use std::time::Duration;

use super::instance_lock::InstanceLock;
use super::pipeline::Pipeline;
use super::{AppError, open_spool, open_store};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::reap::{StoreIdentity, StoreMatch};
use crate::service::Service;
use crate::store::BlobStore;

/// A node at work. [`serve`](super::serve) puts HTTP before it; tests drive its [`Service`] and end
/// it as a crash would.
#[derive(Debug)]
pub struct Instance {
    ledger: Ledger,
    pipeline: Pipeline,
    _lock: InstanceLock,
}

impl Instance {
    /// Migrates the database, opens the store, starts the actors. Call it inside an actix system.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn start(config: &Config) -> Result<Self, AppError> {
        Self::start_with(config, |store| store).await
    }

    /// As [`Instance::start`], with a store of the caller's before the configured one.
    ///
    /// # Errors
    /// See [`AppError`].
    #[doc(hidden)]
    pub async fn start_with(
        config: &Config,
        wrap: impl FnOnce(Arc<dyn BlobStore>) -> Arc<dyn BlobStore>,
    ) -> Result<Self, AppError> {
        let lock = InstanceLock::take(&config.database.url)?;
        let ledger = Ledger::connect(&config.database).await?;
        ledger.migrate_up(&config.database).await?;
        let store = wrap(open_store(config).await?);
        let identity = StoreIdentity::new(ledger.clone(), store.clone());
        if let StoreMatch::NotOurs { expected, found } = identity.ensure().await? {
            tracing::error!(
                ?expected,
                ?found,
                "the object store does not belong to this database: nothing will be deleted from it"
            );
        }
        let spool = open_spool(config)?;
        let pipeline = Pipeline::start(config, &ledger, &store, identity, spool);
        Ok(Self {
            ledger,
            pipeline,
            _lock: lock,
        })
    }

    /// What it can do.
    pub fn service(&self) -> Service {
        self.pipeline.service()
    }

    /// The database.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Finishes what is in flight, then closes the database. Nothing may arrive any more.
    ///
    /// # Errors
    /// [`AppError::DrainTimeout`] when something was still in flight after `drain_timeout`.
    pub async fn drain(&self, drain_timeout: Duration) -> Result<(), AppError> {
        tokio::time::timeout(drain_timeout, self.pipeline.drain())
            .await
            .map_err(|_| AppError::DrainTimeout(drain_timeout))?;
        self.ledger.clone().close().await;
        Ok(())
    }

    /// Ends it as the end of the process would: every task stops where it waits and is never
    /// resumed. What a thread does right now (one write to the disk, one statement) comes to its end
    /// before this returns; what was sent to a server may still take effect there. After a drain only
    /// the threads are left to end.
    #[doc(hidden)]
    pub fn crash(self) {
        self.pipeline.crash();
    }
}
