//! Where bytes live: one trait, an S3 implementation and a local one.
//!
//! The store knows no database. It promises the protocol three things and no more:
//!
//! - after `put` returned `Ok`, the object is durable and has the digest it was given with;
//! - after `put` failed with anything else, the object may or may not be there, now or later, unless
//!   the error says [`StoreErrorKind::Refused`]: the key is burnt (rule R1), and only a DELETE that begins past the
//!   row's `put_deadline` proves it gone (rule R8);
//! - `delete` of a key that is not there succeeds.

mod body;
mod error;
mod key;
mod local;
mod metered;
mod open;
mod s3;

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod testing;

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use entity::ContentDigest;
use futures::stream::BoxStream;
use uuid::Uuid;

pub use error::{StoreError, StoreErrorKind};
pub use key::StorageKey;
pub use local::LocalStore;
pub use metered::MeteredStore;
pub use open::open;
pub use s3::S3Store;

use crate::spool::SpooledBody;

/// The most keys that one call of [`BlobStore::delete`] takes: S3's own limit for `DeleteObjects`.
pub const MAX_DELETE_KEYS: usize = 1000;

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedBlob {
    /// The full key, prefix included.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// When the store says it was written; its clock, not the database's.
    pub modified_at: DateTime<Utc>,
}

/// One page of a listing, ascending by key (byte order).
#[derive(Debug, Default)]
pub struct BlobPage {
    /// At most 1000 objects.
    pub blobs: Vec<ListedBlob>,
    /// Pass as `after` to go on; `None` at the end.
    pub next: Option<String>,
}

/// A piece of an object on its way out.
pub type BlobStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// What the start-up probe saw the store do, as opposed to what its vendor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreCapabilities {
    /// Bytes cannot change unnoticed between their hash and the store. S3: a PUT whose bytes do not
    /// match `x-amz-checksum-sha256` was refused. Local: the file that is put in place is the file
    /// that was written while its bytes were hashed; no wire lies between, so nothing is hashed again.
    pub verifies_checksum: bool,
}

/// A place for immutable objects, each written at most once.
#[async_trait]
pub trait BlobStore: Send + Sync + std::fmt::Debug + 'static {
    /// Writes one object, exactly one attempt (rule R8), durable when it returns.
    ///
    /// # Errors
    /// See the module's promises: only [`StoreErrorKind::Refused`] says that nothing was stored.
    async fn put(
        &self,
        key: &str,
        body: &SpooledBody,
        digest: &ContentDigest,
    ) -> Result<(), StoreError>;

    /// Streams an object, or the half-open byte range of it.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`] only when the store said so; anything else is not "missing" (rule R12).
    /// [`StoreErrorKind::Damaged`], here or from the stream, when the object is shorter than the range.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<BlobStream, StoreError>;

    /// An object's length in bytes.
    ///
    /// # Errors
    /// As [`BlobStore::get`].
    async fn stat(&self, key: &str) -> Result<u64, StoreError>;

    /// Deletes up to [`MAX_DELETE_KEYS`] objects in one call; the answer has one result per key, in
    /// their order. A key that is not there counts as deleted.
    ///
    /// # Errors
    /// The whole call failed: nothing is known of any key.
    async fn delete(&self, keys: &[String]) -> Result<Vec<Result<(), StoreError>>, StoreError>;

    /// Lists Hapax's objects after `after`, ascending. Reserved objects (store id, probes) are left out.
    ///
    /// # Errors
    /// The page could not be read.
    async fn list(&self, after: Option<&str>) -> Result<BlobPage, StoreError>;

    /// A URL that serves the object without Hapax for `valid_for`; `None` where the store has none.
    /// `content_type` and `content_disposition` become the answer's headers.
    ///
    /// # Errors
    /// The request could not be signed.
    async fn presign_get(
        &self,
        key: &str,
        valid_for: Duration,
        content_type: &str,
        content_disposition: &str,
    ) -> Result<Option<String>, StoreError>;

    /// The id that an earlier start left in the store, if any.
    ///
    /// # Errors
    /// The object is there but cannot be read, or the store did not answer.
    async fn read_store_id(&self) -> Result<Option<Uuid>, StoreError>;

    /// Leaves the id in the store.
    ///
    /// # Errors
    /// It may or may not have been written.
    async fn write_store_id(&self, store_id: Uuid) -> Result<(), StoreError>;

    /// Aborts multipart uploads begun under the prefix before `older_than` ago; how many. Hapax begins
    /// none itself; a bucket may hold those of another tool, and they cost money unseen.
    ///
    /// # Errors
    /// The listing or an abort failed.
    async fn abort_stale_multipart_uploads(&self, older_than: Duration) -> Result<u64, StoreError>;

    /// Finds out at start-up what the store really checks; leaves nothing behind.
    ///
    /// # Errors
    /// The store cannot be written to.
    async fn probe(&self) -> Result<StoreCapabilities, StoreError>;

    /// The file of this machine that is the object, where the store has such; nothing is read to find out.
    fn file_of(&self, key: &str) -> Option<PathBuf>;

    /// The prefix and spelling of keys in this store.
    fn key_for(&self, digest: &ContentDigest, generation: entity::OriginalId) -> StorageKey;
}

/// More than [`MAX_DELETE_KEYS`] is a bug of the caller, the same for every store.
fn check_delete_keys(keys: &[String]) -> Result<(), StoreError> {
    if keys.len() > MAX_DELETE_KEYS {
        let text = format!(
            "{} keys in one call, more than {MAX_DELETE_KEYS}",
            keys.len()
        );
        return Err(StoreError::new(StoreErrorKind::Refused, "delete", "", text));
    }
    Ok(())
}
