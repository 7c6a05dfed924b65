//! Counts and times every call to a store, whichever it is.

use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use entity::{ContentDigest, OriginalId};
use uuid::Uuid;

use super::{BlobPage, BlobStore, BlobStream, StorageKey, StoreCapabilities, StoreError};
use crate::metrics::METRICS;
use crate::spool::SpooledBody;

/// Records `hapax_store_request_duration_seconds{operation,outcome}` for each call of the store that
/// it wraps. A streamed read is timed to its first answer, not to its last byte: the client's speed
/// is not the store's. A call that its caller dropped is not recorded.
#[derive(Debug)]
pub struct MeteredStore {
    inner: Arc<dyn BlobStore>,
}

impl MeteredStore {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self { inner }
    }
}

async fn timed<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    let began = Instant::now();
    let result = call.await;
    let outcome = match &result {
        Ok(_) => "ok",
        Err(error) => error.kind.as_str(),
    };
    METRICS
        .store_requests
        .with_label_values(&[operation, outcome])
        .observe(began.elapsed().as_secs_f64());
    result
}

#[async_trait]
impl BlobStore for MeteredStore {
    async fn put(
        &self,
        key: &str,
        body: &SpooledBody,
        digest: &ContentDigest,
    ) -> Result<(), StoreError> {
        timed("put", self.inner.put(key, body, digest)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<BlobStream, StoreError> {
        timed("get", self.inner.get(key, range)).await
    }

    async fn stat(&self, key: &str) -> Result<u64, StoreError> {
        timed("stat", self.inner.stat(key)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        timed("delete", self.inner.delete(keys)).await
    }

    async fn list(&self, after: Option<&str>) -> Result<BlobPage, StoreError> {
        timed("list", self.inner.list(after)).await
    }

    async fn presign_get(
        &self,
        key: &str,
        valid_for: Duration,
        content_type: &str,
        content_disposition: &str,
    ) -> Result<Option<String>, StoreError> {
        let call = self
            .inner
            .presign_get(key, valid_for, content_type, content_disposition);
        timed("presign", call).await
    }

    async fn read_store_id(&self) -> Result<Option<Uuid>, StoreError> {
        timed("read_store_id", self.inner.read_store_id()).await
    }

    async fn write_store_id(&self, store_id: Uuid) -> Result<(), StoreError> {
        timed("write_store_id", self.inner.write_store_id(store_id)).await
    }

    async fn abort_stale_multipart_uploads(&self, older_than: Duration) -> Result<u64, StoreError> {
        let call = self.inner.abort_stale_multipart_uploads(older_than);
        timed("abort_multipart", call).await
    }

    async fn probe(&self) -> Result<StoreCapabilities, StoreError> {
        timed("probe", self.inner.probe()).await
    }

    fn file_of(&self, key: &str) -> Option<PathBuf> {
        self.inner.file_of(key)
    }

    fn key_for(&self, digest: &ContentDigest, generation: OriginalId) -> StorageKey {
        self.inner.key_for(digest, generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LocalStore;
    use crate::store::testing::{digest_of, memory_body};

    fn calls(operation: &str, outcome: &str) -> u64 {
        METRICS
            .store_requests
            .with_label_values(&[operation, outcome])
            .get_sample_count()
    }

    #[tokio::test]
    async fn every_call_is_counted_under_its_outcome() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = MeteredStore::new(Arc::new(LocalStore::open(dir.path()).expect("opened")));
        let digest = digest_of(b"bytes");
        let key = store.key_for(&digest, OriginalId(Uuid::new_v4()));
        // Other tests count into the same process's metrics: at least, not exactly.
        let before = [calls("stat", "not_found"), calls("put", "ok")];
        store.stat(key.as_str()).await.expect_err("not there yet");
        let body = memory_body(b"bytes");
        store.put(key.as_str(), &body, &digest).await.expect("put");
        assert!(calls("stat", "not_found") > before[0]);
        assert!(calls("put", "ok") > before[1]);
    }
}
