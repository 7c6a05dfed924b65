//! `Scrubber`: compares rows, objects and counts all the time, slowly.
//!
//! Role: it tells in log and metrics what `hapax verify` would, before somebody asks. Invariants: it
//! repairs nothing and deletes nothing; what it does is what a read of the content would do: an
//! original whose object was asked for and is missing or wrong is marked. One node at a time works on
//! a pass, each step is taken and given back in the database, and whoever takes the next one goes on
//! where that one ended: a restart, or another node, repeats at most a step. It holds no transaction
//! while it reads (rule R16).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::background::{Round, Work};
use crate::config::{Config, VerifyConfig};
use crate::ledger::Ledger;
use crate::ledger::usage_check::UsageDifference;
use crate::ledger::verify::passes::{PassKind, TakenPass};
use crate::reap::StoreIdentity;
use crate::store::BlobStore;
use crate::verify::{
    Finding, Mending, Observer, Pace, Progress, Sample, Share, Verifier, VerifyError, VerifyOptions,
};

/// How often it looks whether a pass is due, and whether another node has left one.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long a step may take besides what it reads; after that another node takes the pass over.
const HOLD: Duration = Duration::from_secs(120);
/// How long a step reads.
const READ_FOR: Duration = Duration::from_secs(20);
/// After a step that failed: the store or the database has other troubles.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// The least pause before it asks again for a pass that another node has.
const SOON: Duration = Duration::from_secs(1);
/// The database's clock counts milliseconds: its pause must not seem longer than this process's.
const ROUNDING: Duration = Duration::from_millis(5);
/// Findings of one pass that are logged one by one.
const LOGGED_FINDINGS: u64 = 100;

/// Verifies a step at a time.
#[derive(Debug)]
pub struct Scrubber {
    ledger: Ledger,
    verifier: Verifier,
    pace: Pace,
    config: VerifyConfig,
    hold: Duration,
    stop: CancellationToken,
}

impl Scrubber {
    /// A scrubber of one database and its store.
    pub fn new(
        config: &Config,
        ledger: &Ledger,
        store: &Arc<dyn BlobStore>,
        identity: &StoreIdentity,
    ) -> Self {
        let verify = &config.verify;
        let read_pace = Pace::new(Some(verify.read_rate));
        let bytes_per_step = verify.read_rate.saturating_mul(READ_FOR.as_secs());
        // A step ends with the object that takes it past its bytes.
        let longest_read = read_pace.time_of(bytes_per_step + config.upload.max_bytes);
        let stop = CancellationToken::new();
        let options = VerifyOptions {
            mending: Mending::MarkDamaged,
            put_deadline: config.upload.put_deadline,
            usage: false,
            reads_in_flight: 1,
            bytes_per_step,
            read_pace,
        };
        Self {
            ledger: ledger.clone(),
            verifier: Verifier::new(
                ledger.clone(),
                store.clone(),
                identity.clone(),
                options,
                stop.clone(),
            ),
            pace: Pace::new(Some(verify.rate)),
            config: verify.clone(),
            hold: HOLD + longest_read,
            stop,
        }
    }

    /// How often its rounds should come while nothing is under way.
    pub fn look_every(&self) -> Duration {
        LOOK_EVERY.min(self.config.interval)
    }

    async fn go_on(&self) -> Result<Round, VerifyError> {
        let taken = self
            .ledger
            .take_background_pass(self.hold, self.config.interval)
            .await?;
        let Some(taken) = taken else {
            return self.wait_for_the_other_node().await;
        };
        let progress = self.progress_of(&taken);
        let mut log = Log {
            logged: progress.summary.problems,
        };
        match self.verifier.step(&progress, &mut log).await {
            Ok(Some(next)) if next.is_complete() => self.complete(&taken, &next).await,
            Ok(Some(next)) => {
                let pause = self.pace.time_of(next.units_since(&progress));
                self.keep(&taken, &next, pause).await?;
                Ok(Round::MoreAfter(pause + ROUNDING))
            }
            // Stopped: another node, or this one's next start, goes on at once.
            Ok(None) => {
                self.keep(&taken, &progress, Duration::ZERO).await?;
                Ok(Round::Done)
            }
            Err(error) => {
                self.keep(&taken, &progress, AFTER_FAILURE).await?;
                Err(error)
            }
        }
    }

    /// A pass that is under way elsewhere is looked at again when it is free; only one node gets it.
    async fn wait_for_the_other_node(&self) -> Result<Round, VerifyError> {
        let state = self.ledger.pass_state(PassKind::Background).await?;
        if state.progress.is_none() {
            return Ok(Round::Done);
        }
        let now = self.ledger.database_time().await?;
        let free_in = (state.not_before - now).to_std().unwrap_or_default();
        let pause = free_in.clamp(SOON, self.look_every().max(SOON));
        Ok(Round::MoreAfter(pause))
    }

    /// Where the pass is; at its beginning if it begins, or if what an older version kept is not
    /// understood.
    fn progress_of(&self, taken: &TakenPass) -> Progress {
        let kept = taken.progress.clone().map(serde_json::from_value);
        match kept {
            Some(Ok(progress)) => progress,
            Some(Err(error)) => {
                tracing::warn!(%error, "the verification begins anew: where it was cannot be read");
                self.new_progress(taken)
            }
            None => self.new_progress(taken),
        }
    }

    fn new_progress(&self, taken: &TakenPass) -> Progress {
        let share = Share::from_millionths(self.config.deep_sample);
        Progress::new(share.map(|share| Sample {
            share,
            // Each pass reads what the last one did not.
            seed: taken.passes.unsigned_abs(),
        }))
    }

    async fn complete(&self, taken: &TakenPass, end: &Progress) -> Result<Round, VerifyError> {
        let summary = &end.summary;
        let result = serde_json::to_value(summary).unwrap_or_default();
        self.ledger.complete_pass(taken, &result).await?;
        match summary.problems {
            0 => tracing::info!(
                rows = summary.rows,
                objects = summary.objects,
                hashed = summary.hashed,
                "verified everything: nothing is wrong"
            ),
            problems => tracing::error!(
                problems,
                missing = summary.missing,
                strays = summary.strays,
                wrong_counts = summary.wrong_counts,
                unreadable = summary.unreadable,
                "verified everything: see `hapax verify`"
            ),
        }
        Ok(Round::Done)
    }

    /// A pass that another node took meanwhile is its own business.
    async fn keep(
        &self,
        taken: &TakenPass,
        progress: &Progress,
        pause: Duration,
    ) -> Result<(), VerifyError> {
        let progress = serde_json::to_value(progress).unwrap_or_default();
        self.ledger.keep_pass(taken, &progress, pause).await?;
        Ok(())
    }
}

#[async_trait]
impl Work for Scrubber {
    async fn round(&self) -> Round {
        self.go_on().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not go on with the verification");
            Round::Failed
        })
    }

    fn stop_soon(&self) {
        self.stop.cancel();
    }
}

/// Tells of the first findings of a pass, counted from what it had found before this step; the
/// metrics count them all.
struct Log {
    logged: u64,
}

impl Observer for Log {
    fn found(&mut self, finding: &Finding) {
        self.logged += 1;
        if self.logged > LOGGED_FINDINGS {
            return;
        }
        tracing::error!(
            problem = finding.problem(),
            finding = serde_json::to_string(finding).unwrap_or_default(),
            "the verification found something wrong"
        );
        if self.logged == LOGGED_FINDINGS {
            tracing::error!("there is more of it: run `hapax verify` to see all");
        }
    }

    /// Not asked for.
    fn usage_differs(&mut self, _: &UsageDifference, _: bool) {}

    fn progressed(&mut self, _: &Progress) {}
}
