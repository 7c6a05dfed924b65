//! `api_keys`: who may call. The key itself is shown once and never stored.

use sea_orm::entity::prelude::*;

use crate::{ApiKeyId, ContentDigest};

/// One API key.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "api_keys")]
pub struct Model {
    /// The key's public name.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: ApiKeyId,
    /// Whose images the key reaches.
    pub tenant: String,
    /// A label for people.
    pub name: String,
    /// SHA-256 of the secret: a key is random and long, so a plain hash cannot be guessed back.
    pub key_hash: ContentDigest,
    /// Comma-separated scopes: `read`, `write`, `admin`, `webhook`.
    pub scopes: String,
    /// When it was made.
    pub created_at: DateTimeUtc,
    /// When it stops working by itself; null for never.
    pub expires_at: Option<DateTimeUtc>,
    /// When it was taken back; null while it works.
    pub revoked_at: Option<DateTimeUtc>,
}

/// Keys point at nothing: a tenant is a name, not a row.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
