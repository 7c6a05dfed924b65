//! `images`: one row per reference. A deleted image stays as usage and billing history.

use sea_orm::entity::prelude::*;

use crate::{ContentDigest, ImageId, OriginalId};

/// One user's reference to an original.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "images")]
pub struct Model {
    /// Chosen before the commit, derived from the `Idempotency-Key` where there was one (rule R10).
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: ImageId,
    /// Whose image it is; every query asks for it.
    pub tenant: String,
    /// The original it references; set only while the image is live.
    pub original_image_id: Option<OriginalId>,
    /// The original it referenced when it was deleted.
    pub was_original_id: Option<OriginalId>,
    /// SHA-256 of the bytes, kept after deletion; null for a legacy image.
    pub content_hash: Option<ContentDigest>,
    /// Length in bytes, kept after deletion; null for a legacy image.
    pub file_size: Option<i64>,
    /// A legacy image's own location.
    pub original_url: Option<String>,
    /// Taken over from an older application, without an original; never decremented.
    pub legacy: bool,
    /// What the client called the file.
    pub filename: Option<String>,
    /// Media type sniffed from the bytes; null where unknown.
    pub mime_type: Option<String>,
    /// The client's own JSON object.
    pub metadata: Option<Json>,
    /// Whether the upload found its bytes already stored: what its first answer said, repeated when
    /// the same `Idempotency-Key` comes again.
    pub deduplicated: bool,
    /// When the reference was taken.
    pub created_at: DateTimeUtc,
    /// When the reference was given up; null while the image is live.
    pub deleted_at: Option<DateTimeUtc>,
}

/// Rows of other tables that this one points at.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    /// The referenced original; `RESTRICT`, so its row cannot go before the last live image.
    #[sea_orm(
        belongs_to = "super::original_images::Entity",
        from = "Column::OriginalImageId",
        to = "super::original_images::Column::Id",
        on_delete = "Restrict"
    )]
    Original,
}

impl Related<super::original_images::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Original.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
