//! Reading objects and listing them.

use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};

use super::S3Store;
use super::errors::store_error;
use crate::store::StoreErrorKind::{Damaged, Unknown};
use crate::store::{BlobPage, BlobStore, BlobStream, ListedBlob, StorageKey, StoreError};

/// Objects on one page: S3's limit.
const PAGE_OBJECTS: i32 = 1000;

/// An object or a range of it. The stream ends with an error where bytes are missing: a cut
/// connection says nothing of the object, an answer that ends in order but early does.
pub(super) async fn get(
    store: &S3Store,
    key: &str,
    range: Option<Range<u64>>,
) -> Result<BlobStream, StoreError> {
    // HTTP has no way to ask for no bytes (RFC 9110, 14.1.2).
    if let Some(range) = range.as_ref().filter(|range| range.is_empty()) {
        let size = store.stat(key).await?;
        if range.start > size {
            return Err(too_short(key, size, range.start));
        }
        return Ok(stream::empty().boxed());
    }
    let request = store.client.get_object().bucket(&store.bucket).key(key);
    let header = range
        .as_ref()
        .map(|range| format!("bytes={}-{}", range.start, range.end - 1));
    let answer = request
        .set_range(header)
        .send()
        .await
        .map_err(|error| store_error("get", key, &error))?;
    let length = checked_length(key, range, &answer)?;
    Ok(counted(key.to_owned(), answer.body, length))
}

fn too_short(key: &str, found: u64, expected: u64) -> StoreError {
    let text = format!("{found} bytes came, not {expected}");
    StoreError::new(Damaged, "get", key, text)
}

/// How many bytes are to come, if anybody says so.
fn checked_length(
    key: &str,
    range: Option<Range<u64>>,
    answer: &GetObjectOutput,
) -> Result<Option<u64>, StoreError> {
    let announced = answer.content_length().and_then(|n| u64::try_from(n).ok());
    let Some(range) = range else {
        return Ok(announced);
    };
    let wanted = range.end - range.start;
    match announced {
        Some(announced) if answer.content_range().is_none() && announced != wanted => {
            let text = "the store ignored the range";
            Err(StoreError::new(Unknown, "get", key, text))
        }
        Some(announced) if announced < wanted => Err(too_short(key, announced, wanted)),
        _ => Ok(Some(wanted)),
    }
}

struct Incoming {
    key: String,
    body: ByteStream,
    expected: Option<u64>,
    received: u64,
}

/// The body's pieces, and an error in place of an end that comes too early or too late.
fn counted(key: String, body: ByteStream, expected: Option<u64>) -> BlobStream {
    let incoming = Incoming {
        key,
        body,
        expected,
        received: 0,
    };
    stream::unfold(Some(incoming), |incoming| async {
        let mut incoming = incoming?;
        match incoming.next().await {
            Some(Ok(chunk)) => Some((Ok(chunk), Some(incoming))),
            Some(Err(error)) => Some((Err(error), None)),
            None => None,
        }
    })
    .boxed()
}

impl Incoming {
    async fn next(&mut self) -> Option<Result<Bytes, StoreError>> {
        let wrong = |found: u64| {
            self.expected
                .filter(|expected| found != *expected)
                .map(|expected| too_short(&self.key, found, expected))
        };
        match self.body.next().await {
            None => wrong(self.received).map(Err),
            Some(Err(error)) => Some(Err(StoreError::new(
                Unknown,
                "get",
                self.key.as_str(),
                error,
            ))),
            Some(Ok(chunk)) => {
                let received = self.received + chunk.len() as u64;
                if self.expected.is_some_and(|expected| received > expected) {
                    return wrong(received).map(Err);
                }
                self.received = received;
                Some(Ok(chunk))
            }
        }
    }
}

/// One page. It resumes by key, not by the store's continuation token, so that a cursor outlives
/// the process. Foreign objects are left out but counted as passed: a page may be empty and still
/// have a next one.
pub(super) async fn list(store: &S3Store, after: Option<&str>) -> Result<BlobPage, StoreError> {
    let prefix = store.listing_prefix();
    let failed = |text: &'static str| StoreError::new(Unknown, "list", prefix.as_str(), text);
    let mut token = None;
    loop {
        let answer = store
            .client
            .list_objects_v2()
            .bucket(&store.bucket)
            .prefix(&prefix)
            .max_keys(PAGE_OBJECTS)
            .set_start_after(after.map(ToOwned::to_owned))
            .set_continuation_token(token)
            .send()
            .await
            .map_err(|error| store_error("list", &prefix, &error))?;
        let truncated = answer.is_truncated().unwrap_or(false);
        let last = answer.contents().last().and_then(|object| object.key());
        // A store that ignores `start-after` would be listed for ever.
        if last.is_some_and(|last| after.is_some_and(|after| last <= after)) {
            return Err(failed("the listing does not go on"));
        }
        if last.is_none() && truncated {
            // Allowed, where a page held only what the store itself leaves out.
            token = Some(
                answer
                    .next_continuation_token
                    .ok_or_else(|| failed("an empty page without a next one"))?,
            );
            continue;
        }
        let next = last.filter(|_| truncated).map(ToOwned::to_owned);
        let blobs = answer
            .contents()
            .iter()
            .filter_map(|object| original(&store.prefix, object))
            .collect();
        return Ok(BlobPage { blobs, next });
    }
}

fn original(prefix: &str, object: &aws_sdk_s3::types::Object) -> Option<ListedBlob> {
    let key = object.key()?;
    if !StorageKey::names_an_original(prefix, key) {
        return None;
    }
    let modified_at = object
        .last_modified()
        .and_then(|at| DateTime::<Utc>::from_timestamp(at.secs(), at.subsec_nanos()))
        // Where the store does not say: as young as can be, and so the last to be touched.
        .unwrap_or_else(Utc::now);
    Some(ListedBlob {
        key: key.to_owned(),
        size: object.size().and_then(|n| u64::try_from(n).ok())?,
        modified_at,
    })
}
