//! What can be asked of a batch, and what comes of it.

use entity::{ContentDigest, ImageId, LeaseToken, OriginalId};

use crate::ledger::pending::NewGeneration;
use crate::upload::{ContentRef, ReleasedImage, StoredImage, TenantId};

/// One caller's change of reference counts: all of it happens, or none.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Images of an upload whose bytes are stored.
    Upload(CommitUpload),
    /// An image without bytes.
    Reference(AcquireReference),
    /// The end of images.
    Release(ReleaseImages),
}

/// The images of one upload.
#[derive(Debug, Clone)]
pub struct CommitUpload {
    /// On whose behalf.
    pub tenant: TenantId,
    /// Deduplication scope.
    pub scope: String,
    /// The distinct contents of the request.
    pub contents: Vec<ContentClaim>,
    /// A new generation of each content, in their order, to be announced where the content turns out
    /// to be missing; empty where the caller does not mean to write.
    pub intents: Vec<NewGeneration>,
    /// The request's images, in the order of its parts.
    pub images: Vec<NewImage>,
    /// With an `Idempotency-Key`: the id that one more image would have had. If it exists, the
    /// earlier request had more files.
    pub must_not_exist: Option<ImageId>,
}

/// One content, and the row under which this caller wrote it, if it did.
#[derive(Debug, Clone, Copy)]
pub struct ContentClaim {
    /// SHA-256 of the bytes.
    pub digest: ContentDigest,
    /// Length in bytes.
    pub file_size: i64,
    /// The caller's own pending row, its bytes durable.
    pub own: Option<(OriginalId, LeaseToken)>,
}

/// One image to be.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Chosen before the commit (rule R10).
    pub id: ImageId,
    /// Index into [`CommitUpload::contents`].
    pub content: usize,
    /// What the client calls it.
    pub filename: Option<String>,
    /// Sniffed media type.
    pub mime_type: Option<String>,
    /// The client's own JSON object.
    pub metadata: Option<serde_json::Value>,
}

/// An image of content that the tenant already has.
#[derive(Debug, Clone)]
pub struct AcquireReference {
    /// On whose behalf.
    pub tenant: TenantId,
    /// Deduplication scope.
    pub scope: String,
    /// To what.
    pub content: ContentRef,
    /// The image to be.
    pub image: ImageId,
    /// What the client calls it.
    pub filename: Option<String>,
    /// The client's own JSON object.
    pub metadata: Option<serde_json::Value>,
    /// As [`CommitUpload::must_not_exist`].
    pub must_not_exist: Option<ImageId>,
}

/// Images to be deleted.
#[derive(Debug, Clone)]
pub struct ReleaseImages {
    /// On whose behalf.
    pub tenant: TenantId,
    /// Which; a repeated id is deleted by its first mention.
    pub ids: Vec<ImageId>,
    /// The webhook delivery this is, to take effect once (invariant I7).
    pub event_id: Option<String>,
}

/// What came of an operation.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The images exist.
    Attached {
        /// In the order of the request.
        images: Vec<StoredImage>,
        /// They existed before: the same `Idempotency-Key` came again.
        replayed: bool,
    },
    /// No image was made: these contents are not stored, or the row under which the caller wrote them
    /// is no longer its own and must be given up first.
    Missing {
        /// Indices into [`CommitUpload::contents`].
        contents: Vec<usize>,
        /// Whether the intents of all of them are now `pending` rows, the caller's to write or to give
        /// up. Else none is.
        announced: bool,
    },
    /// Nothing was done: the `Idempotency-Key` belongs to other content.
    IdempotencyKeyReused,
    /// Nothing was done: the tenant has no live image of this content.
    UnknownContent,
    /// One answer per id.
    Released(Vec<ReleasedImage>),
    /// The answer to a webhook.
    Receipt {
        /// As first given.
        result: serde_json::Value,
        /// Whether an earlier delivery had the effect.
        replayed: bool,
        /// Whether an original lost its last reference now.
        released_last: bool,
    },
}

impl Operation {
    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Upload(_) => "upload",
            Self::Reference(_) => "reference",
            Self::Release(_) => "release",
        }
    }

    /// How many rows it may touch: what bounds a batch besides its operations.
    pub fn weight(&self) -> usize {
        match self {
            Self::Upload(upload) => upload.images.len(),
            Self::Reference(_) => 1,
            Self::Release(release) => release.ids.len(),
        }
    }
}
