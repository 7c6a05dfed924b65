//! From the configuration to a store.

use std::sync::Arc;

use super::{BlobStore, LocalStore, MeteredStore, S3Store, StoreError};
use crate::config::{StorageBackend, StorageConfig};
use crate::seams::tap_store;

/// Opens the configured store, with metrics. The local one makes its directories here; S3 is not
/// contacted yet (see [`BlobStore::probe`]).
///
/// # Errors
/// The local directories cannot be made, or the S3 settings contradict each other.
pub async fn open(config: &StorageConfig) -> Result<Arc<dyn BlobStore>, StoreError> {
    let store: Arc<dyn BlobStore> = match config.backend {
        StorageBackend::Local => Arc::new(LocalStore::open(&config.local.path)?),
        StorageBackend::S3 => Arc::new(S3Store::open(&config.s3).await?),
    };
    Ok(Arc::new(MeteredStore::new(tap_store(store))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreErrorKind;

    #[tokio::test]
    async fn the_configured_store_is_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = StorageConfig::default();
        config.local.path = dir.path().join("made/on/demand");
        let local = open(&config).await.expect("opened");
        local.probe().await.expect("usable");
        assert!(LocalStore::spool_dir(&config.local.path).is_dir());

        config.backend = StorageBackend::S3;
        config.s3.endpoint = Some("http://127.0.0.1:9".to_owned());
        config.s3.access_key_id = Some("half a pair".to_owned());
        let error = open(&config).await.expect_err("no secret");
        assert_eq!(error.kind, StoreErrorKind::Refused);
        config.s3.secret_access_key = Some("the other half".to_owned());
        open(&config)
            .await
            .expect("nothing is asked of the server yet");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_said_at_the_start() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("file"), b"").expect("written");
        let mut config = StorageConfig::default();
        config.local.path = dir.path().join("file/objects");
        assert!(open(&config).await.is_err());
    }
}
