//! Steps 3 to 7 of the upload protocol, as plain async code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Addr, Recipient};
use futures::future::join_all;

use super::flights::{Flights, Interest, Lead, Turn};
use super::job::Job;
use crate::actors::background::Nudge;
use crate::actors::blob::{BlobActor, WriteBlob};
use crate::actors::refcount::{Apply, Shards};
use crate::config::UploadConfig;
use crate::ledger::batch::Outcome;
use crate::ledger::pending::NewGeneration;
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::METRICS;
#[cfg(feature = "seams")]
use crate::seams::broken;
use crate::seams::{Point, Rule, enforced, reach};
use crate::spool::{KnownOriginals, SpooledBody};
use crate::store::BlobStore;
use crate::upload::{Disposition, HashedUpload, Scoping, StoredUpload, UploadError};

/// Generations that one upload may burn before its client is told to come back.
const MAX_GENERATIONS: u32 = 3;
/// Between two generations: a store that just failed gets a moment.
const PAUSE: Duration = Duration::from_millis(100);

/// Turns hashed uploads into images. A cheap clone that knows where everything is.
#[derive(Debug, Clone)]
pub struct Resolver {
    ledger: Ledger,
    store: Arc<dyn BlobStore>,
    known: Option<KnownOriginals>,
    blobs: Addr<BlobActor>,
    refcounts: Shards,
    deletions: Recipient<Nudge>,
    scoping: Scoping,
    limits: Limits,
    flights: Flights,
}

/// Why an upload ends without images.
enum GivingUp {
    /// The database refused, or did not answer.
    NoCommit(UploadError),
    /// The store took the bytes under none of the generations.
    NoObject,
}

/// How long writing may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    lease: Duration,
    put_deadline: Duration,
    /// Bytes a second that a transfer is granted: a lease covers the transfer of its bytes.
    min_throughput: u64,
}

impl Resolver {
    /// `deletions` is nudged when a generation is given up; `known` learns what was uploaded.
    #[expect(
        clippy::too_many_arguments,
        reason = "the composition root calls it once"
    )]
    pub fn new(
        ledger: Ledger,
        store: Arc<dyn BlobStore>,
        known: Option<KnownOriginals>,
        blobs: Addr<BlobActor>,
        refcounts: Shards,
        deletions: Recipient<Nudge>,
        scoping: Scoping,
        upload: &UploadConfig,
        min_throughput: u64,
    ) -> Self {
        let limits = Limits {
            lease: upload.lease,
            put_deadline: upload.put_deadline,
            min_throughput: min_throughput.max(1),
        };
        let flights = Flights::default();
        Self {
            ledger,
            store,
            known,
            blobs,
            refcounts,
            deletions,
            scoping,
            limits,
            flights,
        }
    }

    /// Makes the files images: all or none.
    ///
    /// # Errors
    /// See [`UploadError`]; after `Unavailable` the images may exist or not, and the same
    /// `Idempotency-Key` finds out.
    pub async fn resolve(&self, upload: HashedUpload) -> Result<StoredUpload, UploadError> {
        let scope = self.scoping.scope_of(&upload.tenant);
        let mut job = Job::new(upload, scope);
        let interest = self.flights.interest(job.keys());
        let giving_up = match self.store(&mut job, &interest).await {
            Ok(outcome) => {
                if job.leaves_rows_behind(&outcome) {
                    self.deletions.do_send(Nudge);
                }
                self.remember(&job, &outcome);
                return answer(&job, outcome);
            }
            Err(failure) => failure,
        };
        // Rows that were committed after all are left alone.
        let all: Vec<usize> = (0..job.contents.len()).collect();
        let resolver = self.clone();
        let given_up = async move {
            resolver
                .abandon(&mut job, &all, "the upload was given up")
                .await;
        };
        match giving_up {
            GivingUp::NoCommit(error) => {
                // The database did not answer just now: its client need not wait for it once more.
                // If this comes to nothing, the lease runs out.
                actix::spawn(given_up);
                Err(error)
            }
            GivingUp::NoObject => {
                given_up.await;
                let what = "the object store did not take the bytes".to_owned();
                Err(UploadError::Unavailable { what })
            }
        }
    }

    /// What large bodies look like on their way, so that they need not be written when they come again.
    fn remember(&self, job: &Job, outcome: &Outcome) {
        let (Some(known), Outcome::Attached { images, .. }) = (&self.known, outcome) else {
            return;
        };
        for (content, image) in job.image_contents().zip(images) {
            if let SpooledBody::File { marks, .. } = &content.body
                && let Some(key) = &image.view.s3_key
                && let Some(file) = self.store.file_of(key)
            {
                known.learn(&job.scope, content.key.1, marks, file);
            }
        }
    }

    /// Steps 3 to 7: attaches to what is stored, and writes what is missing, until all of it is
    /// committed.
    async fn store(&self, job: &mut Job, interest: &Interest) -> Result<Outcome, GivingUp> {
        let mut lead: Option<Lead> = interest.lead_if_free();
        let mut generations_left = MAX_GENERATIONS;
        let mut look = enforced(Rule::LookBeforeWriting);
        loop {
            let looked_at = interest.landed();
            let intents = match lead.is_some() && generations_left > 0 {
                true => self.intents(job),
                false => Vec::new(),
            };
            let asked_at = Instant::now();
            let commit = self.commit(job, &intents, std::mem::replace(&mut look, true));
            let (missing, announced) = match commit.await.map_err(GivingUp::NoCommit)? {
                Outcome::Missing {
                    contents,
                    announced,
                } => (
                    contents,
                    announced || (!enforced(Rule::IntentBeforePut) && !intents.is_empty()),
                ),
                done => return Ok(done),
            };
            reach(Point::ContentMissing, || job.contents[0].key.1).await;
            let lost = self.abandon(job, &missing, "the lease was lost").await;
            if lost && !announced {
                // What it wrote is no longer its own (rule R8); somebody may have stored the same.
                continue;
            }
            if lead.is_none() {
                let keys = missing.iter().map(|index| job.contents[*index].key.clone());
                match interest.turn(keys.collect(), looked_at) {
                    Turn::Lead(taken) => lead = Some(taken),
                    Turn::LookAgain => continue,
                    Turn::Wait(mut leader) => {
                        // It closes without ever sending: an error is the news.
                        let _ = leader.changed().await;
                        continue;
                    }
                }
            }
            if generations_left == 0 {
                return Err(GivingUp::NoObject);
            }
            if announced {
                generations_left -= 1;
                self.write(job, &missing, &intents, asked_at).await;
            }
        }
    }

    /// A generation of each content, should it turn out to be missing.
    fn intents(&self, job: &Job) -> Vec<NewGeneration> {
        let intents = job.contents.iter().map(|content| {
            let transfer = self.limits.transfer(content.body.len());
            content.new_generation(
                |id| self.store.key_for(&content.key.1, id).to_string(),
                self.limits.lease + transfer,
                self.limits.put_deadline + transfer,
            )
        });
        intents.collect()
    }

    /// Step 3 or 6, whichever the job is at, and step 4 where 3 finds something missing; without a
    /// look everything is.
    async fn commit(
        &self,
        job: &Job,
        intents: &[NewGeneration],
        look: bool,
    ) -> Result<Outcome, UploadError> {
        if !look {
            return Ok(Outcome::Missing {
                contents: (0..job.contents.len()).collect(),
                announced: !intents.is_empty(),
            });
        }
        let intents = match enforced(Rule::IntentBeforePut) {
            true => intents.to_vec(),
            false => Vec::new(),
        };
        let shard = self.refcounts.of(&job.contents[0].key.1);
        let outcome = shard.send(Apply(job.operation(intents))).await;
        Ok(outcome.unwrap_or_else(|_| Err(LedgerError::stopping()))?)
    }

    /// Step 5: writes each missing content under its intent, which is a committed row, asked for at
    /// `asked_at`. A generation whose PUT did not answer cleanly is given up.
    async fn write(
        &self,
        job: &mut Job,
        missing: &[usize],
        intents: &[NewGeneration],
        asked_at: Instant,
    ) {
        #[cfg(feature = "seams")]
        broken::announce_unlooked(&self.ledger, intents).await;
        reach(Point::IntentCommitted, || &intents[missing[0]].s3_key).await;
        #[cfg(feature = "seams")]
        let open = broken::open_transaction(&self.ledger).await;
        let puts = missing.iter().map(|index| {
            self.blobs.send(WriteBlob {
                key: intents[*index].s3_key.clone(),
                digest: intents[*index].digest,
                body: job.contents[*index].body.clone(),
                // Half of the lease to begin, the transfer's own time to end: a PUT that could
                // outlive the lease is not begun.
                give_up_at: asked_at + self.limits.lease / 2,
            })
        });
        let answers = join_all(puts).await;
        #[cfg(feature = "seams")]
        drop(open);
        let mut failed = false;
        for (index, answer) in missing.iter().zip(answers) {
            let generation = &intents[*index];
            let why = match answer {
                Ok(Ok(_)) => {
                    reach(Point::ObjectWritten, || &generation.s3_key).await;
                    #[cfg(feature = "seams")]
                    broken::announce_written(&self.ledger, generation).await;
                    job.contents[*index].written = Some(generation.clone());
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the server is stopping".to_owned(),
            };
            tracing::warn!(error = why, "a write failed; its generation is given up");
            self.give_up(generation, &why).await;
            failed = true;
        }
        if failed {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Gives up what was written of these contents; whether anything was.
    async fn abandon(&self, job: &mut Job, contents: &[usize], why: &str) -> bool {
        let mut any = false;
        for index in contents {
            if let Some(generation) = job.contents[*index].written.take() {
                self.give_up(&generation, why).await;
                any = true;
            }
        }
        any
    }

    async fn give_up(&self, generation: &NewGeneration, why: &str) {
        match self.ledger.abandon_generation(generation, why).await {
            Ok(()) => self.deletions.do_send(Nudge),
            Err(error) => {
                tracing::warn!(%error, key = generation.s3_key, "a lease is left to run out");
            }
        }
    }
}

impl Limits {
    fn transfer(&self, bytes: u64) -> Duration {
        Duration::from_secs(bytes / self.min_throughput)
    }
}

fn answer(job: &Job, outcome: Outcome) -> Result<StoredUpload, UploadError> {
    let (images, replayed) = match outcome {
        Outcome::Attached { images, replayed } => (images, replayed),
        Outcome::IdempotencyKeyReused => return Err(UploadError::IdempotencyKeyReused),
        other => {
            return Err(UploadError::Internal(format!(
                "an upload came to {other:?}"
            )));
        }
    };
    for (image, content) in images.iter().zip(job.image_contents()) {
        let result = match (replayed, image.disposition) {
            (true, _) => "replayed",
            (false, Disposition::Miss) => "stored",
            (false, Disposition::Hit) => "hit",
            (false, Disposition::Resurrected) => "resurrected",
            (false, Disposition::Repaired) => "repaired",
        };
        METRICS.uploads.with_label_values(&[result]).inc();
        if image.disposition.deduplicated() {
            METRICS.saved_bytes.inc_by(content.body.len());
        }
    }
    Ok(StoredUpload { images, replayed })
}
