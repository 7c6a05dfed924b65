//! The clean-up job: originals that nobody has referenced for a while go now.

use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use entity::{ContentDigest, OriginalId, original_images};

use super::{IdentityError, Purger, StoreIdentity, StoreMatch};
use crate::actors::blob::BlobActor;
use crate::ledger::reap::CondemnedOriginal;
use crate::ledger::{Ledger, LedgerError};
use crate::store::{BlobStore, MAX_DELETE_KEYS};

/// How long the claimed rows are this command's own; if it dies, a reaper takes them after that.
const HOLD: Duration = Duration::from_secs(60);

/// One original that was, or would be, deleted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ReapedOriginal {
    /// Its id.
    #[serde(serialize_with = "display")]
    pub id: OriginalId,
    /// SHA-256 of its bytes.
    #[serde(serialize_with = "display")]
    pub content_hash: ContentDigest,
    /// Length in bytes.
    pub file_size: i64,
}

/// What the job did, or would do.
#[derive(Debug, Default, serde::Serialize)]
pub struct CleanupReport {
    /// In the order in which they were taken: the longest unreferenced first.
    pub originals: Vec<ReapedOriginal>,
    /// Objects and rows gone; 0 in a dry run.
    pub deleted: u64,
    /// Bytes of those.
    pub bytes: i64,
    /// Objects that could not be deleted; a reaper tries them again.
    pub failed: Vec<(String, String)>,
}

/// Why the job could not run.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The database did not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Nobody could say whose store this is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store belongs to another database.
    #[error(
        "the object store does not belong to this database (expected id {expected:?}, found {found:?})"
    )]
    WrongStore {
        /// What the database expects.
        expected: Option<uuid::Uuid>,
        /// What the store has.
        found: Option<uuid::Uuid>,
    },
}

/// Deletes up to `limit` originals that nobody has referenced for `older_than`; a dry run answers
/// from the same query what a live run would take.
///
/// # Errors
/// See [`CleanupError`]; what was claimed before an error is finished by the reapers.
pub async fn cleanup(
    ledger: &Ledger,
    store: &Arc<dyn BlobStore>,
    blobs: &Addr<BlobActor>,
    older_than: Duration,
    limit: u64,
    dry_run: bool,
) -> Result<CleanupReport, CleanupError> {
    if dry_run {
        let rows = ledger.list_unreferenced(older_than, limit).await?;
        return Ok(CleanupReport {
            originals: rows.iter().map(reaped).collect(),
            ..CleanupReport::default()
        });
    }
    let identity = StoreIdentity::new(ledger.clone(), store.clone());
    if let StoreMatch::NotOurs { expected, found } = identity.check().await? {
        return Err(CleanupError::WrongStore { expected, found });
    }
    let mut rows = ledger
        .claim_unreferenced(older_than, limit, HOLD)
        .await?
        .claimed;
    rows.sort_by_key(|row| row.zero_since);
    let mut report = CleanupReport {
        originals: rows.iter().map(reaped).collect(),
        ..CleanupReport::default()
    };
    let purger = Purger {
        ledger: ledger.clone(),
        blobs: blobs.clone(),
    };
    for batch in rows.chunks(MAX_DELETE_KEYS) {
        let purged = purger.purge(batch.iter().map(condemned).collect()).await?;
        report.deleted += purged.removed.len() as u64;
        report.bytes += purged.removed.iter().map(|row| row.file_size).sum::<i64>();
        report.failed.extend(
            purged
                .failed
                .into_iter()
                .map(|(row, why)| (row.s3_key, why)),
        );
    }
    Ok(report)
}

fn reaped(row: &original_images::Model) -> ReapedOriginal {
    ReapedOriginal {
        id: row.id,
        content_hash: row.content_hash,
        file_size: row.file_size,
    }
}

/// A row that was `stored`: its only PUT answered before it became so, and `put_deadline` has been
/// in the past since.
fn condemned(row: &original_images::Model) -> CondemnedOriginal {
    CondemnedOriginal {
        id: row.id,
        s3_key: row.s3_key.clone(),
        file_size: row.file_size,
        put_deadline: row.put_deadline,
        past_put_deadline: true,
        attempts: row.attempts,
    }
}

fn display<S: serde::Serializer>(
    value: &impl std::fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
