//! `BlobActor`: the only one that writes to the object store and deletes from it.
//!
//! **Role.** It carries out the protocol's step 5 (one PUT for a key that a row already names) and
//! the reapers' deletes, and decides nothing: the row says what is to be done, the caller what an
//! error means. Reads go to the store directly.
//!
//! **Invariants.**
//! - One [`WriteBlob`] is at most one PUT (rule R8), and none begins after its `give_up_at`.
//! - Work that began runs to its end, whoever stops waiting for the answer (rule R13): it runs in a
//!   task of its own, which [`Drain`] waits for.
//! - At most so many calls are in flight at once; the rest wait in order of arrival. How many may
//!   wait is the callers' business: a body waits with its byte permit.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use entity::ContentDigest;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::Drain;
use crate::config::{StorageBackend, StorageConfig};
use crate::seams::{Rule, enforced};
use crate::spool::SpooledBody;
use crate::store::{BlobStore, StoreError, StoreErrorKind};

/// Calls of the local store in flight at once. Each holds a thread while the disk syncs; a file
/// system makes the syncs that wait at one moment durable by one write of its journal, so more than a
/// few of them in flight is what makes them cheap.
const LOCAL_CONCURRENCY: usize = 32;

/// Writes and deletes objects. Start it once, on an arbiter of its own.
#[derive(Debug)]
pub struct BlobActor {
    store: Arc<dyn BlobStore>,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl BlobActor {
    /// With at most `max_concurrency` (not 0) calls in flight.
    pub fn new(store: Arc<dyn BlobStore>, max_concurrency: usize) -> Self {
        Self {
            store,
            permits: Arc::new(Semaphore::new(max_concurrency.max(1))),
            tasks: TaskTracker::new(),
        }
    }

    /// With as many calls in flight as the configured store is good for.
    pub fn from_config(store: Arc<dyn BlobStore>, config: &StorageConfig) -> Self {
        let max_concurrency = match config.backend {
            StorageBackend::Local => LOCAL_CONCURRENCY,
            StorageBackend::S3 => config.s3.max_concurrency,
        };
        Self::new(store, max_concurrency)
    }

    /// Runs `work` in a task that only the end of the process cancels.
    fn detached<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: String,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> ResponseFuture<Result<T, StoreError>> {
        let draining = self.tasks.is_closed();
        let task = (!draining).then(|| self.tasks.spawn(work));
        Box::pin(async move {
            let Some(task) = task else {
                return Err(StoreError::new(
                    StoreErrorKind::Refused,
                    operation,
                    key,
                    "draining",
                ));
            };
            // Lost is panicked or cut off by the end of the runtime: it may have taken effect.
            task.await.unwrap_or_else(|lost| {
                Err(StoreError::new(
                    StoreErrorKind::Unknown,
                    operation,
                    key,
                    lost,
                ))
            })
        })
    }
}

impl Actor for BlobActor {
    type Context = Context<Self>;
}

/// Store these bytes under this key: exactly one PUT, or none.
#[derive(Debug, Message)]
#[rtype(result = "Result<StoredBlob, StoreError>")]
pub struct WriteBlob {
    /// Named by a committed `pending` row (rule R2) and never used before (rule R1).
    pub key: String,
    /// SHA-256 of the body.
    pub digest: ContentDigest,
    /// The bytes.
    pub body: SpooledBody,
    /// No PUT begins after it: choose it so that one that begins just before, and takes as long as
    /// the store allows, still ends within the lease.
    pub give_up_at: Instant,
}

/// The object is durable and has its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlob {
    /// Where.
    pub key: String,
    /// Its length.
    pub bytes: u64,
}

impl Handler<WriteBlob> for BlobActor {
    type Result = ResponseFuture<Result<StoredBlob, StoreError>>;

    fn handle(&mut self, write: WriteBlob, _: &mut Self::Context) -> Self::Result {
        let (store, permits) = (Arc::clone(&self.store), Arc::clone(&self.permits));
        self.detached("put", write.key.clone(), async move {
            let deadline = write.give_up_at.into();
            let permit = tokio::time::timeout_at(deadline, permits.acquire_owned()).await;
            // A permit may come at the very deadline, or after it where the thread was busy.
            let (Ok(Ok(_permit)), true) = (permit, Instant::now() < write.give_up_at) else {
                let text = "no free slot before the deadline; nothing was sent";
                return Err(StoreError::new(
                    StoreErrorKind::Refused,
                    "put",
                    write.key,
                    text,
                ));
            };
            let put = || store.put(&write.key, &write.body, &write.digest);
            let mut written = put().await;
            if !enforced(Rule::OnePutPerKey) && written.is_err() {
                written = put().await;
            }
            written?;
            Ok(StoredBlob {
                bytes: write.body.len(),
                key: write.key,
            })
        })
    }
}

/// Delete these objects, at most [`MAX_DELETE_KEYS`](crate::store::MAX_DELETE_KEYS), in one call.
/// The answer has one result per key, in their order; a key that is not there counts as deleted. An
/// error of the whole says nothing of any key.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Result<(), StoreError>>, StoreError>")]
pub struct DeleteBlobs {
    /// Of `deleting` rows.
    pub keys: Vec<String>,
}

impl Handler<DeleteBlobs> for BlobActor {
    type Result = ResponseFuture<Result<Vec<Result<(), StoreError>>, StoreError>>;

    fn handle(&mut self, delete: DeleteBlobs, _: &mut Self::Context) -> Self::Result {
        let (store, permits) = (Arc::clone(&self.store), Arc::clone(&self.permits));
        let first = delete.keys.first().cloned().unwrap_or_default();
        self.detached("delete", first, async move {
            let permit = permits.acquire_owned().await;
            let _permit = permit.expect("the actor never closes its semaphore");
            store.delete(&delete.keys).await
        })
    }
}

impl Handler<Drain> for BlobActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        self.tasks.close();
        let tasks = self.tasks.clone();
        Box::pin(async move { tasks.wait().await })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use entity::OriginalId;
    use uuid::Uuid;

    use super::*;
    use crate::store::testing::{digest_of, memory_body};
    use crate::store::{BlobPage, BlobStream, LocalStore, StorageKey, StoreCapabilities};

    /// A local store whose PUTs wait to be let through, and which counts them.
    #[derive(Debug)]
    struct GatedStore {
        inner: LocalStore,
        gate: Semaphore,
        begun: AtomicUsize,
        at_once: AtomicUsize,
        most_at_once: AtomicUsize,
    }

    impl GatedStore {
        fn open(path: &std::path::Path) -> Arc<Self> {
            Arc::new(Self {
                inner: LocalStore::open(path).expect("opened"),
                gate: Semaphore::new(0),
                begun: AtomicUsize::new(0),
                at_once: AtomicUsize::new(0),
                most_at_once: AtomicUsize::new(0),
            })
        }

        async fn wait_for_begun(&self, puts: usize) {
            while self.begun.load(Ordering::SeqCst) < puts {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[async_trait]
    impl BlobStore for GatedStore {
        async fn put(
            &self,
            key: &str,
            body: &SpooledBody,
            digest: &ContentDigest,
        ) -> Result<(), StoreError> {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(now, Ordering::SeqCst);
            self.gate.acquire().await.expect("open").forget();
            let result = self.inner.put(key, body, digest).await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            result
        }
        async fn get(
            &self,
            key: &str,
            range: Option<Range<u64>>,
        ) -> Result<BlobStream, StoreError> {
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
            disposition: &str,
        ) -> Result<Option<String>, StoreError> {
            let inner = &self.inner;
            inner
                .presign_get(key, valid_for, content_type, disposition)
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

    const SOON: Duration = Duration::from_secs(60);

    fn write(store: &dyn BlobStore, bytes: &[u8], patience: Duration) -> WriteBlob {
        let digest = digest_of(bytes);
        let key = store.key_for(&digest, OriginalId(Uuid::new_v4()));
        WriteBlob {
            key: key.to_string(),
            digest,
            body: memory_body(bytes),
            give_up_at: Instant::now() + patience,
        }
    }

    #[actix::test]
    async fn what_is_written_is_there_until_it_is_deleted() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(LocalStore::open(dir.path()).expect("opened"));
        let actor = BlobActor::new(Arc::clone(&store) as _, 2).start();
        let request = write(&*store, b"bytes", SOON);
        let key = request.key.clone();
        let stored = actor.send(request).await.expect("alive").expect("stored");
        assert_eq!((&stored.key, stored.bytes), (&key, 5));
        assert_eq!(store.stat(&key).await.expect("there"), 5);

        let keys = vec![key.clone(), key.clone()];
        let deleted = actor.send(DeleteBlobs { keys }).await.expect("alive");
        assert!(deleted.expect("answered").iter().all(Result::is_ok));
        assert!(store.stat(&key).await.expect_err("gone").is_not_found());
    }

    #[actix::test]
    async fn no_put_begins_after_its_deadline() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = GatedStore::open(dir.path());
        let actor = BlobActor::new(Arc::clone(&store) as _, 1).start();
        let first = actor.send(write(&*store, b"first", SOON));
        let first = actix::spawn(first);
        store.wait_for_begun(1).await;

        let patience = Duration::from_millis(50);
        let late = actor.send(write(&*store, b"late", patience)).await;
        let error = late.expect("alive").expect_err("no slot");
        assert_eq!(error.kind, StoreErrorKind::Refused);

        store.gate.add_permits(10);
        first
            .await
            .expect("no panic")
            .expect("alive")
            .expect("stored");
        let over = actor.send(write(&*store, b"over", Duration::ZERO)).await;
        assert!(over.expect("alive").is_err());
        assert_eq!(store.begun.load(Ordering::SeqCst), 1);
    }

    #[actix::test]
    async fn concurrency_is_bounded_and_all_get_their_turn() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = GatedStore::open(dir.path());
        let actor = BlobActor::new(Arc::clone(&store) as _, 3).start();
        let writes = (0..20_u8).map(|i| actor.send(write(&*store, &[i], SOON)));
        let writes = actix::spawn(futures::future::join_all(writes));
        store.wait_for_begun(3).await;
        store.gate.add_permits(20);
        for stored in writes.await.expect("no panic") {
            stored.expect("alive").expect("stored");
        }
        assert_eq!(store.most_at_once.load(Ordering::SeqCst), 3);
    }

    #[actix::test]
    async fn a_caller_that_leaves_cancels_nothing_and_a_drain_waits() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = GatedStore::open(dir.path());
        let actor = BlobActor::new(Arc::clone(&store) as _, 4).start();
        let request = write(&*store, b"abandoned", SOON);
        let key = request.key.clone();
        let caller = actix::spawn(actor.send(request));
        store.wait_for_begun(1).await;
        caller.abort();

        let mut drained = actix::spawn(actor.send(Drain));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut drained).await;
        assert!(early.is_err(), "the write is still under way");
        let refused = actor.send(write(&*store, b"after", SOON)).await;
        assert!(refused.expect("alive").is_err());

        store.gate.add_permits(1);
        drained.await.expect("no panic").expect("alive");
        assert_eq!(store.stat(&key).await.expect("there"), 9);
    }
}
