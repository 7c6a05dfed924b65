//! What travels from one actor to the next while a request's bytes become images.
//!
//! ```text
//! BodyEvent… ─▶ HashActor ─HashedUpload▶ DedupActor ─▶ RefcountActor ─▶ StoredUpload
//! ```

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use entity::{ContentDigest, ImageId, OriginalId, images, original_images};

use crate::config::DedupScope;
use crate::ledger::LedgerError;
use crate::spool::SpooledBody;

/// Whose images: every query asks for it. 1 to 128 characters of `A-Z a-z 0-9 . _ - @ :`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(String);

impl TenantId {
    /// Checks the spelling.
    ///
    /// # Errors
    /// `None` when `name` is empty, too long, or has another character.
    pub fn parse(name: &str) -> Option<Self> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-@:".contains(c);
        ((1..=128).contains(&name.len()) && name.chars().all(fits)).then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    /// The one tenant of a server without keys.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who shares originals with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scoping(pub DedupScope);

impl Scoping {
    /// The scope of a tenant's originals: empty for global, else the tenant's id.
    pub fn scope_of(self, tenant: &TenantId) -> String {
        match self.0 {
            DedupScope::Tenant => tenant.to_string(),
            DedupScope::Global => String::new(),
        }
    }
}

/// A piece of a request's body, as the HTTP layer takes it apart. A channel that ends without
/// `Complete` is a truncated body: nothing of it is kept.
#[derive(Debug)]
pub enum BodyEvent {
    /// More may come at once: nothing but a reason to be awake.
    Soon,
    /// A file begins.
    FileStarted {
        /// What the client calls it.
        filename: Option<String>,
    },
    /// Bytes of the file that began last.
    Chunk(Bytes),
    /// The file that began last is whole.
    FileEnded,
    /// The request's metadata, for all of its files.
    Metadata(serde_json::Value),
    /// The body was complete: closing boundary or declared length seen.
    Complete,
}

/// What the request said besides its body.
#[derive(Debug, Clone)]
pub struct UploadRequest {
    /// On whose behalf.
    pub tenant: TenantId,
    /// The `Idempotency-Key`, 1 to 255 visible ASCII characters.
    pub idempotency_key: Option<String>,
    /// `Repr-Digest` or `Content-Digest` of a raw body.
    pub declared_digest: Option<ContentDigest>,
    /// `Content-Length` of a raw body.
    pub declared_bytes: Option<u64>,
    /// How long each of the request's files is likely to be at the least: a hint.
    pub expected_bytes: Option<u64>,
    /// `Content-Length` of the whole body: a hint, too.
    pub content_length: Option<u64>,
}

/// A file whose bytes have all come, hashed, sniffed and spooled.
#[derive(Debug)]
pub struct HashedFile {
    /// What the client calls it.
    pub filename: Option<String>,
    /// SHA-256 of the bytes.
    pub digest: ContentDigest,
    /// Length in bytes.
    pub file_size: u64,
    /// Sniffed from the bytes; `None` where unknown.
    pub mime_type: Option<String>,
    /// Pixels, from the image's header.
    pub dimensions: Option<(u32, u32)>,
    /// The bytes themselves.
    pub body: SpooledBody,
}

/// A whole request, hashed: what `HashActor` hands to `DedupActor`.
#[derive(Debug)]
pub struct HashedUpload {
    /// On whose behalf.
    pub tenant: TenantId,
    /// The `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// The metadata of every image of the request.
    pub metadata: Option<serde_json::Value>,
    /// At least one, in the order of the request's parts.
    pub files: Vec<HashedFile>,
}

/// Content to be referenced without bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentRef {
    /// By its SHA-256.
    Digest(ContentDigest),
    /// By the original's id.
    Original(OriginalId),
}

/// How an upload met the bytes already stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// New content: it was written.
    Miss,
    /// Stored before, and referenced.
    Hit,
    /// Stored before, unreferenced, and within its grace period: taken back into use.
    Resurrected,
    /// Stored before, but damaged: these bytes replaced the object.
    Repaired,
}

impl Disposition {
    /// Whether the bytes were already stored.
    pub fn deduplicated(self) -> bool {
        matches!(self, Self::Hit | Self::Resurrected)
    }
}

/// An image as the API shows it: its row, and what its original knows of the pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageView {
    /// The row.
    pub image: images::Model,
    /// Pixels; `None` where unknown or where the original is gone.
    pub width: Option<i32>,
    /// Pixels; `None` where unknown or where the original is gone.
    pub height: Option<i32>,
    /// Where the bytes are; `None` for a legacy or a deleted image.
    pub s3_key: Option<String>,
}

impl ImageView {
    /// Joins a row with what its original knows.
    pub fn new(image: images::Model, original: Option<&original_images::Model>) -> Self {
        Self {
            width: original.and_then(|row| row.width),
            height: original.and_then(|row| row.height),
            s3_key: original.map(|row| row.s3_key.clone()),
            image,
        }
    }
}

/// One image that an upload brought into being.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// The image.
    pub view: ImageView,
    /// How it met the bytes already stored.
    pub disposition: Disposition,
}

/// The answer to an upload: all of its images.
#[derive(Debug, Clone)]
pub struct StoredUpload {
    /// In the order of the request's parts.
    pub images: Vec<StoredImage>,
    /// The same `Idempotency-Key` came before: nothing was added.
    pub replayed: bool,
}

/// Why an upload brought nothing into being.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The body ended before it was whole.
    #[error("the body ended before it was complete")]
    Incomplete,
    /// More bytes than `upload.max_bytes`.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// `upload.max_bytes`.
        limit_bytes: u64,
    },
    /// The client sent nothing for too long, or too little over a while.
    #[error("the body came too slowly")]
    TooSlow,
    /// No file in the request.
    #[error("the request holds no file")]
    NoFile,
    /// A file of no bytes.
    #[error("a file is empty")]
    EmptyFile,
    /// The bytes are not the ones declared.
    #[error("the bytes have SHA-256 {actual}, not the declared {declared}")]
    DigestMismatch {
        /// What the header said.
        declared: ContentDigest,
        /// What came.
        actual: ContentDigest,
    },
    /// The sniffed type is not in `upload.accept`.
    #[error("content of type {mime_type} is not accepted")]
    UnsupportedMediaType {
        /// What the bytes look like.
        mime_type: String,
    },
    /// The same `Idempotency-Key` came before with other content.
    #[error("the Idempotency-Key was used before with other content")]
    IdempotencyKeyReused,
    /// A reference to content of which the tenant has no live image.
    #[error("the tenant has no live image of this content")]
    UnknownContent,
    /// A queue or budget is full; nothing was done.
    #[error("overloaded: {what}")]
    Overloaded {
        /// Which limit was hit.
        what: &'static str,
    },
    /// The outcome is unknown, or the store or database did not work (rule R15).
    #[error("unavailable: {what}")]
    Unavailable {
        /// What did not work.
        what: String,
    },
    /// The spool's disk is full or broken.
    #[error("the spool failed: {0}")]
    Spool(#[source] std::io::Error),
    /// A bug: a constraint said no.
    #[error("internal error: {0}")]
    Internal(String),
}

/// What became of one image that was asked to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// This call gave the reference up.
    Deleted,
    /// An earlier call did.
    AlreadyDeleted,
    /// The tenant has no such image.
    Unknown,
}

impl DeleteOutcome {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::AlreadyDeleted => "already_deleted",
            Self::Unknown => "unknown",
        }
    }
}

/// The original behind a deleted image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasedOriginal {
    /// Its id.
    pub id: OriginalId,
    /// References left: the tenant's own.
    pub reference_count: i64,
    /// What becomes of the bytes.
    pub fate: OriginalFate,
}

/// What becomes of an original after a reference to it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginalFate {
    /// Others reference it.
    Retained,
    /// Nobody does; it goes at this time unless it is uploaded again.
    Scheduled {
        /// End of the grace period, by the database's clock.
        purge_after: DateTime<Utc>,
    },
    /// Its bytes are going or gone: at once, where there is no grace period.
    Deleting {
        /// As for `Scheduled`, by this call; `None` when they went earlier.
        purge_after: Option<DateTime<Utc>>,
    },
}

/// The answer to one deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasedImage {
    /// The image.
    pub id: ImageId,
    /// What happened.
    pub outcome: DeleteOutcome,
    /// When it was deleted; `None` when unknown.
    pub deleted_at: Option<DateTime<Utc>>,
    /// `None` for a legacy or an unknown image.
    pub original: Option<ReleasedOriginal>,
}

impl ReleasedImage {
    /// Whether this call took the last reference to an original.
    pub fn released_last(&self) -> bool {
        self.outcome == DeleteOutcome::Deleted
            && self
                .original
                .as_ref()
                .is_some_and(|original| original.fate != OriginalFate::Retained)
    }
}

impl From<&LedgerError> for UploadError {
    fn from(error: &LedgerError) -> Self {
        match error {
            LedgerError::Overloaded => Self::Overloaded {
                what: "the reference count queue",
            },
            LedgerError::Unavailable(_) | LedgerError::Contended => Self::Unavailable {
                what: error.to_string(),
            },
            LedgerError::Inconsistent(_) | LedgerError::Internal(_) => {
                Self::Internal(error.to_string())
            }
        }
    }
}

impl From<LedgerError> for UploadError {
    fn from(error: LedgerError) -> Self {
        Self::from(&error)
    }
}
