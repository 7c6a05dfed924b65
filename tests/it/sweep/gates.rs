//! The reapers' rounds, let through one by one: so that a scenario has the same calls at every run.

use crate::harness::{Event, Filter, Held, SeamControl, Times};

/// The background actors whose rounds belong to a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaper {
    Leases,
    Orphans,
    Deletions,
}

impl Reaper {
    const ALL: [Self; 3] = [Self::Leases, Self::Orphans, Self::Deletions];

    fn work(self) -> &'static str {
        match self {
            Self::Leases => "LeaseReaper",
            Self::Orphans => "OrphanReaper",
            Self::Deletions => "DeletionReaper",
        }
    }

    fn rounds(self) -> Filter {
        Filter::point("RoundBegins").with(self.work())
    }
}

/// Every reaper waits at the beginning of a round. The other background actors, which touch no
/// original, wait for ever: the observer and the reaper of old receipts.
#[derive(Debug)]
pub(super) struct Gates {
    held: [Held; 3],
    _others: Held,
}

impl Gates {
    /// Holds each reaper at the beginning of its next round. Takes every other rule back.
    pub(super) fn close(seams: &SeamControl) -> Self {
        seams.clear_rules();
        let others = Filter::new(|event: &Event| {
            let is_reaper = |reaper: &Reaper| event.detail.contains(reaper.work());
            event.name == "RoundBegins" && !Reaper::ALL.iter().any(is_reaper)
        });
        Self {
            held: Reaper::ALL.map(|reaper| hold_next(seams, reaper)),
            _others: seams.hold(others, Times::All),
        }
    }

    /// Returns once all of them wait: nothing is reaped any more.
    pub(super) async fn closed(&self) {
        for held in &self.held {
            held.reached(1).await;
        }
    }

    /// From now on they run as they like.
    pub(super) fn open(&self) {
        for held in &self.held {
            held.release();
        }
    }

    /// Lets one round begin. It is over when the reaper waits again: `next`.
    pub(super) async fn step(&mut self, seams: &SeamControl, reaper: Reaper) {
        self.held[reaper as usize].reached(1).await;
        let next = hold_next(seams, reaper);
        std::mem::replace(&mut self.held[reaper as usize], next).release();
    }

    /// Where the reaper waits next.
    pub(super) fn next(&self, reaper: Reaper) -> &Held {
        &self.held[reaper as usize]
    }
}

fn hold_next(seams: &SeamControl, reaper: Reaper) -> Held {
    seams.hold(reaper.rounds(), Times::Next(1))
}
