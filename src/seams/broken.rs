//! What the server does where a rule is left out and that is more than a branch taken the other way.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use entity::{ContentDigest, ImageId};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement, Value};
use uuid::Uuid;

use super::{Rule, Transaction, enforced};
use crate::ledger::Ledger;
use crate::ledger::batch::{Operation, Run};
use crate::ledger::pending::NewGeneration;
use crate::ledger::verify::KeyedOriginal;
use crate::store::BlobStore;

/// R5: takes those constraints of the schema away that are left out. Only PostgreSQL can drop all of
/// them; SQLite the index.
pub(crate) async fn drop_constraints(connection: &DatabaseConnection) -> Result<(), DbErr> {
    if !enforced(Rule::OneStoredRow) {
        let drop = "DROP INDEX IF EXISTS original_images_stored_content";
        connection.execute_unprepared(drop).await?;
    }
    let postgres = connection.get_database_backend() == DbBackend::Postgres;
    for (rule, which) in [
        (Rule::OneRowPerKey, "conname = 'original_images_s3_key_key'"),
        (Rule::CheckedRows, "contype = 'c'"),
        (Rule::ReferencesExist, "contype = 'f'"),
        (
            Rule::OneReceipt,
            "contype = 'p' AND conrelid = 'webhook_events'::regclass",
        ),
    ] {
        if postgres && !enforced(rule) {
            let drop = format!(
                "DO $$ DECLARE c record; BEGIN
                   FOR c IN SELECT conname, conrelid::regclass AS relation FROM pg_constraint
                     WHERE {which} AND connamespace = current_schema()::regnamespace
                       AND conrelid <> 0
                   LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.relation, c.conname);
                   END LOOP; END $$"
            );
            connection.execute_unprepared(&drop).await?;
        }
    }
    Ok(())
}

/// R6: `deleting` rows of these contents are `stored` again.
pub(crate) async fn revive(
    transaction: &Transaction,
    backend: DbBackend,
    digests: impl Iterator<Item = ContentDigest>,
) -> Result<(), DbErr> {
    if enforced(Rule::DeletingIsTerminal) {
        return Ok(());
    }
    let now = crate::ledger::clock::value(backend, Utc::now());
    for digest in digests {
        let values: [Value; 2] = [now.clone(), digest.into()];
        let sql = "UPDATE original_images SET state = 'stored', zero_since = $1, stored_at = $1
                   WHERE state = 'deleting' AND content_hash = $2 AND NOT EXISTS (
                     SELECT 1 FROM original_images AS other
                     WHERE other.state = 'stored' AND other.content_hash = $2)";
        let revive = Statement::from_sql_and_values(backend, sql, values);
        transaction.execute_raw(revive).await?;
    }
    Ok(())
}

/// R7: the process's own time, as far ahead as a test says that its clock is.
pub(crate) fn own_time(sign: char, by: Duration) -> DateTime<Utc> {
    let ahead = std::env::var("HAPAX_SEAMS_CLOCK_AHEAD_SECONDS").ok();
    let ahead = ahead.and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    let by = TimeDelta::from_std(by).unwrap_or_default();
    let now = Utc::now() + TimeDelta::seconds(ahead);
    match sign {
        '-' => now - by,
        _ => now + by,
    }
}

/// R9: deletes the objects of rows that nobody has claimed.
pub(crate) async fn delete_unclaimed(ledger: &Ledger, store: &dyn BlobStore, grace: Duration) {
    if enforced(Rule::ClaimBeforeDelete) {
        return;
    }
    if let Ok(rows) = ledger.list_unreferenced(grace, 1000).await {
        let keys: Vec<String> = rows.into_iter().map(|row| row.s3_key).collect();
        let _ = store.delete(&keys).await;
    }
}

/// R10: image ids of the next run, other ones than those of the last.
pub(crate) fn ids_for(operations: &[Operation], run: Run) -> Cow<'_, [Operation]> {
    if run == Run::First || enforced(Rule::SameIdsAgain) {
        return operations.into();
    }
    let mut operations = operations.to_vec();
    for operation in &mut operations {
        match operation {
            Operation::Upload(upload) => {
                for image in &mut upload.images {
                    image.id = ImageId(Uuid::now_v7());
                }
            }
            Operation::Reference(reference) => reference.image = ImageId(Uuid::now_v7()),
            Operation::Release(_) => {}
        }
    }
    operations.into()
}

/// R14: what was not looked for was not announced either.
pub(crate) async fn announce_unlooked(ledger: &Ledger, intents: &[NewGeneration]) {
    if !enforced(Rule::LookBeforeWriting) && enforced(Rule::IntentBeforePut) {
        announce(ledger, intents).await;
    }
}

/// R2: announces what is written already.
pub(crate) async fn announce_written(ledger: &Ledger, generation: &NewGeneration) {
    if !enforced(Rule::IntentBeforePut) {
        announce(ledger, std::slice::from_ref(generation)).await;
    }
}

/// Rows that are there stay as they are.
async fn announce(ledger: &Ledger, generations: &[NewGeneration]) {
    for generation in generations {
        if let Err(error) = ledger.announce_generation(generation).await {
            tracing::error!(%error, "a generation is not announced");
        }
    }
}

static ROWS_BEFORE: OnceLock<Vec<KeyedOriginal>> = OnceLock::new();

/// R12: keeps what a scrub would have read before its listing: when it asks whose store it is.
pub(crate) async fn remember_rows(ledger: &Ledger) {
    if !enforced(Rule::ListThenSelect)
        && let Ok(rows) = ledger.originals_by_key(None, None, 10_000).await
    {
        let _ = ROWS_BEFORE.set(rows);
    }
}

/// R12: those rows, `after` < key <= `through`.
pub(crate) fn rows_before(
    after: Option<&str>,
    through: Option<&str>,
) -> Option<Vec<KeyedOriginal>> {
    let rows = ROWS_BEFORE.get()?.iter();
    let rows = rows.filter(|row| after.is_none_or(|after| row.s3_key.as_str() > after));
    let rows = rows.filter(|row| through.is_none_or(|through| row.s3_key.as_str() <= through));
    Some(rows.cloned().collect())
}

/// R16: a transaction to be held while the store works.
pub(crate) async fn open_transaction(ledger: &Ledger) -> Option<Transaction> {
    match enforced(Rule::NothingOpenAcrossStore) {
        true => None,
        false => ledger.begin().await.ok(),
    }
}
