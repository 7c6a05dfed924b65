//! Reading images. Every query asks for the tenant.

use std::cmp::Reverse;
use std::collections::HashSet;

use chrono::{DateTime, Utc};
use entity::{ContentDigest, ImageId, OriginalId, images, original_images};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::text::Text;
use super::{Ledger, LedgerError, clock};
use crate::upload::TenantId;

/// An image and, while it is live and no legacy image, its original.
pub type ImageWithOriginal = (images::Model, Option<original_images::Model>);

/// Where a list goes on: after this image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListCursor {
    /// Its `created_at`.
    pub created_at: DateTime<Utc>,
    /// Its id.
    pub id: ImageId,
}

impl Ledger {
    /// One image, live or deleted.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn find_image(
        &self,
        tenant: &TenantId,
        id: ImageId,
    ) -> Result<Option<ImageWithOriginal>, LedgerError> {
        Ok(images::Entity::find_by_id(id)
            .filter(images::Column::Tenant.eq(tenant.as_str()))
            .find_also_related(original_images::Entity)
            .one(&self.reader)
            .await?)
    }

    /// Up to `limit` images after `after`, newest first.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn list_images(
        &self,
        tenant: &TenantId,
        after: Option<ListCursor>,
        limit: u64,
        include_deleted: bool,
    ) -> Result<Vec<ImageWithOriginal>, LedgerError> {
        let mut images = self.list_page(tenant, after, limit, false).await?;
        if include_deleted {
            // Live and deleted images have an index each. Live ones first: an image that is deleted
            // in between is then in both pages, and not in none.
            let deleted = self.list_page(tenant, after, limit, true).await?;
            let ids: HashSet<ImageId> = deleted.iter().map(|(image, _)| image.id).collect();
            images.retain(|(image, _)| !ids.contains(&image.id));
            images.extend(deleted);
            images.sort_by_key(|(image, _)| Reverse((image.created_at, image.id)));
            images.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        Ok(images)
    }

    /// One page of the live images, or of the deleted ones.
    async fn list_page(
        &self,
        tenant: &TenantId,
        after: Option<ListCursor>,
        limit: u64,
        deleted: bool,
    ) -> Result<Vec<ImageWithOriginal>, LedgerError> {
        let mut page = images::Entity::find()
            .filter(images::Column::Tenant.eq(tenant.as_str()))
            .filter(match deleted {
                true => images::Column::DeletedAt.is_not_null(),
                false => images::Column::DeletedAt.is_null(),
            })
            .find_also_related(original_images::Entity)
            .order_by_desc(images::Column::CreatedAt)
            .order_by_desc(images::Column::Id)
            .limit(limit);
        if let Some(cursor) = after {
            let key = Expr::tuple([
                Expr::col((images::Entity, images::Column::CreatedAt)),
                Expr::col((images::Entity, images::Column::Id)),
            ]);
            let last = Expr::tuple([
                clock::at(self.backend, cursor.created_at),
                Expr::val(cursor.id),
            ]);
            page = page.filter(key.lt(last));
        }
        Ok(page.all(&self.reader).await?)
    }

    /// Which of `digests` the tenant has live images of, in no order and maybe twice. Asked of the originals
    /// and their references, so that no upload pays for an index of hashes by image.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn find_known_digests(
        &self,
        tenant: &TenantId,
        digests: &[ContentDigest],
    ) -> Result<Vec<ContentDigest>, LedgerError> {
        if digests.is_empty() {
            return Ok(Vec::new());
        }
        let mut known = Text::new(
            self.backend(),
            "SELECT content.column1 AS content_hash FROM ",
        );
        known
            .table("content", digests.iter().map(|digest| [(*digest).into()]))
            .push(
                " WHERE EXISTS (
                    SELECT 1 FROM original_images
                    WHERE state = 'stored' AND content_hash = content.column1 AND scope IN (",
            )
            .bind(tenant.as_str())
            // The scope may have been another when an image was made.
            .push(
                ", '') AND EXISTS (
                        SELECT 1 FROM images
                        WHERE original_image_id = original_images.id AND tenant = ",
            )
            .bind(tenant.as_str())
            // Keeps PostgreSQL from turning the look for each into a walk through all.
            .push(") LIMIT 1 OFFSET 0)");
        let rows = self.reader.query_all_raw(known.finish()).await?;
        let digests = rows.iter().map(|row| row.try_get("", "content_hash"));
        Ok(digests.collect::<Result<_, _>>()?)
    }

    /// The tenant's live images that point at `original`.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn count_tenant_references(
        &self,
        tenant: &TenantId,
        original: OriginalId,
    ) -> Result<i64, LedgerError> {
        use sea_orm::PaginatorTrait;
        let count = images::Entity::find()
            .filter(
                Condition::all()
                    .add(images::Column::OriginalImageId.eq(original))
                    .add(images::Column::Tenant.eq(tenant.as_str())),
            )
            .count(&self.reader)
            .await?;
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    }
}
