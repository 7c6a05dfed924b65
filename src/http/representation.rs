//! The JSON that clients see: one struct per shape, built from the service's views.

use chrono::{DateTime, SecondsFormat, Utc};
use entity::original_images::OriginalState;
use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::service::{ImagePage, OriginalView};
use crate::upload::{DeleteOutcome, ImageView, OriginalFate, ReleasedImage, StoredImage};

use super::cursor;

/// A reference to stored content.
#[derive(Debug, Serialize, ToSchema)]
pub struct Image {
    /// The image's own id.
    pub id: Uuid,
    /// The original it references; of a deleted image, the one it referenced. `null` for a legacy
    /// image.
    #[schema(required)]
    pub original_image_id: Option<Uuid>,
    /// SHA-256 of the bytes; `null` for a legacy image.
    #[schema(required, min_length = 64, max_length = 64)]
    pub content_hash: Option<String>,
    /// Bytes; `null` for a legacy image.
    #[schema(required)]
    pub file_size: Option<i64>,
    /// Sniffed from the bytes; `null` where unknown.
    #[schema(required)]
    pub mime_type: Option<String>,
    /// Pixels; `null` where unknown or where the original is gone.
    #[schema(required)]
    pub width: Option<i32>,
    /// Pixels; `null` where unknown or where the original is gone.
    #[schema(required)]
    pub height: Option<i32>,
    /// What the client called the file.
    #[schema(required)]
    pub filename: Option<String>,
    /// The client's own JSON object.
    #[schema(required, value_type = Option<Object>)]
    pub metadata: Option<Value>,
    /// When the reference was taken.
    #[serde(serialize_with = "utc")]
    pub created_at: DateTime<Utc>,
    /// When it was given up; `null` while it is live.
    #[serde(serialize_with = "optional_utc")]
    #[schema(required)]
    pub deleted_at: Option<DateTime<Utc>>,
    /// Only of a legacy image: where its bytes are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_url: Option<String>,
    /// Only in the answer to an upload: whether the bytes were already stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deduplicated: Option<bool>,
}

impl From<ImageView> for Image {
    fn from(view: ImageView) -> Self {
        let ImageView {
            image,
            width,
            height,
            ..
        } = view;
        Self {
            id: image.id.0,
            original_image_id: image
                .original_image_id
                .or(image.was_original_id)
                .map(|id| id.0),
            content_hash: image.content_hash.map(|digest| digest.to_string()),
            file_size: image.file_size,
            mime_type: image.mime_type,
            width,
            height,
            filename: image.filename,
            metadata: image.metadata,
            created_at: image.created_at,
            deleted_at: image.deleted_at,
            original_url: image.original_url.filter(|_| image.legacy),
            deduplicated: None,
        }
    }
}

impl From<StoredImage> for Image {
    fn from(stored: StoredImage) -> Self {
        Self {
            deduplicated: Some(stored.disposition.deduplicated()),
            ..Self::from(stored.view)
        }
    }
}

/// The images of one upload, in the order of its parts.
#[derive(Debug, Serialize, ToSchema)]
pub struct UploadedImages {
    /// All of them.
    pub images: Vec<Image>,
}

/// A page of images, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageList {
    /// At most `limit`.
    pub images: Vec<Image>,
    /// Pass as `cursor` for the next page; `null` at the end.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

impl From<ImagePage> for ImageList {
    fn from(page: ImagePage) -> Self {
        Self {
            images: page.images.into_iter().map(Image::from).collect(),
            next_cursor: page.next.as_ref().map(cursor::encode),
        }
    }
}

/// Which of the asked contents the tenant has.
#[derive(Debug, Serialize, ToSchema)]
pub struct KnownContent {
    /// SHA-256 of each, in the order asked.
    pub known: Vec<String>,
}

/// The answer to a deletion.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deletion {
    /// The image.
    pub id: Uuid,
    /// When it was deleted.
    #[serde(serialize_with = "optional_utc")]
    #[schema(required)]
    pub deleted_at: Option<DateTime<Utc>>,
    /// Whether an earlier call deleted it.
    pub already_deleted: bool,
    /// What becomes of its original; `null` for a legacy image.
    #[schema(required)]
    pub original: Option<DeletedOriginal>,
}

/// An original after a reference to it went.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletedOriginal {
    /// Its id.
    pub id: Uuid,
    /// The tenant's references that are left.
    pub reference_count: i64,
    /// What becomes of the bytes.
    pub state: DeletedOriginalState,
    /// When the bytes go, unless they are uploaded again; only when `scheduled`.
    #[serde(serialize_with = "optional_utc")]
    #[schema(required)]
    pub purge_after: Option<DateTime<Utc>>,
}

/// What becomes of an original's bytes.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeletedOriginalState {
    /// Others reference them.
    Retained,
    /// They go at `purge_after`.
    Scheduled,
    /// They are going or gone.
    Deleting,
}

impl From<ReleasedImage> for Deletion {
    fn from(released: ReleasedImage) -> Self {
        Self {
            id: released.id.0,
            deleted_at: released.deleted_at,
            already_deleted: released.outcome == DeleteOutcome::AlreadyDeleted,
            original: released.original.map(|original| {
                let (state, purge_after) = match original.fate {
                    OriginalFate::Retained => (DeletedOriginalState::Retained, None),
                    OriginalFate::Scheduled { purge_after } => {
                        (DeletedOriginalState::Scheduled, Some(purge_after))
                    }
                    OriginalFate::Deleting { purge_after } => {
                        (DeletedOriginalState::Deleting, purge_after)
                    }
                };
                DeletedOriginal {
                    id: original.id.0,
                    reference_count: original.reference_count,
                    state,
                    purge_after,
                }
            }),
        }
    }
}

/// The answers to several deletions.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletionResults {
    /// One per id, in the order asked.
    pub results: Vec<DeletionResult>,
}

/// The answer to one of several deletions.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletionResult {
    /// The image.
    pub id: Uuid,
    /// What happened.
    pub outcome: DeletionOutcome,
}

/// What happened to one of several images.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeletionOutcome {
    /// This call gave the reference up.
    Deleted,
    /// An earlier one did.
    AlreadyDeleted,
    /// There is no such image.
    Unknown,
}

impl From<&ReleasedImage> for DeletionResult {
    fn from(released: &ReleasedImage) -> Self {
        Self {
            id: released.id.0,
            outcome: match released.outcome {
                DeleteOutcome::Deleted => DeletionOutcome::Deleted,
                DeleteOutcome::AlreadyDeleted => DeletionOutcome::AlreadyDeleted,
                DeleteOutcome::Unknown => DeletionOutcome::Unknown,
            },
        }
    }
}

/// Stored content as one tenant sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Original {
    /// Its generation.
    pub id: Uuid,
    /// SHA-256 of the bytes.
    pub content_hash: String,
    /// Bytes.
    pub file_size: i64,
    /// Sniffed from the bytes; `null` where unknown.
    #[schema(required)]
    pub mime_type: Option<String>,
    /// Pixels; `null` where unknown.
    #[schema(required)]
    pub width: Option<i32>,
    /// Pixels; `null` where unknown.
    #[schema(required)]
    pub height: Option<i32>,
    /// The tenant's own live references.
    pub reference_count: i64,
    /// `stored`, or `deleting` while the bytes go.
    #[schema(example = "stored")]
    pub state: &'static str,
    /// When the content was first announced.
    #[serde(serialize_with = "utc")]
    pub created_at: DateTime<Utc>,
}

impl From<OriginalView> for Original {
    fn from(view: OriginalView) -> Self {
        let row = view.original;
        Self {
            id: row.id.0,
            content_hash: row.content_hash.to_string(),
            file_size: row.file_size,
            mime_type: row.mime_type,
            width: row.width,
            height: row.height,
            reference_count: view.reference_count,
            state: match row.state {
                OriginalState::Pending => "pending",
                OriginalState::Stored => "stored",
                OriginalState::Deleting => "deleting",
            },
            created_at: row.created_at,
        }
    }
}

/// Whether the server can work.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// `ready` or `unready`.
    pub status: &'static str,
    /// Why not; empty when ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<UnreadyReason>,
}

/// One thing that keeps the server from working.
#[derive(Debug, Serialize, ToSchema)]
pub struct UnreadyReason {
    /// Stable, for programs.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

fn utc<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

fn optional_utc<S: Serializer>(
    time: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => utc(time, serializer),
        None => serializer.serialize_none(),
    }
}
