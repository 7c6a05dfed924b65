//! What every store promises, asked of each of them by the same calls.

use std::sync::Arc;

use bytes::Bytes;
use entity::{ContentDigest, OriginalId};
use futures::{StreamExt, TryStreamExt};
use uuid::Uuid;

use super::testing::{S3Server, digest_of, file_body, memory_body};
use super::{BlobStore, LocalStore, MeteredStore, S3Store, StoreError, StoreErrorKind};
use crate::spool::SpooledBody;

fn new_key(store: &dyn BlobStore, digest: &ContentDigest) -> String {
    let generation = OriginalId(Uuid::new_v4());
    store.key_for(digest, generation).to_string()
}

async fn put(store: &dyn BlobStore, bytes: &[u8], body: &SpooledBody) -> String {
    let digest = digest_of(bytes);
    let key = new_key(store, &digest);
    store.put(&key, body, &digest).await.expect("put");
    key
}

async fn read(
    store: &dyn BlobStore,
    key: &str,
    range: Option<std::ops::Range<u64>>,
) -> Result<Vec<u8>, StoreError> {
    let chunks: Vec<Bytes> = store.get(key, range).await?.try_collect().await?;
    Ok(chunks.concat())
}

async fn listed(store: &dyn BlobStore) -> Vec<String> {
    let (mut keys, mut after) = (vec![], None);
    loop {
        let page = store.list(after.as_deref()).await.expect("listed");
        assert!(page.blobs.len() <= 1000);
        keys.extend(page.blobs.into_iter().map(|blob| blob.key));
        after = page.next;
        if after.is_none() {
            return keys;
        }
    }
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    match result {
        Ok(_) => panic!("an error"),
        Err(error) => error.kind,
    }
}

/// How much a store is given to do.
#[derive(Clone, Copy)]
struct Load {
    large_bytes: u32,
    objects: u32,
}

/// A body of many reads, and more objects than a page holds: once per store.
const FULL: Load = Load {
    large_bytes: 20 * 1024 * 1024 + 7,
    objects: 1203,
};

/// The same calls again, under another prefix.
const LIGHT: Load = Load {
    large_bytes: 1024 * 1024 + 7,
    objects: 30,
};

async fn conforms(store: Arc<dyn BlobStore>, load: Load) {
    let store = Arc::new(MeteredStore::new(store));
    let spool = tempfile::tempdir().expect("a directory");
    keeps_what_was_put(&*store, spool.path(), load.large_bytes).await;
    deletes_are_idempotent(&*store).await;
    lists_in_order(&*store, load.objects).await;
    keeps_its_id(&*store).await;
    probe_leaves_nothing(&*store).await;
    assert_eq!(listed(&*store).await, Vec::<String>::new());
}

async fn keeps_what_was_put(store: &dyn BlobStore, spool: &std::path::Path, large_bytes: u32) {
    let large: Vec<u8> = (0..large_bytes).map(|i| (i % 253) as u8).collect();
    let small = &large[..4567];
    for (bytes, body) in [
        (small, memory_body(small)),
        (&large[..], file_body(&large, spool)),
        (&small[..1], file_body(&small[..1], spool)),
    ] {
        let key = put(store, bytes, &body).await;
        let size = bytes.len() as u64;
        assert_eq!(store.stat(&key).await.expect("there"), size);
        assert!(read(store, &key, None).await.expect("read") == bytes);
        for range in [
            0..size,
            0..1,
            size - 1..size,
            size / 2..size,
            0..0,
            size..size,
        ] {
            let expected = &bytes[range.start as usize..range.end as usize];
            let found = read(store, &key, Some(range.clone())).await.expect("read");
            assert!(found == expected, "{range:?} of {size}");
        }
        for range in [0..size + 1, size..size + 1, size + 5..size + 9] {
            let past_the_end = read(store, &key, Some(range)).await;
            assert_eq!(kind(past_the_end), StoreErrorKind::Damaged);
        }
        store.delete(&[key]).await.expect("answered");
    }
}

async fn deletes_are_idempotent(store: &dyn BlobStore) {
    let key = put(store, b"to go", &memory_body(b"to go")).await;
    let never = new_key(store, &digest_of(b"never put"));
    for _ in 0..2 {
        let keys = [key.clone(), never.clone()];
        let results = store.delete(&keys).await.expect("answered");
        assert_eq!(results.len(), 2);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(kind(store.stat(&key).await), StoreErrorKind::NotFound);
        assert_eq!(kind(store.get(&key, None).await), StoreErrorKind::NotFound);
    }
    assert!(store.delete(&[]).await.expect("nothing to do").is_empty());
    let too_many = vec![key; 1001];
    assert_eq!(kind(store.delete(&too_many).await), StoreErrorKind::Refused);
}

async fn lists_in_order(store: &dyn BlobStore, objects: u32) {
    let store_ref = &store;
    let mut keys: Vec<String> = futures::stream::iter(0..objects)
        .map(|i| async move {
            // Every tenth content has several generations.
            let bytes = (i - i % 10 / 8).to_le_bytes();
            put(*store_ref, &bytes, &memory_body(&bytes)).await
        })
        .buffer_unordered(16)
        .collect()
        .await;
    keys.sort_unstable();
    assert_eq!(listed(store).await, keys);

    let page = store.list(None).await.expect("listed");
    assert_eq!(page.blobs.len(), keys.len().min(1000));
    let more = keys.len() > 1000;
    assert_eq!(page.next.as_ref(), more.then(|| &keys[999]));
    assert!(page.blobs.iter().all(|blob| blob.size == 4));
    for after in [5, keys.len() / 2, keys.len() - 1] {
        let page = store.list(Some(&keys[after])).await.expect("listed");
        let first = page.blobs.first().map(|blob| &blob.key);
        assert_eq!(first, keys.get(after + 1), "after {after}");
    }
    for batch in keys.chunks(1000) {
        let results = store.delete(batch).await.expect("answered");
        assert!(results.iter().all(Result::is_ok));
    }
    assert!(listed(store).await.is_empty());
}

async fn keeps_its_id(store: &dyn BlobStore) {
    assert_eq!(store.read_store_id().await.expect("none"), None);
    for id in [Uuid::new_v4(), Uuid::new_v4()] {
        store.write_store_id(id).await.expect("written");
        assert_eq!(store.read_store_id().await.expect("read"), Some(id));
    }
    let stale = store.abort_stale_multipart_uploads(std::time::Duration::ZERO);
    assert_eq!(stale.await.expect("none"), 0);
}

async fn probe_leaves_nothing(store: &dyn BlobStore) {
    let capabilities = store.probe().await.expect("probed");
    assert!(capabilities.verifies_checksum);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_store_conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = LocalStore::open(dir.path()).expect("opened");
    conforms(Arc::new(store), FULL).await;
    let left = std::fs::read_dir(dir.path().join(".hapax")).expect("readable");
    let mut left: Vec<_> = left
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["spool", "store-id"]);
    let spooled = std::fs::read_dir(LocalStore::spool_dir(dir.path()));
    assert_eq!(spooled.expect("readable").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms_under_every_prefix() {
    let server = S3Server::start().await;
    // The empty prefix last: the others' objects lie inside of its listing and are foreign to it.
    for (prefix, load) in [("hapax", FULL), ("a/nested/prefix", LIGHT), ("", LIGHT)] {
        let store = S3Store::open(&server.config(prefix)).await.expect("opened");
        conforms(Arc::new(store), load).await;
    }
    let left = server.objects();
    assert_eq!(
        left,
        [
            ".hapax/store-id",
            "a/nested/prefix/.hapax/store-id",
            "hapax/.hapax/store-id"
        ]
    );
}
