//! What the store really does, found out at start-up.

use bytes::Bytes;
use entity::ContentDigest;
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::S3Store;
use super::read;
use crate::store::StoreErrorKind::{Damaged, Refused};
use crate::store::body::OutgoingBody;
use crate::store::{BlobStore, StorageKey, StoreCapabilities, StoreError};

/// Writes an object with a lie for its checksum and one with the truth, reads the second, and
/// deletes both, whatever the answers were: some stores refuse the lie and keep the bytes.
pub(super) async fn run(store: &S3Store) -> Result<StoreCapabilities, StoreError> {
    let lie = StorageKey::probe(&store.prefix, Uuid::new_v4()).to_string();
    let truth = StorageKey::probe(&store.prefix, Uuid::new_v4()).to_string();
    let found = write_and_read(store, &lie, &truth).await;
    let deleted = store.delete(&[lie, truth]).await;
    let capabilities = found?;
    deleted?.into_iter().collect::<Result<(), _>>()?;
    Ok(capabilities)
}

async fn write_and_read(
    store: &S3Store,
    lie: &str,
    truth: &str,
) -> Result<StoreCapabilities, StoreError> {
    let bytes = Bytes::from(format!("probe of Hapax, {truth}\n"));
    // The truth first: where nothing can be written at all, a refusal of the lie would prove nothing.
    store.put_bytes(truth, bytes.clone()).await?;
    let chunks: Vec<Bytes> = read::get(store, truth, None).await?.try_collect().await?;
    if chunks.concat() != bytes {
        return Err(StoreError::new(
            Damaged,
            "probe",
            truth,
            "it reads back differently",
        ));
    }

    let payload = ContentDigest::from(<[u8; 32]>::from(Sha256::digest(&bytes)));
    let other = ContentDigest::from(<[u8; 32]>::from(Sha256::digest(b"other bytes")));
    let body = OutgoingBody::from_bytes(bytes);
    // The signed payload is right, so that it is the checksum that is refused.
    let verifies_checksum = match store.put_body(lie, body, payload, &other).await {
        Ok(()) => false,
        Err(error) if error.kind == Refused => true,
        Err(error) => return Err(error),
    };
    Ok(StoreCapabilities { verifies_checksum })
}
