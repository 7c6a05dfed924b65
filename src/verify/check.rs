//! Second looks at single originals and objects, and what follows from them.

use entity::ContentDigest;
use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};

use super::report::{Finding, OriginalKey};
use super::{Verification, VerifyError, believable_strays};
use crate::ledger::verify::KeyedOriginal;
use crate::seams::{Rule, enforced};
use crate::store::{ListedBlob, MAX_DELETE_KEYS, StoreError, StoreErrorKind};
use entity::original_images::OriginalState;

/// Objects read at once by `--deep`: enough to hide a store's latency, few enough to leave a server
/// beside it its share.
const READS_IN_FLIGHT: usize = 4;

/// What reading an object to its end showed.
enum Reading {
    /// Length and digest of what is there.
    Read(u64, ContentDigest),
    /// The store says it is not there.
    Absent,
    /// The store did not let it be read to its end.
    Failed(StoreError),
}

impl Verification<'_> {
    /// A row whose object was not listed, or with another size: asks the store for the object, and
    /// then the row again. In this order: as long as the row is `stored` under the same key, its
    /// object must be there, so it had to be when the store was asked.
    pub(super) async fn look_again_at_row(
        &mut self,
        row: &KeyedOriginal,
    ) -> Result<(), VerifyError> {
        let size = self.store.stat(&row.s3_key).await;
        if !self.still_stored(row).await? {
            return Ok(());
        }
        match size {
            Ok(size) if i64::try_from(size) == Ok(row.file_size) => {
                self.check_matched(&[row]).await?;
            }
            Ok(actual) => self.report_wrong_size(row, actual).await?,
            Err(error) if error.is_not_found() => self.report_missing(row).await?,
            Err(error) => self.report_unreadable(&row.s3_key, &error),
        }
        Ok(())
    }

    /// An object without a row: asks for the row again, then for the object.
    pub(super) async fn confirm_stray(
        &mut self,
        blob: &ListedBlob,
    ) -> Result<Option<ListedBlob>, VerifyError> {
        if !enforced(Rule::LookAgain) {
            return Ok(Some(blob.clone()));
        }
        if self.ledger.original_of_key(&blob.key).await?.is_some() {
            return Ok(None);
        }
        match self.store.stat(&blob.key).await {
            Ok(size) => Ok(Some(ListedBlob {
                size,
                ..blob.clone()
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => {
                self.report_unreadable(&blob.key, &error);
                Ok(None)
            }
        }
    }

    /// Reports the strays of one page, and deletes them if that is asked for and believable.
    pub(super) async fn settle_strays(
        &mut self,
        strays: Vec<ListedBlob>,
        page_size: usize,
    ) -> Result<(), VerifyError> {
        let limit = believable_strays(page_size);
        if self.may_delete_strays && strays.len() > limit {
            self.may_delete_strays = false;
            self.report(&Finding::TooManyStrays {
                strays: strays.len(),
                limit,
            });
        }
        for some in strays.chunks(MAX_DELETE_KEYS) {
            let repaired = match self.may_delete_strays {
                true => self.delete_strays(some).await?,
                false => vec![false; some.len()],
            };
            for (stray, repaired) in some.iter().zip(repaired) {
                self.report(&Finding::Stray {
                    key: stray.key.clone(),
                    size: stray.size,
                    repaired,
                });
            }
        }
        Ok(())
    }

    /// Deletes objects that still have no row; one answer each. A key is never used again (rule R1), so no row
    /// can come between this look and the deletion.
    async fn delete_strays(&mut self, strays: &[ListedBlob]) -> Result<Vec<bool>, VerifyError> {
        let (mut doomed, mut positions) = (Vec::new(), Vec::new());
        for (position, stray) in strays.iter().enumerate() {
            if self.ledger.original_of_key(&stray.key).await?.is_none() {
                doomed.push(stray.key.clone());
                positions.push(position);
            }
        }
        let mut deleted = vec![false; strays.len()];
        if doomed.is_empty() {
            return Ok(deleted);
        }
        match self.store.delete(&doomed).await {
            Ok(results) => {
                for (position, result) in positions.into_iter().zip(results) {
                    match result {
                        Ok(()) => deleted[position] = true,
                        Err(error) => self.report_unreadable(&strays[position].key, &error),
                    }
                }
            }
            Err(error) => self.report_unreadable(&doomed[0], &error),
        }
        Ok(deleted)
    }

    /// Originals whose object is there with the right size: reads them if that is asked for, and
    /// tells of damage that is already known.
    pub(super) async fn check_matched(
        &mut self,
        rows: &[&KeyedOriginal],
    ) -> Result<(), VerifyError> {
        if !self.options.deep {
            for row in rows.iter().filter(|row| row.damaged_at.is_some()) {
                self.report_known_damage(row, false).await?;
            }
            return Ok(());
        }
        let store = self.store;
        let mut readings = futures::stream::iter(rows.iter().copied())
            .map(|row| async move { (row, read_and_hash(store.as_ref(), &row.s3_key).await) })
            .buffer_unordered(READS_IN_FLIGHT);
        while let Some((row, reading)) = readings.next().await {
            self.judge(row, reading).await?;
            self.observer.progressed(&self.summary);
        }
        Ok(())
    }

    async fn judge(&mut self, row: &KeyedOriginal, reading: Reading) -> Result<(), VerifyError> {
        if let Reading::Read(bytes, _) = &reading {
            self.summary.hashed += 1;
            self.summary.hashed_bytes += bytes;
        }
        if let Reading::Read(_, digest) = &reading
            && *digest == row.content_hash
        {
            if row.damaged_at.is_some() {
                self.report_known_damage(row, true).await?;
            }
            return Ok(());
        }
        if !self.still_stored(row).await? {
            return Ok(());
        }
        match reading {
            Reading::Read(bytes, _) if i64::try_from(bytes) != Ok(row.file_size) => {
                self.report_wrong_size(row, bytes).await
            }
            Reading::Read(_, actual) => {
                let repaired = self.mark_damaged(row).await?;
                self.report(&Finding::WrongBytes {
                    original: named(row),
                    actual,
                    repaired,
                });
                Ok(())
            }
            Reading::Absent => self.report_missing(row).await,
            Reading::Failed(error) => {
                self.report_unreadable(&row.s3_key, &error);
                Ok(())
            }
        }
    }

    /// Whether the row still promises this object.
    async fn still_stored(&self, row: &KeyedOriginal) -> Result<bool, VerifyError> {
        let now = self.ledger.original_of_key(&row.s3_key).await?;
        Ok(now.is_some_and(|now| now.id == row.id && now.state == OriginalState::Stored))
    }

    /// Whether the row is marked now, by this or by an earlier look.
    async fn mark_damaged(&self, row: &KeyedOriginal) -> Result<bool, VerifyError> {
        if !self.options.repair {
            return Ok(false);
        }
        let marked = self.ledger.mark_damaged(row.id, &row.s3_key).await?;
        Ok(marked || row.damaged_at.is_some())
    }

    async fn report_missing(&mut self, row: &KeyedOriginal) -> Result<(), VerifyError> {
        let repaired = self.mark_damaged(row).await?;
        self.report(&Finding::MissingObject {
            original: named(row),
            repaired,
        });
        Ok(())
    }

    async fn report_wrong_size(
        &mut self,
        row: &KeyedOriginal,
        actual: u64,
    ) -> Result<(), VerifyError> {
        let repaired = self.mark_damaged(row).await?;
        self.report(&Finding::WrongSize {
            original: named(row),
            expected: row.file_size,
            actual,
            repaired,
        });
        Ok(())
    }

    /// `sound`: its bytes were read and are right.
    async fn report_known_damage(
        &mut self,
        row: &KeyedOriginal,
        sound: bool,
    ) -> Result<(), VerifyError> {
        let repaired =
            sound && self.options.repair && self.ledger.clear_damage(row.id, &row.s3_key).await?;
        self.report(&Finding::KnownDamage {
            original: named(row),
            repaired,
        });
        Ok(())
    }

    fn report_unreadable(&mut self, key: &str, error: &StoreError) {
        self.report(&Finding::Unreadable {
            key: key.to_owned(),
            error: error.to_string(),
        });
    }
}

/// Reads an object to its end. Bytes that the store itself calls damaged are an unreadable object.
async fn read_and_hash(store: &dyn crate::store::BlobStore, key: &str) -> Reading {
    let read = async {
        let mut stream = store.get(key, None).await?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        while let Some(chunk) = stream.try_next().await? {
            bytes += chunk.len() as u64;
            hasher.update(&chunk);
        }
        let digest: [u8; 32] = hasher.finalize().into();
        Ok((bytes, ContentDigest::from(digest)))
    };
    match read.await {
        Ok((bytes, digest)) => Reading::Read(bytes, digest),
        Err(error) => match error {
            StoreError {
                kind: StoreErrorKind::NotFound,
                ..
            } => Reading::Absent,
            error => Reading::Failed(error),
        },
    }
}

fn named(row: &KeyedOriginal) -> OriginalKey {
    OriginalKey {
        id: row.id,
        key: row.s3_key.clone(),
    }
}
