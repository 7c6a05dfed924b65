//! Starts the background actors, all on one arbiter: they wait more than they work. The scrubber,
//! which hashes, has one of its own.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use crate::actors::Drain;
use crate::actors::background::{Background, Nudge, Work};
use crate::actors::blob::BlobActor;
use crate::actors::deletion_reaper::DeletionReaper;
use crate::actors::lease_reaper::LeaseReaper;
use crate::actors::multipart_reaper::MultipartReaper;
use crate::actors::observer::Observer;
use crate::actors::orphan_reaper::OrphanReaper;
use crate::actors::receipt_reaper::ReceiptReaper;
use crate::actors::scrubber::Scrubber;
use crate::config::Config;
use crate::ledger::Ledger;
use crate::reap::{Purger, StoreIdentity};
use crate::store::BlobStore;

/// The running background actors.
#[derive(Debug)]
pub(super) struct Reapers {
    leases: Addr<Background<LeaseReaper>>,
    orphans: Addr<Background<OrphanReaper>>,
    deletions: Addr<Background<DeletionReaper>>,
    multipart: Addr<Background<MultipartReaper>>,
    receipts: Addr<Background<ReceiptReaper>>,
    observer: Addr<Background<Observer>>,
    /// Unless `verify.enabled` is off.
    scrubber: Option<Addr<Background<Scrubber>>>,
    /// Keep their threads for as long as they run.
    arbiters: Vec<Arbiter>,
}

impl Reapers {
    pub(super) fn start(
        config: &Config,
        ledger: &Ledger,
        store: &Arc<dyn BlobStore>,
        identity: &StoreIdentity,
        blobs: &Addr<BlobActor>,
    ) -> Self {
        let arbiter = Arbiter::new();
        let (interval, grace_period) = (config.cleanup.interval, config.cleanup.grace_period);
        let purger = Purger {
            ledger: ledger.clone(),
            blobs: blobs.clone(),
        };
        let deletions = start(
            &arbiter,
            interval,
            DeletionReaper {
                purger,
                identity: identity.clone(),
            },
        );
        let orphans = OrphanReaper {
            ledger: ledger.clone(),
            identity: identity.clone(),
            grace_period,
            deletions: deletions.clone().recipient(),
        };
        let leases = LeaseReaper {
            ledger: ledger.clone(),
            deletions: deletions.clone().recipient(),
        };
        let multipart = MultipartReaper {
            store: store.clone(),
            identity: identity.clone(),
        };
        let multipart = Background::new(multipart, MultipartReaper::INTERVAL).unhurried();
        let receipts = ReceiptReaper {
            ledger: ledger.clone(),
            retention: config.webhooks.deletions.retention,
        };
        let observer = Observer {
            ledger: ledger.clone(),
            grace_period,
        };
        let scrubbing = Arbiter::new();
        let scrubber = config.verify.enabled.then(|| {
            let scrubber = Scrubber::new(config, ledger, store, identity);
            let look = scrubber.look_every();
            let background = Background::new(scrubber, look).unhurried();
            start_background(&scrubbing, background)
        });
        Self {
            leases: start(&arbiter, interval, leases),
            orphans: start(&arbiter, interval, orphans),
            deletions,
            multipart: start_background(&arbiter, multipart),
            receipts: start(&arbiter, ReceiptReaper::INTERVAL, receipts),
            observer: start(&arbiter, Observer::INTERVAL, observer),
            scrubber,
            arbiters: vec![arbiter, scrubbing],
        }
    }

    /// Whom to tell that an original lost its last reference.
    pub(super) fn orphans(&self) -> Recipient<Nudge> {
        self.orphans.clone().recipient()
    }

    /// Whom to tell that a row became `deleting`.
    pub(super) fn deletions(&self) -> Recipient<Nudge> {
        self.deletions.clone().recipient()
    }

    /// The threads they run on.
    pub(super) fn into_arbiters(self) -> Vec<Arbiter> {
        self.arbiters
    }

    /// Lets each finish its round. An actor that is gone already has none.
    pub(super) async fn drain(&self) {
        let _ = self.leases.send(Drain).await;
        let _ = self.orphans.send(Drain).await;
        let _ = self.deletions.send(Drain).await;
        let _ = self.multipart.send(Drain).await;
        let _ = self.receipts.send(Drain).await;
        let _ = self.observer.send(Drain).await;
        if let Some(scrubber) = &self.scrubber {
            let _ = scrubber.send(Drain).await;
        }
    }
}

fn start<W: Work>(arbiter: &Arbiter, interval: Duration, work: W) -> Addr<Background<W>> {
    start_background(arbiter, Background::new(work, interval))
}

fn start_background<W: Work>(arbiter: &Arbiter, background: Background<W>) -> Addr<Background<W>> {
    Background::start_in_arbiter(&arbiter.handle(), move |_| background)
}
