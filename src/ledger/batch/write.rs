//! The second half of a batch: the plan as a handful of multi-row statements. Whatever was planned
//! for n rows must change n rows, or the whole batch is rolled back.

use std::collections::HashSet;

use entity::original_images::{Column, OriginalState};
use entity::{OriginalId, images, original_images, webhook_events};
use sea_orm::sea_query::{Expr, OnConflict, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, PaginatorTrait, QueryFilter, Statement,
    Value,
};

use super::operation::{Operation, Outcome};
use super::padded;
use super::plan::{Heal, Plan};
use crate::ledger::literal::{found_in_state, state_is};
use crate::ledger::{LedgerError, clock, pending};
use crate::seams::{Rule, Transaction, enforced};
use crate::upload::ReleasedImage;

/// Rows in one INSERT: 14 values each, below SQLite's 32766 variables a statement.
const ROWS_PER_INSERT: usize = 1000;

const IMAGE_COLUMNS: [images::Column; 10] = [
    images::Column::Id,
    images::Column::Tenant,
    images::Column::OriginalImageId,
    images::Column::ContentHash,
    images::Column::FileSize,
    images::Column::Filename,
    images::Column::MimeType,
    images::Column::Metadata,
    images::Column::Deduplicated,
    images::Column::CreatedAt,
];

/// The first part: originals. Lock order everywhere: originals, then images, then usage counters.
pub(super) async fn write_originals(
    transaction: &Transaction,
    backend: DbBackend,
    plan: &Plan,
) -> Result<(), LedgerError> {
    discard(transaction, backend, plan).await?;
    for heal in &plan.heal {
        exchange_keys(transaction, backend, plan, heal).await?;
    }
    announce(transaction, backend, plan).await?;
    promote(transaction, backend, plan).await?;
    change_counts(transaction, backend, plan).await
}

/// The second part: images.
pub(super) async fn write_images(
    transaction: &Transaction,
    backend: DbBackend,
    plan: &Plan,
) -> Result<(), LedgerError> {
    insert_images(transaction, backend, plan).await?;
    release_images(transaction, backend, plan).await
}

async fn discard(
    transaction: &Transaction,
    backend: DbBackend,
    plan: &Plan,
) -> Result<(), LedgerError> {
    if plan.discard.is_empty() {
        return Ok(());
    }
    let discarded = original_images::Entity::update_many()
        .col_expr(Column::State, Expr::val(OriginalState::Deleting))
        .col_expr(Column::NextTry, clock::at(backend, plan.now))
        .col_expr(Column::UpdatedAt, clock::at(backend, plan.now))
        .col_expr(
            Column::LastError,
            Expr::val("another upload stored the same content"),
        )
        .filter(Column::Id.is_in(padded(plan.discard.iter().copied())))
        .filter(state_is(OriginalState::Pending))
        .exec(transaction)
        .await?;
    expect(discarded.rows_affected, plan.discard.len())
}

/// Write intents: rule R2's rows, for callers that begin to send once this batch is committed.
async fn announce(
    transaction: &Transaction,
    backend: DbBackend,
    plan: &Plan,
) -> Result<(), LedgerError> {
    if plan.announce.is_empty() {
        return Ok(());
    }
    let mut insert = Query::insert();
    insert
        .into_table(original_images::Entity)
        .columns(pending::COLUMNS);
    for generation in &plan.announce {
        let from_now = |after| clock::at(backend, plan.now + after);
        insert.values_panic(pending::row(generation, OriginalState::Pending, from_now));
    }
    let inserted = transaction.execute(&insert).await?;
    expect(inserted.rows_affected(), plan.announce.len())
}

/// The PUT answered 2xx and there is exactly one per key, so none can still land: `put_deadline` is
/// now. The count is that of this batch's images.
async fn promote(
    transaction: &Transaction,
    backend: DbBackend,
    plan: &Plan,
) -> Result<(), LedgerError> {
    if plan.promote.is_empty() {
        return Ok(());
    }
    let mut values: Vec<Value> = vec![clock::value(backend, plan.now)];
    let mut rows = Vec::with_capacity(plan.promote.len());
    for (id, token) in &plan.promote {
        let count = plan.deltas.get(id).copied().unwrap_or_default();
        values.extend([(*id).into(), (*token).into(), count.into()]);
        let last = values.len();
        rows.push(format!("(${}, ${}, ${last})", last - 2, last - 1));
    }
    let still_pending = match enforced(Rule::RowDecides) {
        true => format!("AND {}", found_in_state(OriginalState::Pending)),
        false => String::new(),
    };
    let sql = format!(
        "UPDATE original_images SET
            state = 'stored',
            reference_count = promoted.column3,
            zero_since = CASE WHEN promoted.column3 = 0 THEN $1 END,
            stored_at = $1,
            updated_at = $1,
            put_deadline = $1,
            lease_token = NULL,
            lease_until = NULL
         FROM (VALUES {}) AS promoted
         WHERE id = promoted.column1 AND lease_token = promoted.column2 {still_pending}",
        rows.join(", ")
    );
    let changed = transaction
        .execute_raw(Statement::from_sql_and_values(backend, sql, values))
        .await?;
    expect(changed.rows_affected(), plan.promote.len())
}

/// Gives a damaged row the object of a pending row, and the pending row the damaged object to
/// delete. Keys are unique, so one of them steps aside for a moment.
async fn exchange_keys(
    transaction: &Transaction,
    backend: DbBackend,
    plan: &Plan,
    heal: &Heal,
) -> Result<(), LedgerError> {
    let now = || clock::at(backend, plan.now);
    let step_aside = original_images::Entity::update_many()
        .col_expr(
            Column::S3Key,
            Expr::val(format!("{}#exchanging", heal.sound_key)),
        )
        .col_expr(Column::State, Expr::val(OriginalState::Deleting))
        .col_expr(Column::NextTry, now())
        .col_expr(Column::UpdatedAt, now())
        .col_expr(
            Column::LastError,
            Expr::val("its object was damaged and replaced"),
        )
        .filter(Column::Id.eq(heal.sound))
        .filter(state_is(OriginalState::Pending))
        .exec(transaction)
        .await?;
    expect(step_aside.rows_affected, 1)?;
    let healed = original_images::Entity::update_many()
        .col_expr(Column::S3Key, Expr::val(heal.sound_key.as_str()))
        .col_expr(Column::DamagedAt, Expr::cust("NULL"))
        .col_expr(Column::LastError, Expr::cust("NULL"))
        .col_expr(Column::UpdatedAt, now())
        .filter(Column::Id.eq(heal.damaged))
        .filter(Column::S3Key.eq(heal.damaged_key.as_str()))
        .filter(state_is(OriginalState::Stored))
        .exec(transaction)
        .await?;
    expect(healed.rows_affected, 1)?;
    // The damaged object's own PUT ended long ago, so its DELETE may begin at once.
    let handed_over = original_images::Entity::update_many()
        .col_expr(Column::S3Key, Expr::val(heal.damaged_key.as_str()))
        .col_expr(Column::PutDeadline, now())
        .filter(Column::Id.eq(heal.sound))
        .exec(transaction)
        .await?;
    expect(handed_over.rows_affected, 1)
}

/// One UPDATE for the counts of all rows that were stored before, relative to what is there.
async fn change_counts(
    transaction: &Transaction,
    backend: DbBackend,
    plan: &Plan,
) -> Result<(), LedgerError> {
    let promoted: HashSet<OriginalId> = plan.promote.iter().map(|(id, _)| *id).collect();
    let mut values: Vec<Value> = vec![clock::value(backend, plan.now)];
    let mut rows = Vec::with_capacity(plan.deltas.len());
    for (id, delta) in &plan.deltas {
        if promoted.contains(id) {
            continue;
        }
        values.extend([(*id).into(), (*delta).into()]);
        rows.push(format!("(${}, ${})", values.len() - 1, values.len()));
    }
    if rows.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "UPDATE original_images SET
            reference_count = reference_count + change.column2,
            zero_since = CASE WHEN reference_count + change.column2 = 0 THEN $1 END,
            updated_at = $1
         FROM (VALUES {}) AS change
         WHERE id = change.column1 AND {}",
        rows.join(", "),
        found_in_state(OriginalState::Stored)
    );
    let changed = transaction
        .execute_raw(Statement::from_sql_and_values(backend, sql, values))
        .await?;
    expect(changed.rows_affected(), rows.len())
}

async fn insert_images(
    transaction: &Transaction,
    backend: DbBackend,
    plan: &Plan,
) -> Result<(), LedgerError> {
    for rows in plan.insert.chunks(ROWS_PER_INSERT) {
        let mut insert = Query::insert();
        insert
            .into_table(images::Entity)
            .columns(IMAGE_COLUMNS)
            .on_conflict(
                OnConflict::column(images::Column::Id)
                    .do_nothing()
                    .to_owned(),
            );
        for row in rows {
            insert.values_panic(image_values(backend, row));
        }
        let inserted = transaction.execute(&insert).await?;
        expect(inserted.rows_affected(), rows.len())?;
    }
    Ok(())
}

fn image_values(backend: DbBackend, image: &images::Model) -> [Expr; 10] {
    [
        Expr::val(image.id),
        Expr::val(image.tenant.as_str()),
        Expr::val(image.original_image_id),
        Expr::val(image.content_hash),
        Expr::val(image.file_size),
        Expr::val(image.filename.clone()),
        Expr::val(image.mime_type.clone()),
        Expr::val(image.metadata.clone()),
        Expr::val(image.deduplicated),
        clock::at(backend, image.created_at),
    ]
}

async fn release_images(
    transaction: &Transaction,
    backend: DbBackend,
    plan: &Plan,
) -> Result<(), LedgerError> {
    if plan.release.is_empty() {
        return Ok(());
    }
    let released = images::Entity::update_many()
        .col_expr(images::Column::DeletedAt, clock::at(backend, plan.now))
        .col_expr(
            images::Column::WasOriginalId,
            Expr::col(images::Column::OriginalImageId),
        )
        .col_expr(
            images::Column::OriginalImageId,
            Expr::val(None::<uuid::Uuid>),
        )
        .filter(images::Column::Id.is_in(padded(plan.release.iter().copied())))
        .filter(images::Column::DeletedAt.is_null())
        .exec(transaction)
        .await?;
    expect(released.rows_affected, plan.release.len())
}

/// The third part: receipts.
pub(super) async fn insert_receipts(
    transaction: &Transaction,
    backend: DbBackend,
    plan: &Plan,
) -> Result<(), LedgerError> {
    for (source, event_id, result) in &plan.receipts {
        let insert = Query::insert()
            .into_table(webhook_events::Entity)
            .columns([
                webhook_events::Column::Source,
                webhook_events::Column::EventId,
                webhook_events::Column::ReceivedAt,
                webhook_events::Column::Result,
            ])
            .values_panic([
                Expr::val(source.as_str()),
                Expr::val(event_id.as_str()),
                clock::at(backend, plan.now),
                Expr::val(result.clone()),
            ])
            .take();
        // A unique violation: another node took the same delivery; the next run finds its receipt.
        transaction.execute(&insert).await?;
    }
    Ok(())
}

/// In the global scope a row's count is everybody's; a tenant is told only its own.
pub(super) async fn count_own_references(
    transaction: &Transaction,
    operations: &[Operation],
    plan: &mut Plan,
) -> Result<(), LedgerError> {
    for (operation, outcome) in operations.iter().zip(&mut plan.outcomes) {
        let (Operation::Release(release), Outcome::Released(released)) = (operation, outcome)
        else {
            continue;
        };
        // Only a single deletion reports its original.
        let [
            ReleasedImage {
                original: Some(original),
                ..
            },
        ] = &mut released[..]
        else {
            continue;
        };
        if !is_shared(transaction, original.id).await? {
            continue;
        }
        let own = images::Entity::find()
            .filter(images::Column::OriginalImageId.eq(original.id))
            .filter(images::Column::Tenant.eq(release.tenant.as_str()))
            .count(transaction)
            .await?;
        original.reference_count = i64::try_from(own).unwrap_or(i64::MAX);
    }
    Ok(())
}

async fn is_shared(transaction: &Transaction, id: OriginalId) -> Result<bool, LedgerError> {
    let shared = original_images::Entity::find_by_id(id)
        .filter(Column::Scope.eq(""))
        .count(transaction)
        .await?;
    Ok(shared > 0)
}

fn expect(changed: u64, planned: usize) -> Result<(), LedgerError> {
    if changed == planned as u64 || !enforced(Rule::AffectedRowsChecked) {
        Ok(())
    } else {
        Err(LedgerError::Contended)
    }
}
