//! Deletes in batches, and uploads that somebody else left unfinished.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::Error as KeyError;

use super::S3Store;
use super::errors::{kind_of_answer, store_error};
use crate::store::StoreError;
use crate::store::StoreErrorKind::Unknown;

/// One result per key from an answer that names only the failures.
pub(super) fn per_key(
    keys: &[String],
    errors: &[KeyError],
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let mut failed = HashMap::new();
    for error in errors {
        let code = error.code().unwrap_or("no code");
        let message = error.message().unwrap_or("no message");
        let Some(key) = error.key().filter(|key| keys.iter().any(|k| k == key)) else {
            // A failure that cannot be told from the successes: nothing is known of any key.
            let text = format!("a failure of no key that was asked for: {code}: {message}");
            return Err(StoreError::new(Unknown, "delete", "", text));
        };
        if code != "NoSuchKey" {
            failed.insert(key, (code, message));
        }
    }
    let result = |key: &String| match failed.get(key.as_str()) {
        None => Ok(()),
        Some((code, message)) => {
            let kind = kind_of_answer("delete", status_of(code), Some(code));
            let text = format!("{code}: {message}");
            Err(StoreError::new(kind, "delete", key.as_str(), text))
        }
    };
    Ok(keys.iter().map(result).collect())
}

/// Failures inside of a batch come without a status: the S3 API reference's, "Error responses".
fn status_of(code: &str) -> u16 {
    match code {
        "AccessDenied" => 403,
        "InternalError" => 500,
        "ServiceUnavailable" | "SlowDown" => 503,
        _ => 500,
    }
}

/// Page by page, so that the number of uploads does not matter.
pub(super) async fn abort_stale_multipart_uploads(
    store: &S3Store,
    older_than: Duration,
) -> Result<u64, StoreError> {
    let began_before = SystemTime::now()
        .checked_sub(older_than)
        .map_or(DateTime::from_secs(0), DateTime::from);
    let (mut key_marker, mut upload_id_marker) = (None, None);
    let mut aborted = 0;
    loop {
        let listing = store.client.list_multipart_uploads();
        let page = match listing
            .bucket(&store.bucket)
            .prefix(store.listing_prefix())
            .set_key_marker(key_marker.clone())
            .set_upload_id_marker(upload_id_marker)
            .send()
            .await
        {
            Err(error) if is_not_implemented(&error) => return Ok(aborted),
            page => page.map_err(|error| store_error("abort_multipart", &store.prefix, &error))?,
        };
        for upload in page.uploads() {
            let stale = upload.initiated().is_some_and(|at| *at < began_before);
            if let (true, Some(key), Some(id)) = (stale, upload.key(), upload.upload_id()) {
                aborted += u64::from(abort_multipart(store, key, id).await?);
            }
        }
        let goes_on = page.is_truncated().unwrap_or(false) && page.next_key_marker.is_some();
        if !goes_on {
            return Ok(aborted);
        }
        key_marker = page.next_key_marker;
        upload_id_marker = page.next_upload_id_marker;
    }
}

fn is_not_implemented<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: ProvideErrorMetadata,
{
    let status = error.raw_response().map(|raw| raw.status().as_u16());
    status == Some(501) || error.code() == Some("NotImplemented")
}

/// Whether this call ended it: another node may have been first.
async fn abort_multipart(store: &S3Store, key: &str, upload_id: &str) -> Result<bool, StoreError> {
    let abort = store.client.abort_multipart_upload();
    match abort
        .bucket(&store.bucket)
        .key(key)
        .upload_id(upload_id)
        .send()
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("NoSuchUpload") => Ok(false),
        Err(error) => Err(store_error("abort_multipart", key, &error)),
    }
}
