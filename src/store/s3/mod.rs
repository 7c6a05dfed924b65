//! Any store that speaks S3, through `aws-sdk-s3`.
//!
//! - A key gets exactly one PUT and never an SDK retry (rule R8); everything else may be repeated
//!   and is, a few times.
//! - A PUT says its length and the SHA-256 of its bytes twice: in `x-amz-checksum-sha256`, and as the
//!   payload that the signature covers. Both come from the hash that was made on the way in: no byte
//!   is hashed again here.
//! - An answer is believed only as far as it goes; see [`errors`].

mod batch;
mod client;
mod errors;
mod probe;
mod read;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use entity::{ContentDigest, OriginalId};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::batch::{abort_stale_multipart_uploads, per_key};
use self::client::{SignKnownPayload, connect, put_once};
use self::errors::store_error;
use super::StoreErrorKind::{Damaged, Refused, Unknown};
use super::body::OutgoingBody;
use super::{BlobPage, BlobStore, BlobStream, StorageKey, StoreCapabilities, StoreError};
use crate::config::S3StorageConfig;
use crate::spool::SpooledBody;

/// Originals in a bucket, under a prefix. A cheap clone.
#[derive(Clone)]
pub struct S3Store {
    client: Client,
    bucket: String,
    prefix: String,
    operation_timeout: Duration,
    min_throughput: u64,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl S3Store {
    /// Sets the client up; the bucket is not contacted.
    ///
    /// # Errors
    /// The settings contradict each other.
    pub async fn open(config: &S3StorageConfig) -> Result<Self, StoreError> {
        let client = connect(config)
            .await
            .map_err(|text| StoreError::new(Refused, "open", config.bucket.as_str(), text))?;
        Ok(Self {
            client,
            bucket: config.bucket.clone(),
            prefix: config.prefix.clone(),
            operation_timeout: config.operation_timeout,
            min_throughput: config.min_throughput.max(1),
        })
    }

    /// How long a transfer of so many bytes may take.
    fn allowed_time(&self, bytes: u64) -> Duration {
        self.operation_timeout + Duration::from_secs(bytes.div_ceil(self.min_throughput))
    }

    /// What all keys begin with, as a listing takes it.
    fn listing_prefix(&self) -> String {
        match self.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        }
    }

    /// One PUT, one attempt. `payload` is the SHA-256 of the body, `checksum` what the header says:
    /// only the probe lets them differ.
    async fn put_body(
        &self,
        key: &str,
        body: OutgoingBody,
        payload: ContentDigest,
        checksum: &ContentDigest,
    ) -> Result<(), StoreError> {
        let bytes = body.len();
        let length =
            i64::try_from(bytes).map_err(|error| StoreError::new(Refused, "put", key, error))?;
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_length(length)
            .checksum_sha256(BASE64.encode(checksum.as_bytes()))
            .body(ByteStream::from_body_1_x(body))
            .customize()
            .config_override(put_once(self.allowed_time(bytes)))
            .interceptor(SignKnownPayload(payload))
            .send()
            .await
            .map(drop)
            .map_err(|error| store_error("put", key, &error))
    }

    async fn put_bytes(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let digest = ContentDigest::from(<[u8; 32]>::from(Sha256::digest(&bytes)));
        self.put_body(key, OutgoingBody::from_bytes(bytes), digest, &digest)
            .await
    }
}

#[async_trait]
impl BlobStore for S3Store {
    async fn put(
        &self,
        key: &str,
        body: &SpooledBody,
        digest: &ContentDigest,
    ) -> Result<(), StoreError> {
        self.put_body(key, OutgoingBody::new(body), *digest, digest)
            .await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<BlobStream, StoreError> {
        read::get(self, key, range).await
    }

    async fn stat(&self, key: &str) -> Result<u64, StoreError> {
        let head = self.client.head_object().bucket(&self.bucket).key(key);
        let found = head
            .send()
            .await
            .map_err(|error| store_error("stat", key, &error))?;
        let length = found.content_length().and_then(|n| u64::try_from(n).ok());
        length.ok_or_else(|| StoreError::new(Unknown, "stat", key, "an answer without a length"))
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        super::check_delete_keys(keys)?;
        let Some(first) = keys.first() else {
            return Ok(vec![]);
        };
        let invalid = |error| StoreError::new(Refused, "delete", first.as_str(), error);
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(key).build())
            .collect::<Result<Vec<_>, _>>()
            .map_err(invalid)?;
        let batch = Delete::builder()
            .set_objects(Some(objects))
            .quiet(true)
            .build()
            .map_err(invalid)?;
        let answer = self
            .client
            .delete_objects()
            .bucket(&self.bucket)
            .delete(batch)
            .send()
            .await
            .map_err(|error| store_error("delete", first, &error))?;
        per_key(keys, answer.errors())
    }

    async fn list(&self, after: Option<&str>) -> Result<BlobPage, StoreError> {
        read::list(self, after).await
    }

    async fn presign_get(
        &self,
        key: &str,
        valid_for: Duration,
        content_type: &str,
        content_disposition: &str,
    ) -> Result<Option<String>, StoreError> {
        let presigning = PresigningConfig::expires_in(valid_for)
            .map_err(|error| StoreError::new(Refused, "presign", key, error))?;
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .response_content_type(content_type)
            .response_content_disposition(content_disposition)
            .presigned(presigning)
            .await
            .map_err(|error| store_error("presign", key, &error))?;
        Ok(Some(request.uri().to_owned()))
    }

    async fn read_store_id(&self) -> Result<Option<Uuid>, StoreError> {
        let key = StorageKey::store_id(&self.prefix);
        let chunks: Vec<Bytes> = match read::get(self, key.as_str(), None).await {
            Ok(stream) => stream.try_collect().await?,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let bytes = chunks.concat();
        std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .map(Some)
            .ok_or_else(|| StoreError::new(Damaged, "read_store_id", key.as_str(), "not a UUID"))
    }

    async fn write_store_id(&self, store_id: Uuid) -> Result<(), StoreError> {
        let key = StorageKey::store_id(&self.prefix);
        self.put_bytes(key.as_str(), format!("{store_id}\n").into())
            .await
    }

    /// A store that does not know this listing has none to abort that anybody could see.
    async fn abort_stale_multipart_uploads(&self, older_than: Duration) -> Result<u64, StoreError> {
        abort_stale_multipart_uploads(self, older_than).await
    }

    async fn probe(&self) -> Result<StoreCapabilities, StoreError> {
        probe::run(self).await
    }

    fn file_of(&self, _key: &str) -> Option<PathBuf> {
        None
    }

    fn key_for(&self, digest: &ContentDigest, generation: OriginalId) -> StorageKey {
        StorageKey::original(&self.prefix, digest, generation)
    }
}

#[cfg(test)]
mod tests;
