//! Write intents: a committed row names every key before its first byte is sent (rule R2; the batch
//! inserts it), and a writer that gives up leaves a row that the reaper understands (rule R8).

use std::time::Duration;

use entity::original_images::{Column, Entity, OriginalState};
use entity::{ContentDigest, LeaseToken, OriginalId};
use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, Query};

use super::{Ledger, LedgerError, clock};
use crate::seams::{Rule, enforced};

/// A generation about to be written.
#[derive(Debug, Clone)]
pub struct NewGeneration {
    /// The generation; random, never used before.
    pub id: OriginalId,
    /// Proves later that the row is still ours.
    pub lease_token: LeaseToken,
    /// Deduplication scope.
    pub scope: String,
    /// SHA-256 of the bytes.
    pub digest: ContentDigest,
    /// Length in bytes.
    pub file_size: i64,
    /// Where the bytes will be.
    pub s3_key: String,
    /// Sniffed media type.
    pub mime_type: Option<String>,
    /// Sniffed pixels.
    pub dimensions: Option<(i32, i32)>,
    /// How long the row is left to its writer.
    pub lease: Duration,
    /// After this long no PUT for the key can still land.
    pub put_deadline: Duration,
}

/// What a new row says.
pub(super) const COLUMNS: [Column; 14] = [
    Column::Id,
    Column::Scope,
    Column::ContentHash,
    Column::FileSize,
    Column::S3Key,
    Column::MimeType,
    Column::Width,
    Column::Height,
    Column::State,
    Column::LeaseToken,
    Column::LeaseUntil,
    Column::PutDeadline,
    Column::NextTry,
    Column::CreatedAt,
];

impl Ledger {
    /// Inserts a `pending` row outside of any batch, unless it is there.
    #[cfg(feature = "seams")]
    pub(crate) async fn announce_generation(
        &self,
        generation: &NewGeneration,
    ) -> Result<(), LedgerError> {
        let mut insert = Query::insert();
        let row = row(generation, OriginalState::Pending, |after| {
            clock::from_now(self.backend, after)
        });
        let keep = OnConflict::column(Column::Id).do_nothing().to_owned();
        insert
            .into_table(Entity)
            .columns(COLUMNS)
            .values_panic(row)
            .on_conflict(keep);
        self.writer.execute(&insert).await?;
        Ok(())
    }

    /// Gives a generation up, whatever became of its PUT: its own `pending` row becomes `deleting`,
    /// and a row that was reaped meanwhile is inserted again as `deleting`, because the PUT may have
    /// landed after the reaper's DELETE (rule R8). A row that was committed after all is left alone.
    ///
    /// When the row is gone but its key belongs to a row that it healed, the unique key refuses the
    /// insert, and rightly: the object is in use.
    ///
    /// # Errors
    /// The database did not answer; the lease will expire.
    pub async fn abandon_generation(
        &self,
        generation: &NewGeneration,
        why: &str,
    ) -> Result<(), LedgerError> {
        let now = || clock::now(self.backend);
        let mut insert = Query::insert();
        insert
            .into_table(Entity)
            .columns(COLUMNS)
            .values_panic(row(generation, OriginalState::Deleting, |after| {
                clock::from_now(self.backend, after)
            }))
            .on_conflict(
                OnConflict::column(Column::Id)
                    .value(Column::State, Expr::val(OriginalState::Deleting))
                    .value(Column::NextTry, now())
                    .value(Column::UpdatedAt, now())
                    .value(Column::LastError, Expr::val(why))
                    .action_and_where(Expr::col((Entity, Column::State)).eq(OriginalState::Pending))
                    .action_and_where(
                        Expr::col((Entity, Column::LeaseToken)).eq(generation.lease_token),
                    )
                    .to_owned(),
            );
        if enforced(Rule::LostRowReinserted) {
            self.writer.execute(&insert).await?;
        }
        Ok(())
    }
}

/// The values of [`COLUMNS`]; `from_now` spells a time that lies so far ahead.
pub(super) fn row(
    generation: &NewGeneration,
    state: OriginalState,
    from_now: impl Fn(Duration) -> Expr,
) -> [Expr; 14] {
    let (width, height) = generation.dimensions.unzip();
    [
        Expr::val(generation.id),
        Expr::val(generation.scope.as_str()),
        Expr::val(generation.digest),
        Expr::val(generation.file_size),
        Expr::val(generation.s3_key.as_str()),
        Expr::val(generation.mime_type.clone()),
        Expr::val(width),
        Expr::val(height),
        Expr::val(state),
        Expr::val(generation.lease_token),
        from_now(generation.lease),
        from_now(generation.put_deadline),
        from_now(Duration::ZERO),
        from_now(Duration::ZERO),
    ]
}
