//! The first half of a batch: read what its operations name, lock the originals among it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use entity::original_images::OriginalState;
use entity::{
    ContentDigest, ImageId, LeaseToken, OriginalId, images, original_images, webhook_events,
};
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, DbErr, DerivePartialModel, EntityTrait,
    FromQueryResult, PaginatorTrait, PartialModelTrait, QueryFilter, QuerySelect, QueryTrait,
};

use super::plan::Plan;
use super::{Operation, Outcome, Run};
use crate::ledger::literal::state_is;
use crate::ledger::text::{Text, is_one_of, padded};
use crate::ledger::{LedgerError, clock};
#[cfg(feature = "seams")]
use crate::seams::broken;
use crate::seams::{Rule, Transaction, enforced};
use crate::upload::{ContentRef, ReleasedImage};

/// What a batch has to know of an original; the other columns are the reapers'.
#[derive(Debug, Clone, DerivePartialModel)]
#[sea_orm(entity = "original_images::Entity")]
pub(super) struct SeenOriginal {
    pub(super) id: OriginalId,
    pub(super) scope: String,
    pub(super) content_hash: ContentDigest,
    pub(super) file_size: i64,
    pub(super) s3_key: String,
    pub(super) width: Option<i32>,
    pub(super) height: Option<i32>,
    pub(super) mime_type: Option<String>,
    pub(super) state: OriginalState,
    pub(super) reference_count: i64,
    pub(super) lease_token: Option<LeaseToken>,
    pub(super) zero_since: Option<DateTime<Utc>>,
    pub(super) damaged_at: Option<DateTime<Utc>>,
}

/// What the batch's transaction sees. Originals are locked; images are not (lock order: originals
/// ascending, then images), so every write that touches one is checked by its affected rows.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The database's time, the same for the whole batch.
    pub(super) now: DateTime<Utc>,
    pub(super) images: HashMap<ImageId, images::Model>,
    pub(super) originals: HashMap<OriginalId, SeenOriginal>,
    /// (source, event id) → the first answer.
    pub(super) receipts: HashMap<(String, String), serde_json::Value>,
    /// Pairs of tenant and shared original of which the tenant has a live image; asked only for
    /// references in the global scope, where the count does not tell.
    pub(super) held: HashSet<(String, OriginalId)>,
}

pub(super) async fn look(
    transaction: &Transaction,
    backend: DbBackend,
    operations: &[Operation],
    run: Run,
) -> Result<Seen, DbErr> {
    let images = read_images(transaction, backend, operations, run).await?;
    let receipts = read_receipts(transaction, operations).await?;
    let mut ids = named_originals(operations, run);
    ids.extend(
        images
            .values()
            .filter_map(|image| image.original_image_id.or(image.was_original_id)),
    );
    #[cfg(feature = "seams")]
    broken::revive(transaction, backend, named_digests(operations)).await?;
    let contents = named_contents(operations);
    let (originals, told) = match backend {
        // The transaction holds the one write lock: nothing needs to be locked row by row.
        DbBackend::Sqlite => (read_originals(transaction, ids, contents).await?, None),
        _ => lock_originals(transaction, ids, contents).await?,
    };
    let now = match told {
        Some(now) if enforced(Rule::DatabaseClock) => now,
        _ => clock::read(transaction, backend).await?,
    };
    let mut seen = Seen {
        now,
        images,
        originals,
        receipts,
        held: HashSet::new(),
    };
    read_held(transaction, operations, &mut seen).await?;
    Ok(seen)
}

/// Images that are to be deleted, and those that an earlier run or request may have made.
async fn read_images(
    transaction: &Transaction,
    backend: DbBackend,
    operations: &[Operation],
    run: Run,
) -> Result<HashMap<ImageId, images::Model>, DbErr> {
    let mut ids: HashSet<ImageId> = HashSet::new();
    for operation in operations {
        match operation {
            Operation::Upload(upload) if run == Run::Again || upload.must_not_exist.is_some() => {
                ids.extend(upload.images.iter().map(|image| image.id));
                ids.extend(upload.must_not_exist);
            }
            Operation::Reference(reference)
                if run == Run::Again || reference.must_not_exist.is_some() =>
            {
                ids.insert(reference.image);
                ids.extend(reference.must_not_exist);
            }
            Operation::Upload(_) | Operation::Reference(_) => {}
            Operation::Release(release) => ids.extend(&release.ids),
        }
    }
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = images::Entity::find()
        .filter(is_one_of(backend, images::Column::Id, ids))
        .all(transaction)
        .await?;
    Ok(rows.into_iter().map(|image| (image.id, image)).collect())
}

async fn read_receipts(
    transaction: &Transaction,
    operations: &[Operation],
) -> Result<HashMap<(String, String), serde_json::Value>, DbErr> {
    let mut deliveries = Condition::any();
    for operation in operations {
        if let Operation::Release(release) = operation
            && let Some(event_id) = &release.event_id
        {
            deliveries = deliveries.add(
                Condition::all()
                    .add(webhook_events::Column::Source.eq(release.tenant.as_str()))
                    .add(webhook_events::Column::EventId.eq(event_id)),
            );
        }
    }
    if deliveries.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = webhook_events::Entity::find()
        .filter(deliveries)
        .all(transaction)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| ((row.source, row.event_id), row.result))
        .collect())
}

/// Originals that operations name by id: rows they wrote, rows they reference, and those that an
/// earlier run may have announced.
fn named_originals(operations: &[Operation], run: Run) -> BTreeSet<OriginalId> {
    let mut ids = BTreeSet::new();
    for operation in operations {
        match operation {
            Operation::Upload(upload) => {
                ids.extend(
                    upload
                        .contents
                        .iter()
                        .filter_map(|claim| claim.own)
                        .map(|own| own.0),
                );
                if run == Run::Again {
                    ids.extend(upload.intents.iter().map(|intent| intent.id));
                }
            }
            Operation::Reference(reference) => {
                if let ContentRef::Original(id) = reference.content {
                    ids.insert(id);
                }
            }
            Operation::Release(_) => {}
        }
    }
    ids
}

#[cfg(feature = "seams")]
fn named_digests(operations: &[Operation]) -> impl Iterator<Item = ContentDigest> {
    let contents = operations.iter().map(|operation| match operation {
        Operation::Upload(upload) => &upload.contents[..],
        _ => &[],
    });
    contents.flatten().map(|claim| claim.digest)
}

/// The contents that operations name by digest, by scope.
type NamedContents<'a> = BTreeMap<&'a str, BTreeSet<ContentDigest>>;

fn named_contents(operations: &[Operation]) -> NamedContents<'_> {
    let mut wanted = NamedContents::new();
    for operation in operations {
        match operation {
            Operation::Upload(upload) => wanted
                .entry(&upload.scope)
                .or_default()
                .extend(upload.contents.iter().map(|claim| claim.digest)),
            Operation::Reference(reference) => {
                if let ContentRef::Digest(digest) = reference.content {
                    wanted.entry(&reference.scope).or_default().insert(digest);
                }
            }
            Operation::Release(_) => {}
        }
    }
    wanted
}

/// The originals of these ids, and the stored rows of these contents.
async fn read_originals(
    transaction: &Transaction,
    ids: BTreeSet<OriginalId>,
    contents: NamedContents<'_>,
) -> Result<HashMap<OriginalId, SeenOriginal>, DbErr> {
    let mut wanted = Condition::any();
    for (scope, digests) in contents {
        wanted = wanted.add(
            Condition::all()
                .add(state_is(OriginalState::Stored))
                .add(original_images::Column::Scope.eq(scope))
                .add(original_images::Column::ContentHash.is_in(padded(digests))),
        );
    }
    if !ids.is_empty() {
        wanted = wanted.add(original_images::Column::Id.is_in(padded(ids)));
    }
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = original_images::Entity::find()
        .filter(wanted)
        .into_partial_model()
        .all(transaction)
        .await?;
    Ok(by_id(rows))
}

/// Locks the originals of these ids and the stored rows of these contents, one after the other in the order of
/// their ids, by id alone, and reads what is there once the lock is held: the state decides in the plan. With
/// the first row the database tells the time, which is the same all through a transaction.
///
/// One look into an index for each, whatever PostgreSQL knew of the table when it planned the statement: it
/// keeps plans, and those of an empty table read all of it. `OFFSET 0` keeps a part as it is written.
async fn lock_originals(
    transaction: &Transaction,
    ids: BTreeSet<OriginalId>,
    contents: NamedContents<'_>,
) -> Result<(HashMap<OriginalId, SeenOriginal>, Option<DateTime<Utc>>), DbErr> {
    if ids.is_empty() && contents.is_empty() {
        return Ok((HashMap::new(), None));
    }
    let each = SeenOriginal::select_cols(original_images::Entity::find().select_only())
        .filter(Expr::cust("original_images.id = wanted.id"))
        .lock_exclusive()
        .build(DbBackend::Postgres);
    let mut lock = Text::new(DbBackend::Postgres, "SELECT now(), found.* FROM (");
    if !ids.is_empty() {
        lock.push("SELECT named.column1 AS id FROM ");
        lock.table("named", ids.iter().map(|id| [(*id).into()]));
    }
    if !contents.is_empty() {
        lock.push(if ids.is_empty() { "" } else { " UNION " });
        lock.push("SELECT stored.id FROM ");
        let contents = contents.into_iter().flat_map(|(scope, digests)| {
            let digests = digests.into_iter();
            digests.map(move |digest| [scope.into(), digest.into()])
        });
        lock.table("content", contents).push(
            " CROSS JOIN LATERAL (
                SELECT id FROM original_images
                WHERE state = 'stored' AND scope = content.column1 AND content_hash = content.column2
                OFFSET 0
            ) AS stored",
        );
    }
    lock.push(&format!(
        " ORDER BY id OFFSET 0) AS wanted CROSS JOIN LATERAL ({}) AS found",
        each.sql
    ));
    let rows = transaction.query_all_raw(lock.finish()).await?;
    let now = match rows.first() {
        Some(row) => Some(row.try_get_by_index(0)?),
        None => None,
    };
    let rows = rows
        .iter()
        .map(|row| SeenOriginal::from_query_result(row, ""));
    Ok((by_id(rows.collect::<Result<_, _>>()?), now))
}

fn by_id(rows: Vec<SeenOriginal>) -> HashMap<OriginalId, SeenOriginal> {
    rows.into_iter()
        .map(|original| (original.id, original))
        .collect()
}

/// Whether the count of a locked original is wrong, or only the look at its images old: they were read
/// before the lock, and another node deleted some of them in between. Under the lock the images that
/// point at the original no longer change.
pub(super) async fn why_below_zero(
    transaction: &Transaction,
    id: OriginalId,
) -> Result<LedgerError, DbErr> {
    let original = original_images::Entity::find_by_id(id)
        .one(transaction)
        .await?;
    let images = images::Entity::find()
        .filter(images::Column::OriginalImageId.eq(id))
        .count(transaction)
        .await?;
    let counted = original.map_or(0, |row| row.reference_count);
    Ok(match i64::try_from(images) {
        Ok(images) if images == counted => LedgerError::Contended,
        _ => LedgerError::Inconsistent(format!(
            "original {id} counts {counted} images and has {images}"
        )),
    })
}

async fn read_held(
    transaction: &Transaction,
    operations: &[Operation],
    seen: &mut Seen,
) -> Result<(), DbErr> {
    for operation in operations {
        let Operation::Reference(reference) = operation else {
            continue;
        };
        for original in seen.originals.values().filter(|row| row.scope.is_empty()) {
            let named = match reference.content {
                ContentRef::Digest(digest) => original.content_hash == digest,
                ContentRef::Original(id) => original.id == id,
            };
            if !named {
                continue;
            }
            let one = Query::select()
                .expr(Expr::val(1))
                .from(images::Entity)
                .and_where(Expr::col(images::Column::OriginalImageId).eq(original.id))
                .and_where(Expr::col(images::Column::Tenant).eq(reference.tenant.as_str()))
                .limit(1)
                .take();
            if transaction.query_one(&one).await?.is_some() {
                seen.held
                    .insert((reference.tenant.to_string(), original.id));
            }
        }
    }
    Ok(())
}

/// In the global scope a row's count is everybody's; a tenant is told only its own, as it is now that the
/// batch has written.
pub(super) async fn count_own_references(
    transaction: &Transaction,
    operations: &[Operation],
    plan: &mut Plan,
) -> Result<(), DbErr> {
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
        if !plan.shared.contains(&original.id) {
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
