//! Starts every actor once, each on an arbiter of its own kind, downstream first.

use std::sync::Arc;

use actix::prelude::*;
use sea_orm::DbBackend;

use crate::actors::Drain;
use crate::actors::background::Nudge;
use crate::actors::blob::BlobActor;
use crate::actors::dedup::{DedupActor, Resolver};
use crate::actors::hash::HashActor;
use crate::actors::refcount::{RefcountActor, Shards};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::reap::StoreIdentity;
use crate::service::Service;
use crate::spool::Spool;
use crate::store::BlobStore;
use crate::upload::Scoping;

use super::reapers::Reapers;

/// Shards on PostgreSQL, each with at most one transaction in flight: enough to keep a small server
/// busy, few enough that batches stay large.
const POSTGRES_SHARDS: usize = 4;

/// The running actors.
#[derive(Debug)]
pub(super) struct Pipeline {
    service: Service,
    hashers: Vec<Addr<HashActor>>,
    dedup: Addr<DedupActor>,
    blobs: Addr<BlobActor>,
    reapers: Reapers,
    /// Keeps the threads for as long as the actors run.
    arbiters: Vec<Arbiter>,
}

impl Pipeline {
    pub(super) fn start(
        config: &Config,
        ledger: &Ledger,
        store: &Arc<dyn BlobStore>,
        identity: StoreIdentity,
        spool: Spool,
    ) -> Self {
        let mut arbiters = Arbiters::default();
        let blobs = {
            let (store, storage) = (store.clone(), config.storage.clone());
            arbiters.start(move || BlobActor::from_config(store, &storage))
        };
        let reapers = Reapers::start(&config.cleanup, ledger, store, &identity, &blobs);
        let scoping = Scoping(config.dedup.scope);
        let refcounts = start_shards(config, ledger, &reapers.orphans(), &mut arbiters);
        let dedup = {
            let resolver = Resolver::new(
                ledger.clone(),
                store.clone(),
                blobs.clone(),
                refcounts.clone(),
                reapers.deletions(),
                scoping,
                &config.upload,
                config.storage.s3.min_throughput,
            );
            arbiters.start(move || DedupActor::new(resolver))
        };
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let hashers: Vec<_> = (0..cores)
            .map(|_| {
                let (dedup, spool) = (dedup.clone().recipient(), spool.clone());
                let upload = config.upload.clone();
                arbiters.start(move || HashActor::new(dedup, spool, upload))
            })
            .collect();
        let service = Service::new(
            ledger.clone(),
            store.clone(),
            identity,
            spool,
            hashers.clone(),
            refcounts,
            scoping,
        );
        Self {
            service,
            hashers,
            dedup,
            blobs,
            reapers,
            arbiters: arbiters.0,
        }
    }

    pub(super) fn service(&self) -> Service {
        self.service.clone()
    }

    /// Ends upstream first, so that nothing arrives at what has ended. An actor that is gone already
    /// has nothing in flight.
    pub(super) async fn drain(&self) {
        for hasher in &self.hashers {
            let _ = hasher.send(Drain).await;
        }
        let _ = self.dedup.send(Drain).await;
        self.reapers.drain().await;
        let _ = self.blobs.send(Drain).await;
    }

    /// Ends every thread with all that waits on it.
    pub(super) fn crash(self) {
        let Self {
            arbiters, reapers, ..
        } = self;
        let arbiters: Vec<_> = arbiters
            .into_iter()
            .chain([reapers.into_arbiter()])
            .collect();
        for arbiter in &arbiters {
            arbiter.stop();
        }
        for arbiter in arbiters {
            // One that panicked has ended, too.
            let _ = arbiter.join();
        }
    }
}

#[derive(Default)]
struct Arbiters(Vec<Arbiter>);

impl Arbiters {
    /// Starts an actor on a thread of its own.
    fn start<A: Actor<Context = Context<A>>>(
        &mut self,
        make: impl FnOnce() -> A + Send + 'static,
    ) -> Addr<A> {
        let arbiter = Arbiter::new();
        let address = A::start_in_arbiter(&arbiter.handle(), |_| make());
        self.0.push(arbiter);
        address
    }
}

fn start_shards(
    config: &Config,
    ledger: &Ledger,
    reaper: &Recipient<Nudge>,
    arbiters: &mut Arbiters,
) -> Shards {
    let count = match (config.refcount.shards, ledger.backend()) {
        (0, DbBackend::Postgres) => POSTGRES_SHARDS,
        // SQLite has one writer.
        (0, _) => 1,
        (count, _) => count,
    };
    let shards = (0..count)
        .map(|_| {
            let (ledger, reaper) = (ledger.clone(), reaper.clone());
            let (grace_period, queue) = (config.cleanup.grace_period, config.refcount.queue);
            arbiters.start(move || RefcountActor::new(ledger, grace_period, reaper, queue))
        })
        .collect();
    Shards::new(shards)
}
