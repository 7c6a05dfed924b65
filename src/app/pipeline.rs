//! Starts every actor once, on arbiters that live as long as the server, downstream first.

use std::sync::Arc;

use actix::prelude::*;
use sea_orm::DbBackend;

use crate::actors::Drain;
use crate::actors::background::Nudge;
use crate::actors::blob::BlobActor;
use crate::actors::dedup::{DedupActor, Resolver};
use crate::actors::hash::{HashActor, Hashers};
use crate::actors::refcount::{RefcountActor, Shards};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::reap::StoreIdentity;
use crate::service::Service;
use crate::spool::Spool;
use crate::store::BlobStore;
use crate::upload::Scoping;

use super::reapers::Reapers;

/// The most shards on PostgreSQL, each with at most one transaction in flight. Few, so that batches are
/// large: on two cores, which PostgreSQL has to share, one shard costs a third less CPU than four.
const MAX_POSTGRES_SHARDS: usize = 4;
/// So many cores for each shard.
const CORES_PER_SHARD: usize = 2;

/// The running actors.
#[derive(Debug)]
pub(super) struct Pipeline {
    service: Service,
    hasher: Addr<HashActor>,
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
        let mut arbiters = Arbiters::for_database(ledger.backend());
        let blobs = {
            let (store, storage) = (store.clone(), config.storage.clone());
            arbiters.start(move || BlobActor::from_config(store, &storage))
        };
        let reapers = Reapers::start(config, ledger, store, &identity, &blobs);
        let scoping = Scoping(config.dedup.scope);
        let refcounts = start_shards(config, ledger, &reapers.orphans(), &mut arbiters);
        let dedup = {
            let resolver = Resolver::new(
                ledger.clone(),
                store.clone(),
                spool.known().cloned(),
                blobs.clone(),
                refcounts.clone(),
                reapers.deletions(),
                scoping,
                &config.upload,
                config.storage.s3.min_throughput,
            );
            arbiters.start(move || DedupActor::new(resolver))
        };
        let make_hasher = {
            let (dedup, spool) = (dedup.clone(), spool.clone());
            let upload = Arc::new(config.upload.clone());
            move || {
                HashActor::new(
                    dedup.clone().recipient(),
                    spool.clone(),
                    upload.clone(),
                    scoping,
                )
            }
        };
        let hasher = arbiters.start_alone(make_hasher.clone());
        let service = Service::new(
            ledger.clone(),
            store.clone(),
            identity,
            spool,
            Hashers::new(hasher.clone(), make_hasher),
            refcounts,
            scoping,
        );
        Self {
            service,
            hasher,
            dedup,
            blobs,
            reapers,
            arbiters: arbiters.threads,
        }
    }

    pub(super) fn service(&self) -> Service {
        self.service.clone()
    }

    /// Ends upstream first, so that nothing arrives at what has ended. An actor that is gone already
    /// has nothing in flight.
    pub(super) async fn drain(&self) {
        let _ = self.hasher.send(Drain).await;
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
            .chain(reapers.into_arbiters())
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

/// The threads of the actors.
struct Arbiters {
    threads: Vec<Arbiter>,
    /// SQLite has one writer, so everything behind the hashers waits for the same thread anyway; and where
    /// there are few cores, more threads only wait for each other. There these actors share one, and a
    /// message from one to the next wakes nobody.
    shared: Option<ArbiterHandle>,
}

impl Arbiters {
    fn for_database(backend: DbBackend) -> Self {
        let mut arbiters = Self {
            threads: Vec::new(),
            shared: None,
        };
        if backend == DbBackend::Sqlite || cores() <= CORES_PER_SHARD {
            arbiters.shared = Some(arbiters.new_thread());
        }
        arbiters
    }

    fn new_thread(&mut self) -> ArbiterHandle {
        let arbiter = Arbiter::new();
        let handle = arbiter.handle();
        self.threads.push(arbiter);
        handle
    }

    /// Starts an actor that waits more than it works.
    fn start<A: Actor<Context = Context<A>>>(
        &mut self,
        make: impl FnOnce() -> A + Send + 'static,
    ) -> Addr<A> {
        match self.shared.clone() {
            Some(shared) => A::start_in_arbiter(&shared, |_| make()),
            None => self.start_alone(make),
        }
    }

    /// Starts an actor on a thread of its own.
    fn start_alone<A: Actor<Context = Context<A>>>(
        &mut self,
        make: impl FnOnce() -> A + Send + 'static,
    ) -> Addr<A> {
        A::start_in_arbiter(&self.new_thread(), |_| make())
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn start_shards(
    config: &Config,
    ledger: &Ledger,
    reaper: &Recipient<Nudge>,
    arbiters: &mut Arbiters,
) -> Shards {
    let count = match (config.refcount.shards, ledger.backend()) {
        (0, DbBackend::Postgres) => (cores() / CORES_PER_SHARD).clamp(1, MAX_POSTGRES_SHARDS),
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
