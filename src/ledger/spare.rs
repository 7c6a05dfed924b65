//! PostgreSQL's connections that stay out of their pool between transactions that write.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait, DatabaseTransaction};

use super::connect::TRUSTED_IDLE_TIME;

/// After this a connection goes to its pool once, which ends those that have become old.
const OUT_FOR: Duration = Duration::from_secs(60);
const BEGIN: &str = "BEGIN";

/// The connections. As with the one writer of an SQLite file, SeaORM lends them as transactions.
#[derive(Debug)]
pub(super) struct Spares {
    room: usize,
    /// The one that was used last is the last. `None` once the pool is to close, which waits for all of its
    /// connections.
    idle: Mutex<Option<Vec<Idle>>>,
}

/// One that left its pool at this time.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) connection: DatabaseTransaction,
    pub(super) since: Instant,
}

#[derive(Debug)]
struct Idle {
    spare: Spare,
    used: Instant,
}

impl Spares {
    pub(super) fn new(room: usize) -> Self {
        Self {
            room,
            idle: Mutex::new(Some(Vec::new())),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Option<Vec<Idle>>> {
        self.idle.lock().expect("nothing panics while holding it")
    }

    /// A transaction on one of them; `None`: ask the pool, which looks whether what it gives is alive.
    pub(super) async fn begin(&self) -> Option<Spare> {
        let Idle { spare, used } = self.idle().as_mut()?.pop()?;
        if used.elapsed() > TRUSTED_IDLE_TIME {
            // In a task of its own: it may take long to find that nobody is there any more.
            tokio::spawn(spare.give_back());
            return None;
        }
        // Nothing was done, so whatever the reason is, another connection may do it.
        let begun = spare.connection.execute_unprepared(BEGIN).await;
        begun.is_ok().then_some(spare)
    }

    /// Whether a connection that left its pool at this time may stay out of it, as far as is known before its
    /// transaction has ended.
    pub(super) fn has_room_for(&self, since: Instant) -> bool {
        let has_room = |idle: &Vec<Idle>| idle.len() < self.room;
        since.elapsed() < OUT_FOR && self.idle().as_ref().is_some_and(has_room)
    }

    /// Keeps a connection whose transaction has ended, unless others took the room meanwhile: all that are
    /// kept are missing to those who read.
    pub(super) fn keep(&self, connection: DatabaseTransaction, since: Instant) {
        let spare = Spare { connection, since };
        let used = Instant::now();
        match &mut *self.idle() {
            Some(idle) if idle.len() < self.room => idle.push(Idle { spare, used }),
            _ => drop(tokio::spawn(spare.give_back())),
        }
    }

    /// Gives all of them back to the pool, now and from now on.
    pub(super) async fn close(&self) {
        let idle = self.idle().take();
        for Idle { spare, .. } in idle.into_iter().flatten() {
            spare.give_back().await;
        }
    }
}

impl Spare {
    /// SeaORM ends a transaction with it, and PostgreSQL warns of one that never began.
    async fn give_back(self) {
        if self.connection.execute_unprepared(BEGIN).await.is_ok() {
            // One that is broken is dropped, and the pool finds that out.
            let _ = self.connection.rollback().await;
        }
    }
}
