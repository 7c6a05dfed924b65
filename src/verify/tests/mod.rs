//! Whole verifications of a database and a store in memory.

mod pieces;
mod shelf;
mod strays;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entity::original_images::{self, OriginalState};
use entity::{ContentDigest, OriginalId};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::ledger::testing;
use crate::ledger::usage_check::UsageDifference;
use crate::ledger::verify::StrayObject;
use crate::ledger::verify::passes::PassKind;
use crate::store::StorageKey;
use shelf::Shelf;

/// A database and a store that belong together.
struct World {
    ledger: Ledger,
    shelf: Arc<Shelf>,
    _folder: TempDir,
}

/// What was told; after so many findings or looks, whoever listens wants no more.
#[derive(Default)]
struct Notes {
    findings: Vec<Finding>,
    stop_after: Option<(u64, CancellationToken)>,
}

impl Observer for Notes {
    fn found(&mut self, finding: &Finding) {
        self.findings.push(finding.clone());
    }

    fn usage_differs(&mut self, _: &UsageDifference, _: bool) {}

    fn progressed(&mut self, so_far: &Progress) {
        if let Some((looks, stop)) = &self.stop_after
            && so_far.summary.looks() >= *looks
        {
            stop.cancel();
        }
    }
}

impl World {
    async fn new() -> Self {
        Self::with_pages_of(2).await
    }

    async fn with_pages_of(page_size: usize) -> Self {
        let (ledger, folder) = testing::ledger().await;
        let shelf = Arc::new(Shelf {
            page_size,
            ..Shelf::default()
        });
        let store_id = Uuid::from_u128(42);
        *shelf.store_id.lock().expect("a lock") = Some(store_id);
        let world = Self {
            ledger,
            shelf,
            _folder: folder,
        };
        world
            .sql(&format!(
                "INSERT INTO store_meta (store_id) VALUES (x'{}')",
                store_id.simple()
            ))
            .await;
        world
    }

    async fn sql(&self, sql: &str) {
        self.ledger.writer.execute_unprepared(sql).await.expect(sql);
    }

    /// An original with `images` live images; its key.
    async fn original(&self, number: u8, state: &str, images: u32) -> String {
        let (id, bytes) = (
            OriginalId(Uuid::from_u128(u128::from(number))),
            content(number),
        );
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        let key = self.shelf.key_for(&digest.into(), id).to_string();
        let (id, hash) = (id.0.simple(), hex::encode(digest));
        let stored = match (state, images) {
            ("stored", 0) => "'2026-01-01T00:00:00.000+00:00', '2026-01-01T00:00:00.000+00:00'",
            ("stored", _) => "'2026-01-01T00:00:00.000+00:00', NULL",
            _ => "NULL, NULL",
        };
        self.sql(&format!(
            "INSERT INTO original_images (id, scope, content_hash, file_size, s3_key, state,
                reference_count, put_deadline, lease_token, lease_until, stored_at, zero_since)
             VALUES (x'{id}', 'default', x'{hash}', {}, '{key}', '{state}', {images},
                '2026-01-01T00:00:00.000+00:00', x'{id}', '2099-01-01T00:00:00.000+00:00', {stored})",
            bytes.len(),
        ))
        .await;
        for image in 0..images {
            self.sql(&format!(
                "INSERT INTO images (id, original_image_id, content_hash, file_size)
                 VALUES (x'{:030x}{image:02x}', x'{id}', x'{hash}', {})",
                number,
                bytes.len(),
            ))
            .await;
        }
        key
    }

    fn object(&self, key: &str, bytes: impl Into<Bytes>) {
        let mut objects = self.shelf.objects.lock().expect("a lock");
        objects.insert(key.to_owned(), bytes.into());
    }

    async fn stored(&self, number: u8, images: u32) -> String {
        let key = self.original(number, "stored", images).await;
        self.object(&key, content(number));
        key
    }

    fn verifier(&self, mending: Mending, bytes_per_step: u64) -> Verifier {
        let store: Arc<dyn BlobStore> = Arc::clone(&self.shelf) as _;
        let options = VerifyOptions {
            mending,
            put_deadline: Duration::from_secs(60),
            usage: true,
            reads_in_flight: 2,
            bytes_per_step,
            read_pace: Pace::new(None),
        };
        let identity = StoreIdentity::new(self.ledger.clone(), Arc::clone(&store));
        let stop = CancellationToken::new();
        Verifier::new(self.ledger.clone(), store, identity, options, stop)
    }

    async fn keeper(&self) -> Keeper {
        let taken = self.ledger.take_command_pass().await.expect("taken");
        Keeper::new(self.ledger.clone(), taken)
    }

    async fn kept(&self) -> Option<Progress> {
        let state = self.ledger.pass_state(PassKind::Command).await;
        let progress = state.expect("asked").progress?;
        Some(serde_json::from_value(progress).expect("what was kept"))
    }

    async fn verify(&self, deep: bool, repair: bool) -> (Vec<Finding>, VerifySummary) {
        let mending = match repair {
            true => Mending::Repair,
            false => Mending::ReportOnly,
        };
        let deep = deep.then_some(Sample::ALL);
        self.verify_with(&self.verifier(mending, u64::MAX), deep)
            .await
    }

    async fn verify_with(
        &self,
        verifier: &Verifier,
        deep: Option<Sample>,
    ) -> (Vec<Finding>, VerifySummary) {
        let (mut notes, mut keeper) = (Notes::default(), self.keeper().await);
        let pace = Pace::new(None);
        let ended = run(
            verifier,
            Progress::new(deep),
            &pace,
            &mut keeper,
            &mut notes,
        )
        .await;
        let Ok(Ended::Complete(summary)) = ended else {
            panic!("to come to its end: {ended:?}");
        };
        assert_eq!(summary.problems, notes.findings.len() as u64);
        assert_eq!(
            self.kept().await,
            None,
            "a complete pass leaves nothing to go on with"
        );
        (notes.findings, summary)
    }

    /// Keys of `deleting` rows.
    async fn condemned(&self) -> Vec<String> {
        let rows = original_images::Entity::find()
            .filter(original_images::Column::State.eq(OriginalState::Deleting))
            .order_by_asc(original_images::Column::S3Key)
            .all(&self.ledger.writer)
            .await;
        let rows = rows.expect("asked").into_iter();
        rows.map(|row| row.s3_key).collect()
    }
}

/// A key that no row has.
fn stray_key(number: u8) -> String {
    let digest: [u8; 32] = [number; 32];
    let generation = OriginalId(Uuid::from_u128(u128::from(number) << 64));
    StorageKey::original("", &digest.into(), generation).to_string()
}

fn content(number: u8) -> Bytes {
    Bytes::from(vec![number; usize::from(number)])
}

#[tokio::test]
async fn a_sound_store_has_no_findings_in_any_state() {
    let world = World::new().await;
    for number in 1..=7 {
        world.stored(number, u32::from(number) % 3).await;
    }
    let pending = world.original(8, "pending", 0).await;
    world.original(9, "pending", 0).await;
    world.object(&pending, "half");
    let deleting = world.original(10, "deleting", 0).await;
    world.object(&deleting, content(10));
    let (findings, summary) = world.verify(true, true).await;
    assert_eq!(findings, []);
    assert_eq!((summary.rows, summary.objects), (10, 9));
    assert_eq!((summary.hashed, summary.counts), (7, 10));
}

#[tokio::test]
async fn missing_and_wrong_objects_are_told_apart_and_marked() {
    let world = World::new().await;
    let missing = world.original(1, "stored", 1).await;
    let longer = world.stored(2, 1).await;
    world.object(&longer, "longer than it was");
    let other = world.stored(3, 1).await;
    world.object(&other, "xyz");
    let hidden = world.stored(4, 1).await;
    *world.shelf.unreadable.lock().expect("a lock") = Some(hidden.clone());

    let (findings, summary) = world.verify(true, true).await;
    assert_eq!((summary.missing, summary.unreadable), (3, 1));
    let seen = |wanted: &dyn Fn(&Finding) -> bool| findings.iter().filter(|f| wanted(f)).count();
    let is = |original: &OriginalKey, key: &str| original.key == key;
    assert_eq!(
        seen(
            &|f| matches!(f, Finding::MissingObject { original, repaired: true } if is(original, &missing))
        ),
        1
    );
    assert_eq!(
        seen(
            &|f| matches!(f, Finding::WrongSize { original, actual: 18, repaired: true, .. } if is(original, &longer))
        ),
        1
    );
    assert_eq!(
        seen(
            &|f| matches!(f, Finding::WrongBytes { original, repaired: true, .. } if is(original, &other))
        ),
        1
    );
    assert_eq!(
        seen(&|f| matches!(f, Finding::Unreadable { key, .. } if *key == hidden)),
        1
    );
    assert_eq!(findings.len(), 4, "{findings:#?}");

    // What was marked stays told until its bytes are read and right.
    world.object(&missing, content(1));
    let (findings, _) = world.verify(false, true).await;
    let known = |f: &&Finding| matches!(f, Finding::KnownDamage { repaired: false, original } if is(original, &missing));
    assert_eq!(findings.iter().filter(known).count(), 1, "{findings:#?}");
    let (findings, _) = world.verify(true, true).await;
    let cleared = |f: &&Finding| matches!(f, Finding::KnownDamage { repaired: true, original } if is(original, &missing));
    assert_eq!(findings.iter().filter(cleared).count(), 1, "{findings:#?}");
    let (findings, _) = world.verify(true, true).await;
    assert!(
        !findings
            .iter()
            .any(|f| matches!(f, Finding::KnownDamage { original, .. } if is(original, &missing)))
    );
}

#[tokio::test]
async fn what_changes_between_listing_and_looking_is_no_finding() {
    let world = World::new().await;
    // Written after the listing: a row alone at first sight.
    let fresh = world.original(1, "stored", 1).await;
    // Listed, and gone with its row before the rows were read: an object alone at first sight.
    let gone = stray_key(7);
    world.object(&gone, "x");
    *world.shelf.after_list.lock().expect("a lock") = Some(Box::new(move |objects| {
        objects.remove(&gone);
        objects.insert(fresh, content(1));
    }));
    let (findings, _) = world.verify(true, true).await;
    assert_eq!(findings, []);
}

#[tokio::test]
async fn an_original_that_goes_or_moves_while_it_is_looked_at_is_no_finding() {
    for change in [
        "state = 'deleting', reference_count = 0",
        "s3_key = 'aa/healed'",
    ] {
        for deep in [false, true] {
            let world = World::new().await;
            world.original(1, "stored", 0).await;
            let sql = format!("UPDATE original_images SET {change}");
            let change = (world.ledger.writer.clone(), sql);
            *world.shelf.before_stat.lock().expect("a lock") = Some(change);
            assert_eq!(world.verify(deep, true).await.0, []);
        }
    }
}

#[tokio::test]
async fn wrong_counts_are_found_and_set_right() {
    let world = World::new().await;
    world.stored(1, 2).await;
    world.stored(2, 0).await;
    let id = |number| format!("x'{number:032x}'");
    world
        .sql(&format!(
            "UPDATE original_images SET reference_count = 5 WHERE id = {}",
            id(1)
        ))
        .await;
    world
        .sql(&format!(
            "UPDATE original_images SET reference_count = 1, zero_since = NULL WHERE id = {}",
            id(2)
        ))
        .await;
    let expected = |repaired| {
        [(1, 5, 2), (2, 1, 0)].map(
            |(number, reference_count, live_images)| Finding::WrongCount {
                state: OriginalState::Stored,
                original_id: OriginalId(Uuid::from_u128(number)),
                reference_count,
                live_images,
                repaired,
            },
        )
    };
    assert_eq!(world.verify(false, false).await.0, expected(false));
    assert_eq!(world.verify(false, true).await.0, expected(true));
    assert_eq!(world.verify(false, true).await.0, []);
}

#[tokio::test]
async fn many_rows_in_one_page_of_objects_are_all_seen() {
    let world = World::with_pages_of(1000).await;
    // More pending rows than one page of rows holds, around a stored one.
    world.stored(1, 1).await;
    world
        .sql(
            "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 3200)
             INSERT INTO original_images (id, scope, content_hash, file_size, s3_key, state,
                put_deadline, lease_token, lease_until)
             SELECT unhex(printf('%032x', i)), '', zeroblob(32), 1, printf('%04x', (i * 37) % 65521), 'pending',
                '2026-01-01T00:00:00.000+00:00', zeroblob(16), '2026-01-01T00:00:00.000+00:00' FROM n",
        )
        .await;
    world.object(&stray_key(250), "abc");
    let (findings, summary) = world.verify(true, false).await;
    assert!(
        matches!(findings[..], [Finding::Stray { .. }]),
        "{findings:#?}"
    );
    assert_eq!(
        (summary.rows, summary.counts, summary.hashed),
        (2202, 2202, 1)
    );
}

/// An image that was taken out of the table, one that nobody counted, and an image at a row that is
/// going: each is one finding, and only what a count can say is set right.
#[tokio::test]
async fn counts_are_wrong_in_every_direction() {
    let world = World::new().await;
    for number in 1..=3 {
        world.stored(number, 2).await;
    }
    let id = |number: u8| format!("x'{number:032x}'");
    world
        .sql(&format!("DELETE FROM images WHERE id = (SELECT min(id) FROM images WHERE original_image_id = {})", id(1)))
        .await;
    world
        .sql(&format!(
            "INSERT INTO images (id, original_image_id, content_hash, file_size)
             SELECT x'{:032x}', original_image_id, content_hash, file_size FROM images
             WHERE original_image_id = {} LIMIT 1",
            77,
            id(2)
        ))
        .await;
    world
        .sql(&format!(
            "UPDATE original_images SET state = 'deleting', reference_count = 0 WHERE id = {}",
            id(3)
        ))
        .await;
    let (findings, summary) = world.verify(false, true).await;
    let wrong: Vec<_> = findings
        .iter()
        .map(|finding| match finding {
            Finding::WrongCount {
                state,
                reference_count,
                live_images,
                repaired,
                ..
            } => (*state, *reference_count, *live_images, *repaired),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        wrong,
        [
            (OriginalState::Stored, 2, 1, true),
            (OriginalState::Stored, 2, 3, true),
            (OriginalState::Deleting, 0, 2, false),
        ]
    );
    assert_eq!(summary.wrong_counts, 1);
    assert_eq!(world.verify(false, false).await.0.len(), 1);
}

#[tokio::test]
async fn reporting_changes_nothing_and_the_trickle_only_marks() {
    for (mending, marked) in [(Mending::ReportOnly, 0), (Mending::MarkDamaged, 3)] {
        let world = World::new().await;
        world.original(1, "stored", 1).await;
        let longer = world.stored(2, 1).await;
        world.object(&longer, "longer than it was");
        let other = world.stored(3, 1).await;
        world.object(&other, "xyz");
        world.stored(4, 1).await;
        world.object(&stray_key(5), "abc");
        world
            .sql(&format!(
                "UPDATE original_images SET reference_count = 9 WHERE id = x'{:032x}'",
                4
            ))
            .await;
        let verifier = world.verifier(mending, u64::MAX);
        let (findings, summary) = world.verify_with(&verifier, Some(Sample::ALL)).await;
        assert_eq!(findings.len(), 5, "{findings:#?}");
        assert_eq!(
            (summary.missing, summary.strays, summary.wrong_counts),
            (3, 1, 1)
        );
        assert_eq!(summary.repaired, marked);
        let rows = original_images::Entity::find()
            .all(&world.ledger.writer)
            .await;
        let rows = rows.expect("asked");
        let damaged = rows.iter().filter(|row| row.damaged_at.is_some()).count();
        assert_eq!(damaged as u64, marked);
        assert_eq!(rows[3].reference_count, 9);
        assert!(world.condemned().await.is_empty());
    }
}

#[tokio::test]
async fn a_store_that_lists_what_it_cannot_give_has_lost_it() {
    let world = World::new().await;
    let key = world.stored(1, 1).await;
    *world.shelf.hollow.lock().expect("a lock") = Some(key);
    assert_eq!(world.verify(false, false).await.0, []);
    let (findings, _) = world.verify(true, false).await;
    assert!(
        matches!(findings[..], [Finding::MissingObject { .. }]),
        "{findings:?}"
    );
}
