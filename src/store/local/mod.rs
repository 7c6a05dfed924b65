//! The embedded store: a folder of originals, each in the file that its key names.
//!
//! ```text
//! <path>/originals/<hh>/<sha256>.<generation id>   originals
//! <path>/.hapax/store-id                           the store's id
//! <path>/.hapax/spool/                             bodies on their way in: files without a name
//! ```
//!
//! A large body is spooled into the same file system, so that storing it is giving it a name: its
//! bytes are written once. The file is synced after it got its name, then its directory: a journalling
//! file system makes all of that durable at once, and a `put` that returned survives a power cut. A
//! file may be cut short only while its row is `pending`, which nobody reads.
//!
//! Every call blocks on the disk and runs on the blocking pool; a caller that goes away cancels
//! nothing.

mod durable;
mod layout;
mod list;
mod tree;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use entity::{ContentDigest, OriginalId};
use futures::{FutureExt, StreamExt};
use uuid::Uuid;

use self::tree::{Tree, failed};
use super::StoreErrorKind::{Damaged, Refused, Unknown};
use super::body::FileChunks;
use super::{BlobPage, BlobStore, BlobStream, StorageKey, StoreCapabilities, StoreError};
use crate::spool::SpooledBody;

/// Originals in a folder. A cheap clone.
#[derive(Debug, Clone)]
pub struct LocalStore {
    tree: Arc<Tree>,
}

impl LocalStore {
    /// Opens the folder and makes it, durably, where it is missing. Blocks; meant for the start.
    ///
    /// # Errors
    /// It cannot be made or read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let tree =
            Tree::open(path).map_err(failed(Refused, "open", &path.display().to_string()))?;
        Ok(Self {
            tree: Arc::new(tree),
        })
    }

    /// Where bodies for a store at `path` are spooled: on the store's own file system, so that
    /// storing one is giving it a name.
    pub fn spool_dir(path: &Path) -> PathBuf {
        tree::spool_dir(path)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Tree) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let tree = Arc::clone(&self.tree);
        tokio::task::spawn_blocking(move || work(&tree))
            .map(|done| {
                // Panicked, or never begun as the process ends.
                done.unwrap_or_else(|lost| Err(StoreError::new(Unknown, operation, "", lost)))
            })
            .await
    }
}

#[async_trait]
impl BlobStore for LocalStore {
    /// The digest is not computed again: the file that gets its name is the one that was written
    /// while its bytes were hashed.
    async fn put(
        &self,
        key: &str,
        body: &SpooledBody,
        _digest: &ContentDigest,
    ) -> Result<(), StoreError> {
        let (key, body) = (key.to_owned(), body.clone());
        self.blocking("put", move |tree| tree.put(&key, &body))
            .await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<BlobStream, StoreError> {
        let key = key.to_owned();
        let opened = key.clone();
        let (file, size) = self
            .blocking("get", move |tree| tree.open_object("get", &opened))
            .await?;
        let range = range.unwrap_or(0..size);
        if range.end > size {
            let text = format!("it has {size} bytes, not {}", range.end);
            return Err(StoreError::new(Damaged, "get", key, text));
        }
        let chunks = FileChunks::new(Arc::new(file), range.start, range.end);
        let named = chunks.map(move |chunk| {
            chunk.map_err(|error| {
                let kind = match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => Damaged,
                    _ => Unknown,
                };
                StoreError::new(kind, "get", key.as_str(), error)
            })
        });
        Ok(named.boxed())
    }

    async fn stat(&self, key: &str) -> Result<u64, StoreError> {
        let key = key.to_owned();
        let opened = self.blocking("stat", move |tree| tree.open_object("stat", &key));
        opened.await.map(|(_, size)| size)
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        super::check_delete_keys(keys)?;
        let keys = keys.to_vec();
        self.blocking("delete", move |tree| tree.delete(&keys))
            .await
    }

    async fn list(&self, after: Option<&str>) -> Result<BlobPage, StoreError> {
        let after = after.map(ToOwned::to_owned);
        self.blocking("list", move |tree| {
            let shown = tree.root().display().to_string();
            let page = list::page(tree.originals(), after.as_deref());
            // An unmounted disk looks like an empty folder.
            if !tree.is_present() {
                return Err(StoreError::new(
                    Unknown,
                    "list",
                    shown,
                    "the folder is not there",
                ));
            }
            page.map_err(failed(Unknown, "list", &shown))
        })
        .await
    }

    async fn presign_get(
        &self,
        _key: &str,
        _valid_for: Duration,
        _content_type: &str,
        _content_disposition: &str,
    ) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    async fn read_store_id(&self) -> Result<Option<Uuid>, StoreError> {
        self.blocking("read_store_id", Tree::read_store_id).await
    }

    async fn write_store_id(&self, store_id: Uuid) -> Result<(), StoreError> {
        self.blocking("write_store_id", move |tree| tree.write_store_id(store_id))
            .await
    }

    /// There is no such thing in a folder.
    async fn abort_stale_multipart_uploads(&self, _: Duration) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn probe(&self) -> Result<StoreCapabilities, StoreError> {
        self.blocking("probe", |tree| {
            let shown = tree.root().display().to_string();
            tree.probe().map_err(failed(Refused, "probe", &shown))
        })
        .await?;
        Ok(StoreCapabilities {
            verifies_checksum: true,
        })
    }

    fn file_of(&self, key: &str) -> Option<PathBuf> {
        self.tree.file_of(key)
    }

    fn key_for(&self, digest: &ContentDigest, generation: OriginalId) -> StorageKey {
        StorageKey::original("", digest, generation)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::StoreErrorKind;
    use crate::store::testing::{self, digest_of};

    fn store() -> (tempfile::TempDir, LocalStore) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = LocalStore::open(&dir.path().join("objects")).expect("opened");
        (dir, store)
    }

    fn path_of(dir: &tempfile::TempDir, key: &str) -> PathBuf {
        let (shard, name) = layout::name_of(key).expect("an original's key");
        dir.path().join("objects/originals").join(shard).join(name)
    }

    fn key(store: &LocalStore, bytes: &[u8]) -> String {
        store
            .key_for(&digest_of(bytes), OriginalId(Uuid::new_v4()))
            .to_string()
    }

    async fn put(store: &LocalStore, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let body = testing::memory_body(bytes);
        store.put(key, &body, &digest_of(bytes)).await
    }

    #[tokio::test]
    async fn a_spooled_file_is_named_not_copied() {
        use std::os::unix::fs::MetadataExt;
        let (dir, store) = store();
        let root = dir.path().join("objects");
        let body = testing::file_body(b"large", &LocalStore::spool_dir(&root));
        let SpooledBody::File { file, .. } = &body else {
            panic!("a file body");
        };
        let key = key(&store, b"large");
        store
            .put(&key, &body, &digest_of(b"large"))
            .await
            .expect("put");
        let inode = fs::metadata(path_of(&dir, &key)).expect("there").ino();
        assert_eq!(inode, file.metadata().expect("open").ino());
    }

    #[tokio::test]
    async fn a_key_that_is_taken_is_never_overwritten() {
        let (dir, store) = store();
        let key = key(&store, b"one");
        put(&store, &key, b"one").await.expect("put");
        let error = put(&store, &key, b"two").await.expect_err("taken");
        assert_eq!(error.kind, StoreErrorKind::Unknown, "an object is there");
        assert_eq!(fs::read(path_of(&dir, &key)).expect("there"), b"one");
    }

    #[tokio::test]
    async fn keys_cannot_reach_out_of_the_folder() {
        let (dir, store) = store();
        fs::write(dir.path().join("secret"), b"x").expect("written");
        for key in [
            "../secret",
            "/etc/passwd",
            "ab/../../secret",
            ".hapax/store-id",
            "",
        ] {
            let error = store.stat(key).await.expect_err("refused");
            assert_eq!(error.kind, StoreErrorKind::Refused, "{key}");
            let deleted = store.delete(&[key.to_owned()]).await.expect("answered");
            assert!(deleted[0].is_err(), "{key}");
        }
        assert!(dir.path().join("secret").exists());
    }

    #[tokio::test]
    async fn a_delete_of_one_generation_leaves_the_other() {
        let (dir, store) = store();
        let digest = digest_of(b"twice");
        let keys = [(); 2].map(|()| key(&store, b"twice"));
        for key in &keys {
            let body = testing::memory_body(b"twice");
            store.put(key, &body, &digest).await.expect("put");
        }
        store.delete(&keys[..1]).await.expect("answered");
        assert!(!path_of(&dir, &keys[0]).exists());
        assert!(path_of(&dir, &keys[1]).exists());
        store.delete(&keys[1..]).await.expect("answered");
        assert!(!path_of(&dir, &keys[1]).exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn puts_and_deletes_of_one_digest_do_not_trip_over_each_other() {
        let (_dir, store) = store();
        let digest = digest_of(b"contended");
        let rounds = (0..8).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    let key = key(&store, b"contended");
                    let body = testing::memory_body(b"contended");
                    store.put(&key, &body, &digest).await.expect("put");
                    let deleted = store.delete(&[key]).await.expect("answered");
                    deleted
                        .into_iter()
                        .collect::<Result<(), _>>()
                        .expect("deleted");
                }
            })
        });
        for round in futures::future::join_all(rounds).await {
            round.expect("no panic");
        }
        assert!(store.list(None).await.expect("listed").blobs.is_empty());
    }

    #[tokio::test]
    async fn what_an_earlier_version_stored_is_read_listed_and_deleted() {
        let (dir, store) = store();
        let key = key(&store, b"stored long ago");
        let old = dir.path().join("objects").join(&key);
        fs::create_dir_all(old.parent().expect("a parent")).expect("made");
        fs::write(&old, b"stored long ago").expect("written");

        let store = LocalStore::open(&dir.path().join("objects")).expect("opened again");
        assert_eq!(store.stat(&key).await.expect("there"), 15);
        let page = store.list(None).await.expect("listed");
        assert_eq!(page.blobs[0].key, key);
        store.delete(&[key]).await.expect("answered");
        assert!(store.list(None).await.expect("listed").blobs.is_empty());
    }

    #[tokio::test]
    async fn a_short_object_is_damaged_and_an_unmounted_folder_is_not_missing_objects() {
        let (dir, store) = store();
        let root = dir.path().join("objects");
        let key = key(&store, b"whole");
        put(&store, &key, b"whole").await.expect("put");
        fs::write(path_of(&dir, &key), b"who").expect("cut");
        let short = store.get(&key, Some(0..5)).await.err().expect("short");
        assert_eq!(short.kind, StoreErrorKind::Damaged);

        fs::rename(&root, dir.path().join("elsewhere")).expect("unmounted");
        let gone = store.stat(&key).await.expect_err("unmounted");
        assert_eq!(gone.kind, StoreErrorKind::Unknown);
        assert!(store.delete(&[key]).await.is_err());
        assert!(store.list(None).await.is_err());
    }

    #[test]
    fn a_crash_in_the_middle_of_a_copy_or_a_probe_is_tidied_up_a_day_later() {
        let (dir, _store) = store();
        let root = dir.path().join("objects");
        let spool = LocalStore::spool_dir(&root);
        let probe = spool.with_file_name("probe-old");
        fs::write(&probe, b"left").expect("written");
        for name in ["put-old", "put-new", "somebody-elses"] {
            fs::write(spool.join(name), b"half").expect("written");
        }
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60);
        for path in [
            spool.join("put-old"),
            spool.join("somebody-elses"),
            probe.clone(),
        ] {
            let file = fs::File::options().write(true).open(path);
            file.expect("open").set_modified(long_ago).expect("set");
        }
        LocalStore::open(&root).expect("opened again");
        let there = |name: &str| spool.join(name).exists();
        assert!(!there("put-old") && !probe.exists());
        assert!(there("put-new") && there("somebody-elses"));
    }

    #[tokio::test]
    async fn a_body_that_is_not_what_it_says_is_refused_and_leaves_nothing() {
        let (dir, store) = store();
        let SpooledBody::File { file, .. } = testing::file_body(b"short", dir.path()) else {
            panic!("a file body");
        };
        let body = SpooledBody::File {
            file,
            bytes: 6,
            marks: Arc::new([]),
        };
        let key = key(&store, b"short!");
        let error = store.put(&key, &body, &digest_of(b"short!")).await;
        assert_eq!(error.expect_err("refused").kind, StoreErrorKind::Refused);
        assert!(!path_of(&dir, &key).exists());
    }
}
