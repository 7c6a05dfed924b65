//! What the store really does, found out at start-up.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use entity::ContentDigest;
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::S3Store;
use super::errors::store_error;
use super::read;
use crate::store::StoreErrorKind::{Damaged, Refused};
use crate::store::body::OutgoingBody;
use crate::store::{BlobStore, StorageKey, StoreCapabilities, StoreError};

/// No probe takes as long as so many calls may take: whoever wrote an older object has been killed, or
/// has given up a PUT that landed all the same.
const CALLS_OF_A_PROBE: u32 = 20;

/// Writes an object with a lie for its checksum and one with the truth, reads the second, and
/// deletes both, whatever the answers were: some stores refuse the lie and keep the bytes. Deletes
/// what earlier probes have left, too.
pub(super) async fn run(store: &S3Store) -> Result<StoreCapabilities, StoreError> {
    let lie = StorageKey::probe(&store.prefix, Uuid::now_v7()).to_string();
    let truth = StorageKey::probe(&store.prefix, Uuid::now_v7()).to_string();
    let found = write_and_read(store, &lie, &truth).await;
    let deleted = store.delete(&[lie, truth]).await;
    if let Err(error) = delete_left_over(store).await {
        tracing::warn!(%error, "could not delete what earlier probes have left in the object store");
    }
    let capabilities = found?;
    deleted?.into_iter().collect::<Result<(), _>>()?;
    Ok(capabilities)
}

/// One page of them: the next start sees to the next.
async fn delete_left_over(store: &S3Store) -> Result<(), StoreError> {
    let probes = StorageKey::probes(&store.prefix).to_string();
    let made_before = Utc::now() - CALLS_OF_A_PROBE * store.operation_timeout;
    let answer = store
        .client
        .list_objects_v2()
        .bucket(&store.bucket)
        .prefix(&probes)
        .send()
        .await
        .map_err(|error| store_error("list", &probes, &error))?;
    let keys: Vec<String> = answer
        .contents()
        .iter()
        .filter_map(|object| object.key())
        .filter(|key| made_at(&probes, key).is_some_and(|made| made < made_before))
        .map(ToOwned::to_owned)
        .collect();
    store.delete(&keys).await?.into_iter().collect()
}

/// When the process that made a probe's key says that it did.
fn made_at(probes: &str, key: &str) -> Option<DateTime<Utc>> {
    let nonce: Uuid = key.strip_prefix(probes)?.parse().ok()?;
    let (seconds, nanos) = nonce.get_timestamp()?.to_unix();
    Some((std::time::UNIX_EPOCH + Duration::new(seconds, nanos)).into())
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
