//! Objects read to their end and hashed.

use entity::ContentDigest;
use entity::original_images::OriginalState;
use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};

use super::objects::{ROWS_PER_PAGE, named};
use super::report::Finding;
use super::{Cursor, Step, StepEnd, Verifier, VerifyError};
use crate::ledger::verify::KeyedOriginal;
use crate::store::StoreError;

/// What reading an object to its end showed.
enum Reading {
    /// Length and digest of what is there.
    Read(u64, ContentDigest),
    /// The store did not let it be read to its end.
    Failed(StoreError),
    /// Nobody wants to know any more.
    BrokenOff,
}

impl Step<'_> {
    /// Reads the sampled objects of one page of rows, in their order; as many as one step may.
    pub(super) async fn read_objects(
        &mut self,
        after: Option<String>,
    ) -> Result<StepEnd, VerifyError> {
        let verifier = self.verifier;
        let rows = verifier
            .ledger
            .originals_by_key(after.as_deref(), None, ROWS_PER_PAGE)
            .await?;
        let total = rows.len();
        let places: Vec<_> = rows.iter().map(|row| row.s3_key.clone()).collect();
        let deep = self.progress.deep;
        let wanted: Vec<_> = (1..)
            .zip(rows)
            .filter(|(_, row)| row.state == OriginalState::Stored)
            .filter(|(_, row)| deep.is_some_and(|sample| sample.contains(row.id)))
            .collect();
        let mut readings = futures::stream::iter(wanted)
            .map(|(place, row)| verifier.read(place, row))
            .buffered(verifier.options.reads_in_flight.max(1));
        let (mut bytes, mut passed) = (0, total);
        while let Some((place, row, reading)) = readings.next().await {
            match reading {
                Reading::BrokenOff => return Ok(StepEnd::BrokenOff),
                Reading::Read(read, digest) => {
                    bytes += read;
                    self.progress.summary.hashed += 1;
                    self.progress.summary.hashed_bytes += read;
                    self.judge(&row, read, digest).await?;
                }
                Reading::Failed(error) => self.judge_failure(&row, &error).await?,
            }
            self.observer.progressed(&self.progress);
            if bytes >= verifier.options.bytes_per_step {
                passed = place;
                break;
            }
        }
        self.progress.summary.sampled_from += passed as u64;
        let at_the_end = passed == total && (total as u64) < ROWS_PER_PAGE;
        self.progress.cursor = match places.into_iter().nth(passed.saturating_sub(1)) {
            Some(last) if !at_the_end => Cursor::Bytes { after: Some(last) },
            _ => Cursor::Counts { after: None },
        };
        Ok(StepEnd::Done)
    }

    async fn judge(
        &mut self,
        row: &KeyedOriginal,
        bytes: u64,
        actual: ContentDigest,
    ) -> Result<(), VerifyError> {
        if actual == row.content_hash {
            if row.damaged_at.is_some() {
                self.report_sound(row).await?;
            }
            return Ok(());
        }
        if !self.verifier.still_stored(row).await? {
            return Ok(());
        }
        if i64::try_from(bytes) != Ok(row.file_size) {
            return self.unless_compared(row, Some(bytes)).await;
        }
        let repaired = self.verifier.mark_damaged(row).await?;
        self.report(&Finding::WrongBytes {
            original: named(row),
            actual,
            repaired,
        });
        Ok(())
    }

    /// Bytes that the store itself calls damaged are an unreadable object: it may have told of the
    /// connection.
    async fn judge_failure(
        &mut self,
        row: &KeyedOriginal,
        error: &StoreError,
    ) -> Result<(), VerifyError> {
        if !self.verifier.still_stored(row).await? {
            return Ok(());
        }
        if error.is_not_found() {
            return self.unless_compared(row, None).await;
        }
        self.report_unreadable(&row.s3_key, error);
        Ok(())
    }

    /// An object that is missing or of another length was told of when it was compared, unless the
    /// store goes on to say, to whoever only asks, that all is well.
    async fn unless_compared(
        &mut self,
        row: &KeyedOriginal,
        read: Option<u64>,
    ) -> Result<(), VerifyError> {
        let seems_well = match self.verifier.store.stat(&row.s3_key).await {
            Ok(size) => i64::try_from(size) == Ok(row.file_size),
            Err(_) => false,
        };
        match (seems_well, read) {
            (false, _) => Ok(()),
            (true, None) => self.report_missing(row).await,
            (true, Some(actual)) => self.report_wrong_size(row, actual).await,
        }
    }

    /// A marked original whose bytes were read and are right.
    async fn report_sound(&mut self, row: &KeyedOriginal) -> Result<(), VerifyError> {
        let ledger = &self.verifier.ledger;
        let repaired = self.may_repair() && ledger.clear_damage(row.id, &row.s3_key).await?;
        self.report(&Finding::KnownDamage {
            original: named(row),
            repaired,
        });
        Ok(())
    }
}

impl Verifier {
    /// Reads the object of a row that is the `place`-th of its page.
    async fn read(&self, place: usize, row: KeyedOriginal) -> (usize, KeyedOriginal, Reading) {
        let reading = self.read_and_hash(&row.s3_key).await;
        (place, row, reading)
    }

    /// Reads an object to its end, no faster than it may.
    async fn read_and_hash(&self, key: &str) -> Reading {
        let read = async {
            let mut stream = self.store.get(key, None).await?;
            let (mut hasher, mut bytes) = (Sha256::new(), 0);
            while let Some(chunk) = stream.try_next().await? {
                bytes += chunk.len() as u64;
                hasher.update(&chunk);
                self.options
                    .read_pace
                    .pay(chunk.len() as u64, &self.stop)
                    .await;
                if self.stop.is_cancelled() {
                    return Ok(Reading::BrokenOff);
                }
            }
            let digest: [u8; 32] = hasher.finalize().into();
            Ok(Reading::Read(bytes, ContentDigest::from(digest)))
        };
        // A store that does not answer must not keep a server from stopping; nothing is lost with a
        // reading that is dropped.
        tokio::select! {
            reading = read => reading.unwrap_or_else(Reading::Failed),
            () = self.stop.cancelled() => Reading::BrokenOff,
        }
    }
}
