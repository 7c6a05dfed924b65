//! A store in memory, with a hand in it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use entity::{ContentDigest, OriginalId};
use futures::StreamExt;
use sea_orm::ConnectionTrait;
use uuid::Uuid;

use crate::seams::Connection;
use crate::spool::SpooledBody;
use crate::store::{
    BlobPage, BlobStore, BlobStream, ListedBlob, StorageKey, StoreCapabilities, StoreError,
    StoreErrorKind,
};

/// What happens to the store between its listing and the first look at a row.
pub(super) type AfterList = Box<dyn FnOnce(&mut BTreeMap<String, Bytes>) + Send>;

/// Objects in memory, in pages of two.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) objects: Mutex<BTreeMap<String, Bytes>>,
    pub(super) unreadable: Mutex<Option<String>>,
    pub(super) after_list: Mutex<Option<AfterList>>,
    /// A statement that somebody else commits just before an object is asked for.
    pub(super) before_stat: Mutex<Option<(Connection, String)>>,
    /// Objects that are listed and asked for, but whose bytes are gone.
    pub(super) hollow: Mutex<Option<String>>,
    pub(super) cannot_list: Mutex<bool>,
    pub(super) page_size: usize,
    pub(super) store_id: Mutex<Option<Uuid>>,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shelf")
    }
}

impl Shelf {
    fn look(&self, operation: &'static str, key: &str) -> Result<Bytes, StoreError> {
        let kind = match self.unreadable.lock().expect("a lock").as_deref() == Some(key) {
            true => StoreErrorKind::Unknown,
            false => StoreErrorKind::NotFound,
        };
        let found = self.objects.lock().expect("a lock").get(key).cloned();
        match (kind, found) {
            (StoreErrorKind::NotFound, Some(bytes)) => Ok(bytes),
            (kind, _) => Err(StoreError::new(kind, operation, key, "no answer")),
        }
    }
}

#[async_trait]
impl BlobStore for Shelf {
    async fn put(&self, _: &str, _: &SpooledBody, _: &ContentDigest) -> Result<(), StoreError> {
        unreachable!("a verification writes no object")
    }

    async fn get(&self, key: &str, _: Option<Range<u64>>) -> Result<BlobStream, StoreError> {
        let bytes = self.look("get", key)?;
        if self.hollow.lock().expect("a lock").as_deref() == Some(key) {
            let kind = StoreErrorKind::NotFound;
            return Err(StoreError::new(kind, "get", key, "no bytes"));
        }
        Ok(futures::stream::iter([Ok(bytes)]).boxed())
    }

    async fn stat(&self, key: &str) -> Result<u64, StoreError> {
        let change = self.before_stat.lock().expect("a lock").take();
        if let Some((database, sql)) = change {
            database.execute_unprepared(&sql).await.expect("a change");
        }
        Ok(self.look("stat", key)?.len() as u64)
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        unreachable!("a verification deletes no object: {keys:?}")
    }

    async fn list(&self, after: Option<&str>) -> Result<BlobPage, StoreError> {
        if *self.cannot_list.lock().expect("a lock") {
            let kind = StoreErrorKind::Unknown;
            return Err(StoreError::new(kind, "list", "", "no answer"));
        }
        let mut objects = self.objects.lock().expect("a lock");
        let later = objects
            .iter()
            .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        let blobs: Vec<_> = later
            .take(self.page_size)
            .map(|(key, bytes)| ListedBlob {
                key: key.clone(),
                size: bytes.len() as u64,
                modified_at: DateTime::UNIX_EPOCH,
            })
            .collect();
        let next = match blobs.len() == self.page_size {
            true => blobs.last().map(|blob| blob.key.clone()),
            false => None,
        };
        if let Some(change) = self.after_list.lock().expect("a lock").take() {
            change(&mut objects);
        }
        Ok(BlobPage { blobs, next })
    }

    async fn presign_get(
        &self,
        _: &str,
        _: Duration,
        _: &str,
        _: &str,
    ) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    async fn read_store_id(&self) -> Result<Option<Uuid>, StoreError> {
        Ok(*self.store_id.lock().expect("a lock"))
    }

    async fn write_store_id(&self, store_id: Uuid) -> Result<(), StoreError> {
        *self.store_id.lock().expect("a lock") = Some(store_id);
        Ok(())
    }

    async fn abort_stale_multipart_uploads(&self, _: Duration) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn probe(&self) -> Result<StoreCapabilities, StoreError> {
        unreachable!("a verification needs no probe")
    }

    fn file_of(&self, _key: &str) -> Option<PathBuf> {
        None
    }

    fn key_for(&self, digest: &ContentDigest, generation: OriginalId) -> StorageKey {
        StorageKey::original("", digest, generation)
    }
}
