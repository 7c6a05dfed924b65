use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use entity::ContentDigest;
use futures::StreamExt;
use sea_orm::ConnectionTrait;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::ledger::testing;
use crate::seams::Connection;
use crate::spool::SpooledBody;
use crate::store::{BlobPage, BlobStream, StorageKey, StoreCapabilities, StoreErrorKind};

/// What happens to the store between its listing and the first look at a row.
type AfterList = Box<dyn FnOnce(&mut BTreeMap<String, Bytes>) + Send>;

/// Objects in memory, in pages of two.
#[derive(Default)]
struct Shelf {
    objects: Mutex<BTreeMap<String, Bytes>>,
    unreadable: Mutex<Option<String>>,
    after_list: Mutex<Option<AfterList>>,
    /// A statement that somebody else commits just before an object is asked for.
    before_stat: Mutex<Option<(Connection, String)>>,
    page_size: usize,
    store_id: Mutex<Option<Uuid>>,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shelf")
    }
}

impl Shelf {
    fn look(&self, operation: &'static str, key: &str) -> Result<Bytes, StoreError> {
        let kind = match self.unreadable.lock().expect("a lock").as_deref() == Some(key) {
            true => StoreErrorKind::Unknown,
            false => StoreErrorKind::NotFound,
        };
        let found = self.objects.lock().expect("a lock").get(key).cloned();
        match (kind, found) {
            (StoreErrorKind::NotFound, Some(bytes)) => Ok(bytes),
            (kind, _) => Err(StoreError::new(kind, operation, key, "no answer")),
        }
    }
}

#[async_trait]
impl BlobStore for Shelf {
    async fn put(&self, _: &str, _: &SpooledBody, _: &ContentDigest) -> Result<(), StoreError> {
        unreachable!("a verification writes no object")
    }

    async fn get(&self, key: &str, _: Option<Range<u64>>) -> Result<BlobStream, StoreError> {
        let bytes = self.look("get", key)?;
        Ok(futures::stream::iter([Ok(bytes)]).boxed())
    }

    async fn stat(&self, key: &str) -> Result<u64, StoreError> {
        let change = self.before_stat.lock().expect("a lock").take();
        if let Some((database, sql)) = change {
            database.execute_unprepared(&sql).await.expect("a change");
        }
        Ok(self.look("stat", key)?.len() as u64)
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let mut objects = self.objects.lock().expect("a lock");
        Ok(keys
            .iter()
            .map(|key| {
                objects.remove(key);
                Ok(())
            })
            .collect())
    }

    async fn list(&self, after: Option<&str>) -> Result<BlobPage, StoreError> {
        let mut objects = self.objects.lock().expect("a lock");
        let later = objects
            .iter()
            .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        let blobs: Vec<_> = later
            .take(self.page_size)
            .map(|(key, bytes)| ListedBlob {
                key: key.clone(),
                size: bytes.len() as u64,
                modified_at: DateTime::UNIX_EPOCH,
            })
            .collect();
        let next = match blobs.len() == self.page_size {
            true => blobs.last().map(|blob| blob.key.clone()),
            false => None,
        };
        if let Some(change) = self.after_list.lock().expect("a lock").take() {
            change(&mut objects);
        }
        Ok(BlobPage { blobs, next })
    }

    async fn presign_get(
        &self,
        _: &str,
        _: Duration,
        _: &str,
        _: &str,
    ) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    async fn read_store_id(&self) -> Result<Option<Uuid>, StoreError> {
        Ok(*self.store_id.lock().expect("a lock"))
    }

    async fn write_store_id(&self, store_id: Uuid) -> Result<(), StoreError> {
        *self.store_id.lock().expect("a lock") = Some(store_id);
        Ok(())
    }

    async fn abort_stale_multipart_uploads(&self, _: Duration) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn probe(&self) -> Result<StoreCapabilities, StoreError> {
        unreachable!("a verification needs no probe")
    }

    fn key_for(&self, digest: &ContentDigest, generation: OriginalId) -> StorageKey {
        StorageKey::original("", digest, generation)
    }
}

/// A database and a store that belong together.
struct World {
    ledger: Ledger,
    shelf: Arc<Shelf>,
    _folder: TempDir,
}

#[derive(Default)]
struct Notes(Vec<Finding>);

impl Observer for Notes {
    fn found(&mut self, finding: &Finding) {
        self.0.push(finding.clone());
    }

    fn progressed(&mut self, _: &VerifySummary) {}
}

impl World {
    async fn new() -> Self {
        let (ledger, folder) = testing::ledger().await;
        let shelf = Arc::new(Shelf {
            page_size: 2,
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

    async fn verify(&self, deep: bool, repair: bool) -> (Vec<Finding>, VerifySummary) {
        let store: Arc<dyn BlobStore> = Arc::clone(&self.shelf) as _;
        let (mut notes, options) = (Notes::default(), VerifyOptions { deep, repair });
        let summary = verify(&self.ledger, &store, options, &mut notes)
            .await
            .expect("to come to its end");
        assert_eq!(summary.problems, notes.0.len() as u64);
        (notes.0, summary)
    }
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

    let (findings, _) = world.verify(true, true).await;
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
    world.object("aa/gone", "x");
    *world.shelf.after_list.lock().expect("a lock") = Some(Box::new(move |objects| {
        objects.remove("aa/gone");
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
async fn strays_are_deleted_only_when_asked_and_believable() {
    let world = World::new().await;
    world.stored(1, 1).await;
    world.object("zz/stray", "abc");
    let stray = |repaired| Finding::Stray {
        key: "zz/stray".to_owned(),
        size: 3,
        repaired,
    };
    assert_eq!(world.verify(false, false).await.0, [stray(false)]);
    assert_eq!(world.verify(false, true).await.0, [stray(true)]);
    assert_eq!(world.verify(false, true).await.0, []);
}

#[tokio::test]
async fn a_page_full_of_strays_stops_the_deletion() {
    let mut world = World::new().await;
    Arc::get_mut(&mut world.shelf)
        .expect("the only one")
        .page_size = 1000;
    for number in 0..=STRAYS_ALWAYS_ALLOWED {
        world.object(&format!("zz/{number}"), "abc");
    }
    let (findings, summary) = world.verify(false, true).await;
    assert!(matches!(
        findings[0],
        Finding::TooManyStrays {
            strays: 101,
            limit: 100
        }
    ));
    assert_eq!((summary.problems, summary.repaired), (102, 0));
    assert_eq!(world.shelf.objects.lock().expect("a lock").len(), 101);
}

#[tokio::test]
async fn another_databases_store_is_left_alone() {
    let world = World::new().await;
    world.object("zz/theirs", "abc");
    for foreign in [None, Some(Uuid::from_u128(43))] {
        *world.shelf.store_id.lock().expect("a lock") = foreign;
        let (findings, _) = world.verify(true, true).await;
        let database = Some(Uuid::from_u128(42));
        let store = foreign;
        assert_eq!(findings, [Finding::StoreMismatch { database, store }]);
    }
    // Neither has an id: objects are compared, but nothing is deleted.
    world.sql("DELETE FROM store_meta").await;
    *world.shelf.store_id.lock().expect("a lock") = None;
    let (findings, summary) = world.verify(false, true).await;
    assert!(matches!(
        findings[..],
        [Finding::Stray {
            repaired: false,
            ..
        }]
    ));
    assert_eq!(summary.repaired, 0);
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
    let mut world = World::new().await;
    Arc::get_mut(&mut world.shelf)
        .expect("the only one")
        .page_size = 1000;
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
    world.object("zz/stray", "abc");
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
