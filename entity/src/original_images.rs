//! `original_images`: one row per generation of a content. The row is the lock, the reference
//! count and the only name of the object's bytes.

use sea_orm::entity::prelude::*;

use crate::{ContentDigest, LeaseToken, OriginalId};

/// Where a generation stands. The legal transitions are the whole life of an object:
///
/// ```text
///            INSERT                    PUT answered 2xx, lease still held
///   (none) ─────────▶ Pending ───────────────────────────────────────▶ Stored
///                        │                                               │
///                        │ lease expired, PUT failed, or                 │ count 0, past grace, and
///                        │ somebody else stored the content              │ no image points at it
///                        ▼                                               ▼
///                     Deleting ◀─────────────────────────────────────────┘
///                        │ S3 DELETE that began past put_deadline
///                        ▼
///                     (row removed)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum OriginalState {
    /// A writer announced the key (rule R2) and may be sending its bytes. Becomes `Stored` or
    /// `Deleting`, only ever once.
    #[sea_orm(string_value = "pending")]
    Pending,
    /// The bytes are durable. The only state that images may point at. Becomes `Deleting`.
    #[sea_orm(string_value = "stored")]
    Stored,
    /// Terminal (rule R6): even if the object is still there, nothing may use it again.
    #[sea_orm(string_value = "deleting")]
    Deleting,
}

/// One generation of a content.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "original_images")]
pub struct Model {
    /// The generation; never reused (rule R1).
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: OriginalId,
    /// Deduplication scope: empty for global, else the tenant's id.
    pub scope: String,
    /// SHA-256 of the bytes.
    pub content_hash: ContentDigest,
    /// Length in bytes.
    pub file_size: i64,
    /// Where the bytes are in the store; unique, and spelled by `StorageKey` alone.
    #[sea_orm(unique)]
    pub s3_key: String,
    /// Media type sniffed from the bytes; null where unknown.
    pub mime_type: Option<String>,
    /// Pixels, sniffed from the header; null where unknown.
    pub width: Option<i32>,
    /// Pixels, sniffed from the header; null where unknown.
    pub height: Option<i32>,
    /// See [`OriginalState`].
    pub state: OriginalState,
    /// Live images that point here: never negative, and 0 unless `stored`.
    pub reference_count: i64,
    /// Who writes this pending row.
    pub lease_token: Option<LeaseToken>,
    /// Until when a pending row is left alone.
    pub lease_until: Option<DateTimeUtc>,
    /// After this moment no PUT for the key can still land (rule R8).
    pub put_deadline: DateTimeUtc,
    /// Since when the count is 0; null otherwise.
    pub zero_since: Option<DateTimeUtc>,
    /// When a read or a scrub found the object missing or wrong; null while it is sound.
    pub damaged_at: Option<DateTimeUtc>,
    /// Failed or postponed attempts of the reaper.
    pub attempts: i32,
    /// When the reaper may look at a `deleting` row again.
    pub next_try: DateTimeUtc,
    /// What the last attempt failed with.
    pub last_error: Option<String>,
    /// When the generation was announced.
    pub created_at: DateTimeUtc,
    /// When the row last changed.
    pub updated_at: DateTimeUtc,
    /// When the bytes became durable.
    pub stored_at: Option<DateTimeUtc>,
}

/// Rows of other tables that point here.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    /// The images that reference this original.
    #[sea_orm(has_many = "super::images::Entity")]
    Images,
}

impl Related<super::images::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Images.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
