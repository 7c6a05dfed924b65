//! `RefcountActor`: every change of a reference count, one shard of the hash space each.
//!
//! Role: serializes increments and decrements. The database row is the lock, and two nodes have two
//! actors; what the actor is *for* is that at most one transaction a shard is in flight, and **group
//! commit**: while one batch commits, the next collects, without a timer, so that the batch follows
//! the load and a hot row costs one lock a batch instead of one an upload.
//!
//! Invariants:
//! - An operation is answered only after the COMMIT that holds it returned (rule R15).
//! - A caller that left cancels nothing (rule R13): the operation is the actor's once it is queued.
//! - The queue is bounded; a full one refuses at the door, with nothing done.
//! - No database future is ever dropped half-way (rule R16).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use entity::ContentDigest;
use tokio::sync::oneshot;

use super::background::Nudge;
use crate::ledger::batch::{Operation, Outcome, Run};
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::METRICS;
#[cfg(feature = "seams")]
use crate::seams::broken;
use crate::seams::{Point, Rule, enforced, reach};

/// Operations in one transaction. Measured on PostgreSQL: past this a batch gains little, and one
/// bad operation costs its neighbours a retry.
const MAX_OPERATIONS: usize = 128;
/// Rows that one transaction may name, so that bulk operations do not add up to a transaction that
/// holds its locks for seconds. One operation may exceed it alone.
const MAX_ROWS: usize = 2048;
/// How long a batch whose outcome is unknown is run again before its callers are told so. Shorter
/// than a client's usual time-out of 30 seconds, longer than a database's failover by hand-off.
const RETRY_BUDGET: Duration = Duration::from_secs(10);
/// The first pause between two runs; doubled up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_secs(1);

type Answer = Result<Outcome, LedgerError>;

/// Counts for one shard.
#[derive(Debug)]
pub struct RefcountActor {
    committer: Committer,
    reaper: Recipient<Nudge>,
    max_queue: usize,
    queue: VecDeque<(Operation, oneshot::Sender<Answer>)>,
    committing: bool,
}

impl RefcountActor {
    /// `reaper` is nudged when an original lost its last reference; `max_queue` operations may wait.
    pub fn new(
        ledger: Ledger,
        grace_period: Duration,
        reaper: Recipient<Nudge>,
        max_queue: usize,
    ) -> Self {
        Self {
            committer: Committer {
                ledger,
                grace_period,
            },
            reaper,
            max_queue,
            queue: VecDeque::new(),
            committing: false,
        }
    }

    /// Starts a batch unless one is in flight; its end starts the next. Whoever shares the thread has a turn
    /// first: of the operations that arrived while the last batch was at work, most are still on their way
    /// through the actors before this one, and would wait for a whole batch.
    fn commit_next(&mut self, ctx: &mut Context<Self>) {
        if self.committing || self.queue.is_empty() {
            return;
        }
        self.committing = true;
        let turn = tokio::task::yield_now().into_actor(self);
        ctx.spawn(turn.map(|(), actor, ctx| actor.commit_waiting(ctx)));
    }

    fn commit_waiting(&mut self, ctx: &mut Context<Self>) {
        let (operations, callers): (Vec<_>, Vec<_>) = self.take_batch().into_iter().unzip();
        let committer = self.committer.clone();
        let batch = async move { committer.commit(&operations).await };
        ctx.spawn(batch.into_actor(self).map(|answers, actor, ctx| {
            if answers.iter().flatten().any(released_last) {
                actor.reaper.do_send(Nudge);
            }
            actor.refuse_waiting(&answers);
            for (caller, answer) in callers.into_iter().zip(answers) {
                // A caller that left does not want to know; the effect stands.
                let _ = caller.send(answer);
            }
            actor.committing = false;
            actor.commit_next(ctx);
        }));
    }

    /// Where the database could not be reached, those behind are told so at once: each would wait as
    /// long again, for the same answer.
    fn refuse_waiting(&mut self, answers: &[Answer]) {
        let Some(Err(error)) = answers.first() else {
            return;
        };
        if !error.is_lasting() {
            return;
        }
        for (_, caller) in self.queue.drain(..) {
            if let Some(error) = error.for_another() {
                // A caller that left does not want to know.
                let _ = caller.send(Err(error));
            }
        }
    }

    fn take_batch(&mut self) -> Vec<(Operation, oneshot::Sender<Answer>)> {
        let mut batch = Vec::new();
        let mut rows = 0;
        while let Some((operation, _)) = self.queue.front() {
            rows += operation.weight();
            if batch.len() == MAX_OPERATIONS || (rows > MAX_ROWS && !batch.is_empty()) {
                break;
            }
            batch.extend(self.queue.pop_front());
        }
        batch
    }
}

impl Actor for RefcountActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // The queue is bounded below; the mailbox only hands over.
        ctx.set_mailbox_capacity(self.max_queue.max(16));
    }
}

/// The shards, each with its part of the hash space. A cheap clone.
#[derive(Debug, Clone)]
pub struct Shards(Arc<[Addr<RefcountActor>]>);

impl Shards {
    /// # Panics
    /// Without a shard.
    pub fn new(shards: Vec<Addr<RefcountActor>>) -> Self {
        assert!(
            !shards.is_empty(),
            "the hash space needs at least one shard"
        );
        Self(shards.into())
    }

    /// The shard that a content belongs to.
    pub fn of(&self, digest: &ContentDigest) -> &Addr<RefcountActor> {
        &self.0[usize::from(digest.as_bytes()[0]) % self.0.len()]
    }

    /// A shard for an operation that names no content. Any is right: the row is the lock.
    pub fn any(&self, id: uuid::Uuid) -> &Addr<RefcountActor> {
        &self.0[usize::from(id.as_bytes()[15]) % self.0.len()]
    }

    /// Whether every shard still works.
    pub fn connected(&self) -> bool {
        self.0.iter().all(Addr::connected)
    }
}

/// Apply one operation with the next batch.
#[derive(Debug, Message)]
#[rtype(result = "Result<Outcome, LedgerError>")]
pub struct Apply(pub Operation);

impl Handler<Apply> for RefcountActor {
    type Result = ResponseFuture<Answer>;

    fn handle(&mut self, Apply(operation): Apply, ctx: &mut Self::Context) -> Self::Result {
        if self.queue.len() >= self.max_queue {
            return Box::pin(async { Err(LedgerError::Overloaded) });
        }
        let (caller, answer) = oneshot::channel();
        let kind = operation.kind();
        self.queue.push_back((operation, caller));
        self.commit_next(ctx);
        Box::pin(async move {
            reach(Point::OperationQueued, || kind).await;
            // The actor went down with the batch: whether it committed, nobody knows.
            answer
                .await
                .unwrap_or_else(|_| Err(LedgerError::stopping()))
        })
    }
}

/// Runs batches until their outcome is known or the budget ends; knows nothing of actix.
#[derive(Debug, Clone)]
struct Committer {
    ledger: Ledger,
    grace_period: Duration,
}

impl Committer {
    /// One answer per operation. A batch that the database refuses as inconsistent is split: its
    /// operations run one by one, so that a bad one fails alone.
    async fn commit(&self, operations: &[Operation]) -> Vec<Answer> {
        METRICS.batch_operations.observe(operations.len() as f64);
        match self.settle(operations).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(error) if operations.len() == 1 => vec![Err(error)],
            Err(LedgerError::Unavailable(error)) => operations
                .iter()
                .map(|_| Err(LedgerError::Unavailable(error.clone())))
                .collect(),
            Err(error) => {
                tracing::warn!(%error, operations = operations.len(), "splitting a refused batch");
                let mut answers = Vec::with_capacity(operations.len());
                for operation in operations.chunks(1) {
                    let answer = self.settle(operation).await;
                    answers.push(answer.map(|mut outcomes| outcomes.remove(0)));
                }
                answers
            }
        }
    }

    async fn settle(&self, operations: &[Operation]) -> Result<Vec<Outcome>, LedgerError> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut run = Run::First;
        loop {
            #[cfg(feature = "seams")]
            let operations = &*broken::ids_for(operations, run);
            let error = match self
                .ledger
                .apply_batch(operations, run, self.grace_period)
                .await
            {
                Ok(outcomes) => return Ok(outcomes),
                Err(error) => error,
            };
            match &error {
                LedgerError::Unavailable(_) => METRICS.commit_unknown.inc(),
                LedgerError::Contended => {}
                LedgerError::Inconsistent(what) => {
                    METRICS.refcount_mismatches.inc();
                    tracing::error!(what, "a batch was refused as inconsistent");
                    return Err(error);
                }
                LedgerError::Overloaded | LedgerError::Internal(_) => return Err(error),
            }
            // Whoever waited for a connection in vain has waited long enough.
            if error.is_lasting() || started.elapsed() + pause > RETRY_BUDGET {
                return match enforced(Rule::UnknownIsUnavailable) {
                    true => Err(error),
                    false => Err(LedgerError::Inconsistent(error.to_string())),
                };
            }
            run = Run::Again;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}

fn released_last(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Released(released) => released.iter().any(|image| image.released_last()),
        Outcome::Receipt { released_last, .. } => *released_last,
        Outcome::Attached { .. }
        | Outcome::Missing { .. }
        | Outcome::IdempotencyKeyReused
        | Outcome::UnknownContent => false,
    }
}
