//! What an answer of S3, or none, says about the object: by behaviour, for every vendor alike.

use std::error::Error as StdError;
use std::fmt::Write;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::{StoreError, StoreErrorKind};

/// Turns a failed call into the store's error.
pub(super) fn store_error<E>(
    operation: &'static str,
    key: &str,
    error: &SdkError<E, HttpResponse>,
) -> StoreError
where
    E: StdError + ProvideErrorMetadata + 'static,
{
    let kind = match error {
        // Nothing was sent. That proves an effect absent, but says nothing of an object that was to
        // be read; and credentials that expired may come back.
        SdkError::ConstructionFailure(_) if operation == "put" => StoreErrorKind::Refused,
        SdkError::ServiceError(answer) => {
            kind_of_answer(operation, answer.raw().status().as_u16(), error.code())
        }
        _ => StoreErrorKind::Unknown,
    };
    StoreError::new(kind, operation, key, describe(error))
}

/// The kind of an error answer.
///
/// The codes are those of the S3 API reference, "Error responses"; only those are named here whose
/// status alone would mislead.
pub(super) fn kind_of_answer(
    operation: &'static str,
    status: u16,
    code: Option<&str>,
) -> StoreErrorKind {
    let reads = matches!(operation, "get" | "stat");
    match (status, code) {
        // A wrong or vanished bucket is no evidence about any object (rule R12).
        (_, Some("NoSuchBucket")) => StoreErrorKind::Refused,
        (404, Some("NoSuchKey")) if reads => StoreErrorKind::NotFound,
        // The answer to HEAD has no body, hence no code but the one that the SDK makes of the status.
        (404, None | Some("NotFound")) if operation == "stat" => StoreErrorKind::NotFound,
        // A 404 of something that does not speak S3.
        (404, _) if reads => StoreErrorKind::Unknown,
        (429 | 503, _)
        | (_, Some("SlowDown" | "Throttling" | "ThrottlingException" | "TooManyRequests")) => {
            StoreErrorKind::Throttled
        }
        // The object ends before the range begins, and ranges come from what was stored.
        (416, _) if reads => StoreErrorKind::Damaged,
        // Answers about time and rivals, not about the request: 400 RequestTimeout is S3 giving up
        // on a slow socket.
        (408 | 409, _) | (_, Some("RequestTimeout" | "OperationAborted")) => {
            StoreErrorKind::Unknown
        }
        // "A feature that is not implemented" stays so.
        (300..=499 | 501, _) => StoreErrorKind::Refused,
        _ => StoreErrorKind::Unknown,
    }
}

/// One line with all that is known: the SDK's own `Display` says only "service error".
pub(super) fn describe<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: StdError + ProvideErrorMetadata + 'static,
{
    let mut text = String::new();
    if let SdkError::ServiceError(answer) = error {
        let status = answer.raw().status().as_u16();
        let code = error.code().unwrap_or("no code");
        let message = error.message().unwrap_or("no message");
        let _ = write!(text, "status {status}, {code}: {message}");
        return text;
    }
    let mut cause: Option<&dyn StdError> = Some(error);
    while let Some(part) = cause {
        let separator = if text.is_empty() { "" } else { ": " };
        let _ = write!(text, "{separator}{part}");
        cause = part.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use StoreErrorKind::{Damaged, NotFound, Refused, Throttled, Unknown};

    #[test]
    fn answers_are_classed_by_what_may_be_concluded() {
        for (operation, status, code, kind) in [
            ("get", 404, Some("NoSuchKey"), NotFound),
            ("stat", 404, None, NotFound),
            ("stat", 404, Some("NotFound"), NotFound),
            ("get", 404, Some("NoSuchBucket"), Refused),
            ("stat", 404, Some("NoSuchBucket"), Refused),
            ("get", 404, None, Unknown),
            ("put", 404, Some("NoSuchBucket"), Refused),
            ("put", 400, Some("BadDigest"), Refused),
            ("put", 400, Some("XAmzContentSHA256Mismatch"), Refused),
            ("put", 400, Some("RequestTimeout"), Unknown),
            ("put", 403, Some("AccessDenied"), Refused),
            ("get", 403, Some("AccessDenied"), Refused),
            ("put", 411, None, Refused),
            ("put", 412, Some("PreconditionFailed"), Refused),
            ("put", 409, Some("OperationAborted"), Unknown),
            ("put", 503, Some("SlowDown"), Throttled),
            ("list", 429, None, Throttled),
            ("put", 500, Some("InternalError"), Unknown),
            ("put", 502, None, Unknown),
            ("get", 504, None, Unknown),
            ("list", 301, Some("PermanentRedirect"), Refused),
            ("abort_multipart", 501, Some("NotImplemented"), Refused),
            ("get", 416, Some("InvalidRange"), Damaged),
        ] {
            let found = kind_of_answer(operation, status, code);
            assert_eq!(found, kind, "{operation} {status} {code:?}");
        }
    }
}
