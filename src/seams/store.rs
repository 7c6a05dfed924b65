//! A store each of whose calls a test may fail.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use entity::{ContentDigest, OriginalId};
use uuid::Uuid;

use super::control::{Verdict, ask_about};
use crate::spool::SpooledBody;
use crate::store::{
    BlobPage, BlobStore, BlobStream, StorageKey, StoreCapabilities, StoreError, StoreErrorKind,
};

/// Wraps a store so that a test decides over each of its calls.
pub(crate) fn tap_store(store: Arc<dyn BlobStore>) -> Arc<dyn BlobStore> {
    Arc::new(TappedStore { inner: store })
}

#[derive(Debug)]
struct TappedStore {
    inner: Arc<dyn BlobStore>,
}

async fn ask(operation: &str, key: &str) -> Verdict {
    ask_about("store", operation, || key.to_owned()).await
}

/// As a connection that broke: whether the call had its effect, nobody knows.
fn lost(operation: &'static str, key: &str) -> StoreError {
    let text = "the connection broke";
    StoreError::new(StoreErrorKind::Unknown, operation, key, text)
}

#[async_trait]
impl BlobStore for TappedStore {
    async fn put(
        &self,
        key: &str,
        body: &SpooledBody,
        digest: &ContentDigest,
    ) -> Result<(), StoreError> {
        let verdict = ask("put", key).await;
        let call = self.inner.put(key, body, digest);
        verdict.carry_out(call, || lost("put", key)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<BlobStream, StoreError> {
        let verdict = ask("get", key).await;
        let call = self.inner.get(key, range);
        verdict.carry_out(call, || lost("get", key)).await
    }

    async fn stat(&self, key: &str) -> Result<u64, StoreError> {
        let verdict = ask("stat", key).await;
        let call = self.inner.stat(key);
        verdict.carry_out(call, || lost("stat", key)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let first = keys.first().map_or("", String::as_str);
        let verdict = ask("delete", first).await;
        let call = self.inner.delete(keys);
        verdict.carry_out(call, || lost("delete", first)).await
    }

    async fn list(&self, after: Option<&str>) -> Result<BlobPage, StoreError> {
        let verdict = ask("list", after.unwrap_or("")).await;
        let call = self.inner.list(after);
        verdict.carry_out(call, || lost("list", "")).await
    }

    async fn presign_get(
        &self,
        key: &str,
        valid_for: Duration,
        content_type: &str,
        content_disposition: &str,
    ) -> Result<Option<String>, StoreError> {
        self.inner
            .presign_get(key, valid_for, content_type, content_disposition)
            .await
    }

    async fn read_store_id(&self) -> Result<Option<Uuid>, StoreError> {
        self.inner.read_store_id().await
    }

    async fn write_store_id(&self, store_id: Uuid) -> Result<(), StoreError> {
        self.inner.write_store_id(store_id).await
    }

    async fn abort_stale_multipart_uploads(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.inner.abort_stale_multipart_uploads(older_than).await
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
