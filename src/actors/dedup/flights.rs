//! Single flight: while one upload writes a new content, others of the same content wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use entity::ContentDigest;
use tokio::sync::watch;

/// Scope, digest, length.
pub(super) type ContentKey = (String, ContentDigest, i64);

/// The contents that uploads of this node are concerned with right now. A cheap clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Flights {
    table: Arc<Mutex<HashMap<ContentKey, Entry>>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Uploads that hold an [`Interest`]; the entry goes with the last.
    interested: usize,
    /// Flights that ended since the entry is there.
    landed: u64,
    /// Present while somebody writes; closed when they are done.
    leader: Option<watch::Receiver<()>>,
}

/// An upload's stake in some contents, from before it looks for them until it is answered.
#[derive(Debug)]
pub(super) struct Interest {
    flights: Flights,
    keys: Vec<ContentKey>,
}

/// The right to write some contents; the flight ends when it is dropped.
#[derive(Debug)]
pub(super) struct Lead {
    flights: Flights,
    keys: Vec<ContentKey>,
    /// Dropped with the lead: every waiting receiver is woken.
    _done: watch::Sender<()>,
}

/// What to do about contents that were not found.
#[derive(Debug)]
pub(super) enum Turn {
    /// Write them.
    Lead(Lead),
    /// Somebody is writing one of them: wait until the channel closes, then look again.
    Wait(watch::Receiver<()>),
    /// A flight ended since the caller last looked: look again.
    LookAgain,
}

impl Flights {
    pub(super) fn interest(&self, keys: Vec<ContentKey>) -> Interest {
        let mut table = self.lock();
        for key in &keys {
            table.entry(key.clone()).or_default().interested += 1;
        }
        drop(table);
        Interest {
            flights: self.clone(),
            keys,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContentKey, Entry>> {
        // The table is consistent between any two statements: a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interest {
    /// A mark to compare with later: changes whenever a flight over one of the contents ends.
    pub(super) fn landed(&self) -> u64 {
        let table = self.flights.lock();
        self.keys
            .iter()
            .filter_map(|key| table.get(key))
            .map(|entry| entry.landed)
            .sum()
    }

    /// Takes the lead over all of the contents, unless somebody leads one of them. Whoever has it may
    /// announce what it is about to write before it knows that it must.
    pub(super) fn lead_if_free(&self) -> Option<Lead> {
        let mut table = self.flights.lock();
        match leader_of(&table, &self.keys) {
            Some(_) => None,
            None => Some(self.take_lead(&mut table, self.keys.clone())),
        }
    }

    /// Takes the lead over all of `missing`, or none: waiting while leading could deadlock.
    pub(super) fn turn(&self, missing: Vec<ContentKey>, looked_at: u64) -> Turn {
        if self.landed() != looked_at {
            return Turn::LookAgain;
        }
        let mut table = self.flights.lock();
        match leader_of(&table, &missing) {
            Some(leader) => Turn::Wait(leader),
            None => Turn::Lead(self.take_lead(&mut table, missing)),
        }
    }

    fn take_lead(&self, table: &mut HashMap<ContentKey, Entry>, keys: Vec<ContentKey>) -> Lead {
        let (done, leader) = watch::channel(());
        for key in &keys {
            table.entry(key.clone()).or_default().leader = Some(leader.clone());
        }
        Lead {
            flights: self.flights.clone(),
            keys,
            _done: done,
        }
    }
}

fn leader_of(
    table: &HashMap<ContentKey, Entry>,
    keys: &[ContentKey],
) -> Option<watch::Receiver<()>> {
    let mut entries = keys.iter().filter_map(|key| table.get(key));
    entries.find_map(|entry| entry.leader.clone())
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut table = self.flights.lock();
        for key in &self.keys {
            if let Some(entry) = table.get_mut(key) {
                entry.interested -= 1;
                if entry.interested == 0 {
                    table.remove(key);
                }
            }
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut table = self.flights.lock();
        for key in &self.keys {
            if let Some(entry) = table.get_mut(key) {
                entry.leader = None;
                entry.landed += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> ContentKey {
        (String::new(), ContentDigest::from([n; 32]), 1)
    }

    #[tokio::test]
    async fn a_second_upload_waits_for_the_first() {
        let flights = Flights::default();
        let first = flights.interest(vec![key(1)]);
        let second = flights.interest(vec![key(1), key(2)]);
        let looked = second.landed();
        let Turn::Lead(lead) = first.turn(vec![key(1)], first.landed()) else {
            panic!("free")
        };
        assert!(second.lead_if_free().is_none());
        let Turn::Wait(mut wait) = second.turn(vec![key(2), key(1)], looked) else {
            panic!("taken")
        };
        drop(lead);
        assert!(
            wait.changed().await.is_err(),
            "the channel closes when the lead ends"
        );
        assert!(matches!(second.turn(vec![key(1)], looked), Turn::LookAgain));
        assert!(matches!(
            second.turn(vec![key(1)], second.landed()),
            Turn::Lead(_)
        ));
        assert!(
            second.lead_if_free().is_some(),
            "it ended with the statement"
        );
    }

    #[test]
    fn nothing_is_left_when_everybody_has_gone() {
        let flights = Flights::default();
        let interest = flights.interest(vec![key(1), key(2)]);
        let Turn::Lead(lead) = interest.turn(vec![key(1)], 0) else {
            panic!("free")
        };
        drop(lead);
        drop(interest);
        assert!(flights.lock().is_empty());
    }
}
