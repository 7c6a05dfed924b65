//! A store whose next PUT stands still where a history wants it to.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use entity::{ContentDigest, OriginalId};
use hapax::spool::SpooledBody;
use hapax::store::{BlobPage, BlobStore, BlobStream, StorageKey, StoreCapabilities, StoreError};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Where a PUT stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The store has not seen it.
    Before,
    /// The store has done it and not answered.
    After,
    /// It has left the process, and arrives when `land` says so.
    Underway,
}

/// A PUT that left its process.
#[derive(Debug)]
pub(super) struct LatePut {
    pub(super) key: String,
    body: SpooledBody,
    digest: ContentDigest,
}

impl LatePut {
    /// It arrives.
    pub(super) async fn land(self, store: &dyn BlobStore) -> Result<(), StoreError> {
        store.put(&self.key, &self.body, &self.digest).await
    }
}

#[derive(Debug)]
struct Armed {
    stop: Stop,
    reached: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
}

/// Both ends of a PUT that stands still.
#[derive(Debug)]
pub(super) struct Held {
    /// Told when the PUT is there.
    pub(super) reached: oneshot::Receiver<()>,
    /// Lets it go on; until then, and when dropped, it stands.
    pub(super) go: oneshot::Sender<()>,
}

/// Shared by the stores of all processes of one history.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    armed: Mutex<Option<Armed>>,
    late: Mutex<Vec<LatePut>>,
}

impl Pauses {
    /// Stops the next PUT.
    pub(super) fn arm(&self, stop: Stop) -> Held {
        let ((reached, told), (go, wait)) = (oneshot::channel(), oneshot::channel());
        *self.armed.lock().expect("not poisoned") = Some(Armed {
            stop,
            reached,
            go: wait,
        });
        Held { reached: told, go }
    }

    /// PUTs go through.
    pub(super) fn disarm(&self) {
        *self.armed.lock().expect("not poisoned") = None;
    }

    /// What is on its way.
    pub(super) fn take_late(&self) -> Vec<LatePut> {
        std::mem::take(&mut *self.late.lock().expect("not poisoned"))
    }

    fn next(&self) -> Option<Armed> {
        self.armed.lock().expect("not poisoned").take()
    }
}

/// The real store, and what a history does to its PUTs.
#[derive(Debug)]
pub(super) struct PausingStore {
    pub(super) inner: Arc<dyn BlobStore>,
    pub(super) pauses: Arc<Pauses>,
}

#[async_trait]
impl BlobStore for PausingStore {
    async fn put(
        &self,
        key: &str,
        body: &SpooledBody,
        digest: &ContentDigest,
    ) -> Result<(), StoreError> {
        let Some(armed) = self.pauses.next() else {
            return self.inner.put(key, body, digest).await;
        };
        if armed.stop == Stop::Underway {
            let late = LatePut {
                key: key.to_owned(),
                body: body.clone(),
                digest: *digest,
            };
            self.pauses.late.lock().expect("not poisoned").push(late);
        }
        let done = match armed.stop {
            Stop::After => Some(self.inner.put(key, body, digest).await),
            Stop::Before | Stop::Underway => None,
        };
        let _ = armed.reached.send(());
        if armed.go.await.is_err() {
            std::future::pending::<()>().await;
        }
        match done {
            Some(done) => done,
            None => self.inner.put(key, body, digest).await,
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<BlobStream, StoreError> {
        self.inner.get(key, range).await
    }

    async fn stat(&self, key: &str) -> Result<u64, StoreError> {
        self.inner.stat(key).await
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        self.inner.delete(keys).await
    }

    async fn list(&self, after: Option<&str>) -> Result<BlobPage, StoreError> {
        self.inner.list(after).await
    }

    async fn presign_get(
        &self,
        key: &str,
        valid_for: Duration,
        content_type: &str,
        content_disposition: &str,
    ) -> Result<Option<String>, StoreError> {
        let inner = &self.inner;
        inner
            .presign_get(key, valid_for, content_type, content_disposition)
            .await
    }

    async fn read_store_id(&self) -> Result<Option<Uuid>, StoreError> {
        self.inner.read_store_id().await
    }

    async fn write_store_id(&self, store_id: Uuid) -> Result<(), StoreError> {
        self.inner.write_store_id(store_id).await
    }

    async fn abort_stale_multipart_uploads(&self, age: Duration) -> Result<u64, StoreError> {
        self.inner.abort_stale_multipart_uploads(age).await
    }

    async fn probe(&self) -> Result<StoreCapabilities, StoreError> {
        self.inner.probe().await
    }

    fn file_of(&self, key: &str) -> Option<PathBuf> {
        self.inner.file_of(key)
    }

    fn key_for(&self, digest: &ContentDigest, generation: OriginalId) -> StorageKey {
        self.inner.key_for(digest, generation)
    }
}
