//! Problem documents (RFC 9457): one table of code, status and title, and the way every error of the
//! server finds its row.

use std::borrow::Cow;
use std::fmt;

use actix_web::body::BoxBody;
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use super::filename::InvalidFilename;
use super::multipart::MultipartError;
use crate::ledger::LedgerError;
use crate::service::ReadError;
use crate::upload::UploadError;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Seconds after which a refused client may ask again. Short: overload and failover pass quickly,
/// and a client that backs off by itself takes this as its first step.
pub const RETRY_AFTER_SECONDS: &str = "2";

macro_rules! problem_table {
    ($($variant:ident $name:literal $status:ident $title:literal)*) => {
        /// What went wrong, as a machine reads it. Never renamed: clients branch on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every row of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable kebab-case name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status it is answered with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// One line for people.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

problem_table! {
    BadRequest               "bad-request"                BAD_REQUEST            "The request is malformed"
    InvalidQuery             "invalid-query"              BAD_REQUEST            "A query parameter is invalid"
    InvalidCursor            "invalid-cursor"             BAD_REQUEST            "The cursor is not one that this server gave out"
    InvalidBody              "invalid-body"               BAD_REQUEST            "The JSON body is not what this route takes"
    TooManyItems             "too-many-items"             BAD_REQUEST            "The list is too long"
    InvalidMetadata          "invalid-metadata"           BAD_REQUEST            "The metadata is not a JSON object of at most 16 KiB"
    InvalidFilename          "invalid-filename"           BAD_REQUEST            "The filename cannot be kept"
    InvalidDigest            "invalid-digest"             BAD_REQUEST            "The declared digest cannot be read"
    InvalidIdempotencyKey    "invalid-idempotency-key"    BAD_REQUEST            "The Idempotency-Key is not 1 to 255 visible ASCII characters"
    DigestMismatch           "digest-mismatch"            BAD_REQUEST            "The bytes are not the ones declared"
    IncompleteBody           "incomplete-body"            BAD_REQUEST            "The body ended before it was complete"
    MalformedMultipart       "malformed-multipart"        BAD_REQUEST            "The multipart body is malformed"
    NoFile                   "no-file"                    BAD_REQUEST            "The request holds no file"
    EmptyFile                "empty-file"                 BAD_REQUEST            "A file is empty"
    Unauthorized             "unauthorized"               UNAUTHORIZED           "A working API key is needed"
    InvalidSignature         "invalid-signature"          UNAUTHORIZED           "The webhook's signature does not hold"
    Forbidden                "forbidden"                  FORBIDDEN              "The API key does not allow this"
    UnknownRoute             "unknown-route"              NOT_FOUND              "There is nothing at this address"
    UnknownImage             "unknown-image"              NOT_FOUND              "There is no such image"
    UnknownOriginal          "unknown-original"           NOT_FOUND              "There is no such original"
    UnknownContent           "unknown-content"            NOT_FOUND              "No live image has this content: upload it"
    NoLocation               "no-location"                NOT_FOUND              "The legacy image has no address that can be followed"
    WebhookDisabled          "webhook-disabled"           NOT_FOUND              "No secret is configured for this webhook"
    MethodNotAllowed         "method-not-allowed"         METHOD_NOT_ALLOWED     "The address does not take this method"
    BodyTooSlow              "body-too-slow"              REQUEST_TIMEOUT        "The body came too slowly"
    ImageDeleted             "image-deleted"              GONE                   "The image was deleted"
    PreconditionFailed       "precondition-failed"        PRECONDITION_FAILED    "The content is not the one that If-Match names"
    BodyTooLarge             "body-too-large"             PAYLOAD_TOO_LARGE      "The body is too large"
    TooManyFiles             "too-many-files"             PAYLOAD_TOO_LARGE      "The request holds too many files"
    UnsupportedMediaType     "unsupported-media-type"     UNSUPPORTED_MEDIA_TYPE "Content of this type is not accepted"
    UnsupportedEncoding      "unsupported-encoding"       UNSUPPORTED_MEDIA_TYPE "Encoded bodies are not accepted"
    RangeNotSatisfiable      "range-not-satisfiable"      RANGE_NOT_SATISFIABLE  "The range lies outside the content"
    IdempotencyKeyReused     "idempotency-key-reused"     UNPROCESSABLE_ENTITY   "The Idempotency-Key was used before with other content"
    InternalError            "internal-error"             INTERNAL_SERVER_ERROR  "The server made a mistake"
    ContentDamaged           "content-damaged"            INTERNAL_SERVER_ERROR  "The stored bytes are missing or wrong"
    Overloaded               "overloaded"                 SERVICE_UNAVAILABLE    "Too much is in flight: ask again soon"
    Unavailable              "unavailable"                SERVICE_UNAVAILABLE    "The outcome is unknown or nothing was done: ask again"
    StoreUnavailable         "store-unavailable"          SERVICE_UNAVAILABLE    "The object store does not answer: ask again"
    SpoolUnavailable         "spool-unavailable"          SERVICE_UNAVAILABLE    "The disk for bodies in flight does not work: ask again"
}

/// An error on its way to the client.
#[derive(Debug)]
pub struct Problem {
    /// Its row in the table.
    pub code: Code,
    /// What is special about this occurrence, for people. Says nothing of the server's inside.
    pub detail: Cow<'static, str>,
    /// What the log shall say besides: the cause of a 5xx, which the client is not told.
    pub cause: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// An occurrence of `code`.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            cause: None,
            headers: Vec::new(),
        }
    }

    /// An occurrence of which the title says everything.
    pub fn plain(code: Code) -> Self {
        Self::new(code, code.title())
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn caused_by(mut self, cause: &impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// The problem for an error that actix-web answered by itself, from its status alone.
    pub fn from_status(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::UNAUTHORIZED => Code::Unauthorized,
            StatusCode::FORBIDDEN => Code::Forbidden,
            StatusCode::NOT_FOUND => Code::UnknownRoute,
            StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
            StatusCode::REQUEST_TIMEOUT => Code::BodyTooSlow,
            StatusCode::PAYLOAD_TOO_LARGE => Code::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            status if status.is_server_error() => Code::InternalError,
            _ => Code::BadRequest,
        };
        Self::plain(code)
    }

    /// The whole answer.
    pub fn render(&self, request_id: &str) -> HttpResponse<BoxBody> {
        let status = self.code.status();
        let document = ProblemDocument {
            r#type: format!("urn:hapax:problem:{}", self.code.name()),
            title: self.code.title().to_owned(),
            status: status.as_u16(),
            detail: self.detail.to_string(),
            code: self.code.name().to_owned(),
            request_id: request_id.to_owned(),
        };
        let mut answer = HttpResponse::build(status);
        answer.content_type(PROBLEM_JSON);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer.insert_header((header::RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        for (name, value) in &self.headers {
            answer.insert_header((name.clone(), value.clone()));
        }
        answer.body(serde_json::to_vec(&document).expect("strings and numbers serialize"))
    }

    /// As [`Problem::render`], keeping what another answer said in its headers (`Allow` of a 405).
    pub fn render_with(&self, request_id: &str, kept: &HeaderMap) -> HttpResponse<BoxBody> {
        let mut answer = self.render(request_id);
        for (name, value) in kept {
            if *name != header::CONTENT_TYPE && *name != header::CONTENT_LENGTH {
                answer.headers_mut().insert(name.clone(), value.clone());
            }
        }
        answer
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    /// Without the request's id: the outermost middleware renders it again with it.
    fn error_response(&self) -> HttpResponse<BoxBody> {
        self.render("")
    }
}

/// An error as the client reads it (RFC 9457, `application/problem+json`).
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemDocument {
    /// A URI that names the kind of problem: `urn:hapax:problem:` and the code.
    #[schema(example = "urn:hapax:problem:unknown-image")]
    pub r#type: String,
    /// The kind of problem, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This occurrence, for people.
    pub detail: String,
    /// The kind of problem, for programs; stable, kebab-case.
    #[schema(example = "unknown-image")]
    pub code: String,
    /// The answer's `X-Request-Id`.
    pub request_id: String,
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        let text = error.to_string();
        match error {
            UploadError::Incomplete => Self::plain(Code::IncompleteBody),
            UploadError::TooLarge { .. } => Self::new(Code::BodyTooLarge, text),
            UploadError::TooSlow => Self::plain(Code::BodyTooSlow),
            UploadError::NoFile => Self::plain(Code::NoFile),
            UploadError::EmptyFile => Self::plain(Code::EmptyFile),
            UploadError::DigestMismatch { .. } => Self::new(Code::DigestMismatch, text),
            UploadError::UnsupportedMediaType { .. } => Self::new(Code::UnsupportedMediaType, text),
            UploadError::IdempotencyKeyReused => Self::plain(Code::IdempotencyKeyReused),
            UploadError::UnknownContent => Self::plain(Code::UnknownContent),
            UploadError::Overloaded { .. } => Self::plain(Code::Overloaded).caused_by(&text),
            UploadError::Unavailable { .. } => Self::plain(Code::Unavailable).caused_by(&text),
            UploadError::Spool(_) => Self::plain(Code::SpoolUnavailable).caused_by(&text),
            UploadError::Internal(_) => Self::plain(Code::InternalError).caused_by(&text),
        }
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        let code = match error {
            LedgerError::Unavailable(_) | LedgerError::Contended => Code::Unavailable,
            LedgerError::Overloaded => Code::Overloaded,
            LedgerError::Inconsistent(_) | LedgerError::Internal(_) => Code::InternalError,
        };
        Self::plain(code).caused_by(&error)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unknown => Self::plain(Code::UnknownImage),
            ReadError::Gone => Self::plain(Code::ImageDeleted),
            ReadError::Damaged => Self::plain(Code::ContentDamaged).caused_by(&error),
            ReadError::Ledger(error) => error.into(),
            ReadError::Store(_) => Self::plain(Code::StoreUnavailable).caused_by(&error),
        }
    }
}

impl From<MultipartError> for Problem {
    fn from(error: MultipartError) -> Self {
        match error {
            MultipartError::Incomplete => Self::plain(Code::IncompleteBody),
            MultipartError::Malformed(detail) => Self::new(Code::MalformedMultipart, detail),
            MultipartError::InvalidFilename(error) => error.into(),
        }
    }
}

impl From<InvalidFilename> for Problem {
    fn from(error: InvalidFilename) -> Self {
        Self::new(Code::InvalidFilename, error.0)
    }
}

impl From<PayloadError> for Problem {
    fn from(error: PayloadError) -> Self {
        match error {
            PayloadError::Overflow => Self::plain(Code::BodyTooLarge),
            PayloadError::EncodingCorrupted => {
                Self::new(Code::BadRequest, "the body's chunks are malformed")
            }
            // `Incomplete`, and whatever else a connection can fail with while it brings a body.
            _ => Self::plain(Code::IncompleteBody),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use actix_web::body::to_bytes;

    use super::*;
    use crate::http::text;

    #[test]
    fn codes_are_unique_and_kebab_case() {
        let names: HashSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for name in names {
            assert!(
                name.split('-')
                    .all(|word| !word.is_empty() && word.bytes().all(|c| c.is_ascii_lowercase())),
                "{name}"
            );
        }
    }

    #[test]
    fn every_row_is_an_error_with_a_title() {
        for code in Code::ALL {
            let status = code.status();
            assert!(
                status.is_client_error() || status.is_server_error(),
                "{code:?}"
            );
            assert!(!code.title().is_empty(), "{code:?}");
        }
    }

    #[actix_web::test]
    async fn a_problem_is_a_document_with_all_six_members() {
        let answer = Problem::plain(Code::Overloaded).render("r-1");
        assert_eq!(answer.status(), 503);
        assert_eq!(text(answer.headers(), "content-type"), PROBLEM_JSON);
        assert_eq!(text(answer.headers(), "retry-after"), "2");
        let body = to_bytes(answer.into_body()).await.expect("in memory");
        let document: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(document["type"], "urn:hapax:problem:overloaded");
        assert_eq!(document["status"], 503);
        assert_eq!(document["code"], "overloaded");
        assert_eq!(document["request_id"], "r-1");
        assert!(document["title"].is_string() && document["detail"].is_string());
    }

    #[test]
    fn a_server_error_keeps_its_cause_from_the_client() {
        let problem = Problem::from(UploadError::Unavailable {
            what: "password=secret".to_owned(),
        });
        assert!(!problem.detail.contains("secret"));
        assert!(problem.cause.is_some_and(|cause| cause.contains("secret")));
    }
}
