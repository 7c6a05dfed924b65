//! The second half of a batch: the plan as a handful of multi-row statements. Whatever was planned
//! for n rows must change n rows, or the whole batch is rolled back.

use std::collections::HashSet;

use entity::original_images::{Column, OriginalState};
use entity::{ImageId, OriginalId, images, original_images, webhook_events};
use sea_orm::sea_query::{Expr, OnConflict, Query};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryTrait, Value};

use super::plan::{Heal, Plan};
use crate::ledger::literal::{found_in_state, found_live, state_is};
use crate::ledger::script::Script;
use crate::ledger::text::{Text, is_one_of, padded};
use crate::ledger::{clock, pending};
use crate::seams::{Rule, enforced};

/// Rows in one INSERT: 10 values each, below SQLite's 32766 variables a statement; a power of two, as
/// the lists are padded.
const ROWS_PER_INSERT: usize = 1024;

/// The first part: originals. Lock order everywhere: originals, then images, then usage counters.
pub(super) fn originals(script: &mut Script, plan: &Plan) {
    discard(script, plan);
    for heal in &plan.heal {
        // A row is changed twice, and counted besides.
        script.keep_order();
        exchange_keys(script, plan, heal);
    }
    announce(script, plan);
    promote(script, plan);
    change_counts(script, plan);
}

/// The second part: images.
pub(super) fn images(script: &mut Script, plan: &Plan) {
    insert_images(script, plan);
    release_images(script, plan);
}

fn discard(script: &mut Script, plan: &Plan) {
    if plan.discard.is_empty() {
        return;
    }
    let backend = script.backend();
    let discard = original_images::Entity::update_many()
        .col_expr(Column::State, Expr::val(OriginalState::Deleting))
        .col_expr(Column::NextTry, clock::at(backend, plan.now))
        .col_expr(Column::UpdatedAt, clock::at(backend, plan.now))
        .col_expr(
            Column::LastError,
            Expr::val("another upload stored the same content"),
        )
        .filter(is_one_of(backend, Column::Id, plan.discard.iter().copied()))
        .filter(Expr::cust(found_in_state(OriginalState::Pending)));
    script.add(discard.build(backend), plan.discard.len());
}

/// Write intents: rule R2's rows, for callers that begin to send once this batch is committed.
fn announce(script: &mut Script, plan: &Plan) {
    if plan.announce.is_empty() {
        return;
    }
    let backend = script.backend();
    let mut insert = Query::insert();
    insert
        .into_table(original_images::Entity)
        .columns(pending::COLUMNS)
        .on_conflict(OnConflict::column(Column::Id).do_nothing().to_owned());
    for generation in padded(&plan.announce) {
        let from_now = |after| clock::at(backend, plan.now + after);
        insert.values_panic(pending::row(generation, OriginalState::Pending, from_now));
    }
    script.add(backend.build(&insert), plan.announce.len());
}

/// The PUT answered 2xx and there is exactly one per key, so none can still land: `put_deadline` is
/// now. The count is that of this batch's images.
fn promote(script: &mut Script, plan: &Plan) {
    if plan.promote.is_empty() {
        return;
    }
    let now = || clock::value(script.backend(), plan.now);
    let mut update = Text::new(
        script.backend(),
        "UPDATE original_images SET state = 'stored', lease_token = NULL, lease_until = NULL",
    );
    let given = update.give(plan.promote.iter().map(|(id, token)| {
        let count = plan.deltas.get(id).copied().unwrap_or_default();
        (*id, [(*token).into(), count.into()])
    }));
    let (token, count) = (given.value(0), given.value(1));
    set_count(update.push(", "), &count, now());
    for column in ["stored_at", "updated_at", "put_deadline"] {
        update.push(&format!(", {column} = ")).bind(now());
    }
    update
        .of_given(given)
        .push(&format!(" AND lease_token = {token}"));
    if enforced(Rule::RowDecides) {
        update.push(&format!(" AND {}", found_in_state(OriginalState::Pending)));
    }
    script.add(update.finish(), plan.promote.len());
}

/// A count, an expression, and since when it is zero.
fn set_count(update: &mut Text, count: &str, now: Value) {
    update
        .push(&format!(
            "reference_count = {count}, zero_since = CASE WHEN {count} = 0 THEN "
        ))
        .bind(now)
        .push(" END");
}

/// Gives a damaged row the object of a pending row, and the pending row the damaged object to
/// delete. Keys are unique, so one of them steps aside for a moment.
fn exchange_keys(script: &mut Script, plan: &Plan, heal: &Heal) {
    let backend = script.backend();
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
        .filter(state_is(OriginalState::Pending));
    script.add(step_aside.build(backend), 1);
    let healed = original_images::Entity::update_many()
        .col_expr(Column::S3Key, Expr::val(heal.sound_key.as_str()))
        .col_expr(Column::DamagedAt, Expr::cust("NULL"))
        .col_expr(Column::LastError, Expr::cust("NULL"))
        .col_expr(Column::UpdatedAt, now())
        .filter(Column::Id.eq(heal.damaged))
        .filter(Column::S3Key.eq(heal.damaged_key.as_str()))
        .filter(state_is(OriginalState::Stored));
    script.add(healed.build(backend), 1);
    // The damaged object's own PUT ended long ago, so its DELETE may begin at once.
    let handed_over = original_images::Entity::update_many()
        .col_expr(Column::S3Key, Expr::val(heal.damaged_key.as_str()))
        .col_expr(Column::PutDeadline, now())
        .filter(Column::Id.eq(heal.sound));
    script.add(handed_over.build(backend), 1);
}

/// One UPDATE for the counts of all rows that were stored before, relative to what is there.
fn change_counts(script: &mut Script, plan: &Plan) {
    let promoted: HashSet<OriginalId> = plan.promote.iter().map(|(id, _)| *id).collect();
    let changes: Vec<(OriginalId, [Value; 1])> = plan
        .deltas
        .iter()
        .filter(|(id, _)| !promoted.contains(id))
        .map(|(id, delta)| (*id, [(*delta).into()]))
        .collect();
    if changes.is_empty() {
        return;
    }
    let planned = changes.len();
    let now = || clock::value(script.backend(), plan.now);
    let mut update = Text::new(script.backend(), "UPDATE original_images SET ");
    let given = update.give(changes);
    let count = format!("reference_count + {}", given.value(0));
    set_count(&mut update, &count, now());
    update
        .push(", updated_at = ")
        .bind(now())
        .of_given(given)
        .push(&format!(" AND {}", found_in_state(OriginalState::Stored)));
    script.add(update.finish(), planned);
}

fn insert_images(script: &mut Script, plan: &Plan) {
    for rows in plan.insert.chunks(ROWS_PER_INSERT) {
        let mut insert = Text::new(
            script.backend(),
            "INSERT INTO images (id, tenant, original_image_id, content_hash, file_size, filename,
                mime_type, metadata, deduplicated, created_at)
             VALUES ",
        );
        insert.rows(
            padded(rows)
                .into_iter()
                .map(|image| image_values(script, image)),
        );
        insert.push(" ON CONFLICT (id) DO NOTHING");
        script.add(insert.finish(), rows.len());
    }
}

fn image_values(script: &Script, image: &images::Model) -> [Value; 10] {
    [
        image.id.into(),
        image.tenant.as_str().into(),
        image.original_image_id.into(),
        image.content_hash.into(),
        image.file_size.into(),
        image.filename.clone().into(),
        image.mime_type.clone().into(),
        image.metadata.clone().into(),
        image.deduplicated.into(),
        clock::value(script.backend(), image.created_at),
    ]
}

fn release_images(script: &mut Script, plan: &Plan) {
    if plan.release.is_empty() {
        return;
    }
    let backend = script.backend();
    let new: HashSet<ImageId> = plan.insert.iter().map(|image| image.id).collect();
    if plan.release.iter().any(|id| new.contains(id)) {
        // It came into being in this batch, and ends in it.
        script.keep_order();
    }
    let release = images::Entity::update_many()
        .col_expr(images::Column::DeletedAt, clock::at(backend, plan.now))
        .col_expr(
            images::Column::WasOriginalId,
            Expr::col(images::Column::OriginalImageId),
        )
        .col_expr(
            images::Column::OriginalImageId,
            Expr::val(None::<uuid::Uuid>),
        )
        .filter(is_one_of(
            backend,
            images::Column::Id,
            plan.release.iter().copied(),
        ))
        .filter(Expr::cust(found_live()));
    script.add(release.build(backend), plan.release.len());
}

/// The third part: receipts. A unique violation: another node took the same delivery; the next run finds
/// its receipt.
pub(super) fn receipts(script: &mut Script, plan: &Plan) {
    let backend = script.backend();
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
        script.add(backend.build(&insert), 1);
    }
}

/// The last part: the counters of usage.
pub(super) fn usage(script: &mut Script, plan: &Plan) {
    if let Some((statement, rows)) = plan.usage.statement(script.backend()) {
        script.add(statement, rows);
    }
}
