//! Group commit of write intents: while one transaction announces generations, the next collects.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::ledger::pending::NewGeneration;
use crate::ledger::{Ledger, LedgerError};

/// Rows in one transaction: 14 values each, well below SQLite's 32766 variables a statement.
const MAX_ROWS: usize = 512;

type Waiting = (
    Vec<NewGeneration>,
    oneshot::Sender<Result<(), Arc<LedgerError>>>,
);

/// Announces generations, several uploads' in one transaction. A cheap clone.
#[derive(Debug, Clone)]
pub(super) struct Announcer {
    ledger: Ledger,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Whether a task is working the queue off.
    busy: bool,
}

impl Announcer {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            queue: Arc::default(),
        }
    }

    /// Returns once the rows are committed. After an error they may be there or not: their ids are
    /// burnt, and the lease of what is there runs out.
    pub(super) async fn announce(
        &self,
        generations: Vec<NewGeneration>,
    ) -> Result<(), Arc<LedgerError>> {
        let (sender, answer) = oneshot::channel();
        let idle = {
            let mut queue = self.lock();
            queue.waiting.push((generations, sender));
            !std::mem::replace(&mut queue.busy, true)
        };
        if idle {
            // A task of its own: whoever started it may leave before the queue is empty.
            actix::spawn(self.clone().work_off());
        }
        answer
            .await
            .unwrap_or_else(|_| Err(Arc::new(LedgerError::stopping())))
    }

    async fn work_off(self) {
        while let Some(batch) = self.next_batch() {
            let (generations, callers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let outcome = self
                .ledger
                .announce_generations(&generations.concat())
                .await;
            let outcome = outcome.map_err(Arc::new);
            for caller in callers {
                // A caller that left leaves a row whose lease runs out.
                let _ = caller.send(outcome.clone());
            }
        }
    }

    /// What waits, up to [`MAX_ROWS`] or one caller's own; `None` ends the task.
    fn next_batch(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.lock();
        let mut rows = 0;
        let fits = queue.waiting.iter().take_while(|(generations, _)| {
            rows += generations.len();
            rows <= MAX_ROWS
        });
        let count = fits.count().max(1).min(queue.waiting.len());
        queue.busy = count > 0;
        (count > 0).then(|| queue.waiting.drain(..count).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is consistent between any two statements: a panic elsewhere does not spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
