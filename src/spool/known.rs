//! Large originals that are recognised while their bytes come once more.
//!
//! After each step of a body its running SHA-256 shows whether an original has the same bytes up to there.
//! As long as one has, and its file is at hand, nothing needs to be written.
//!
//! **Invariants.** What a body is, its whole SHA-256 says, never this. Bytes that were not kept are
//! taken from the original's file only after they were hashed once more. The table is bounded, and
//! forgets: a process that starts knows nothing, and a file that changed is not known any more.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use entity::ContentDigest;
use lru::LruCache;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::blocks::{AlignedBuffer, Appender, BLOCK_BYTES};
use super::writer::digest_of;
use super::{Caching, SpoolFile};

/// From one mark to the next; whole blocks, and with what aligning them may take an allocation of 128 KiB.
pub(super) const STEP_BYTES: usize = 128 * 1024 - BLOCK_BYTES;
/// What all marks in the table may take: those of 62 GiB of originals.
const TABLE_BYTES: usize = 4 * 1024 * 1024;
/// What an entry takes besides its marks, more or less.
const ENTRY_BYTES: usize = 512;
/// What a request may have besides the bytes of its only file: a form's headers and metadata.
const FRAME_BYTES: u64 = 64 * 1024;

/// The running SHA-256 at the end of a step, cut short: where two differ the bytes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark(u64);

impl Mark {
    pub(super) fn of(hasher: &Sha256) -> Self {
        let digest = <[u8; 32]>::from(hasher.clone().finalize());
        Self(
            digest
                .iter()
                .take(8)
                .fold(0, |mark, byte| mark << 8 | u64::from(*byte)),
        )
    }
}

/// The originals that can be recognised. A cheap clone.
#[derive(Debug, Clone)]
pub struct KnownOriginals {
    table: Arc<Mutex<Table>>,
}

/// Scope, and the first mark.
type Key = (String, Mark);

#[derive(Debug)]
struct Table {
    entries: LruCache<Key, Arc<KnownOriginal>>,
    /// In bytes, for all entries; and what of it is free.
    capacity: usize,
    room: usize,
}

/// An original whose file was there, and had its bytes, when it was last uploaded.
#[derive(Debug)]
pub(super) struct KnownOriginal {
    path: PathBuf,
    file: FileIdentity,
    digest: ContentDigest,
    marks: Arc<[Mark]>,
    forgotten: AtomicBool,
}

/// Changes with every change of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    bytes: u64,
    changed_at: (i64, i64),
}

impl Default for KnownOriginals {
    fn default() -> Self {
        Self::with_capacity(TABLE_BYTES)
    }
}

impl KnownOriginals {
    fn with_capacity(capacity: usize) -> Self {
        let table = Table {
            entries: LruCache::unbounded(),
            capacity,
            room: capacity,
        };
        Self {
            table: Arc::new(Mutex::new(table)),
        }
    }

    /// Remembers an original: `marks` of its bytes, and the file that has them. In the background;
    /// nothing comes of it where the file is not what it should be.
    pub fn learn(&self, scope: &str, digest: ContentDigest, marks: &Arc<[Mark]>, path: PathBuf) {
        let Some(first) = marks.first() else { return };
        let key = (scope.to_owned(), *first);
        let (known, marks) = (self.clone(), Arc::clone(marks));
        spawn_blocking(move || {
            if let Ok(file) = path.symlink_metadata() {
                let file = FileIdentity::of(&file);
                let original = KnownOriginal {
                    path,
                    file,
                    digest,
                    marks,
                    forgotten: AtomicBool::new(false),
                };
                known.lock().insert(key, original);
            }
        });
    }

    /// The original whose bytes began like this, and its open file. `in_all` is what the whole request
    /// has: an original is recognised only where it would be all of it.
    pub(super) async fn recognise(
        &self,
        scope: &str,
        first: Mark,
        in_all: u64,
    ) -> Option<(Arc<KnownOriginal>, SpoolFile)> {
        let original = self.lock().find(&(scope.to_owned(), first))?;
        let bytes = original.bytes();
        if bytes > in_all || in_all - bytes > FRAME_BYTES {
            return None;
        }
        let opening = spawn_blocking(move || {
            let file = original.open()?;
            Some((original, file))
        });
        opening.await.ok().flatten()
    }

    /// How many there are, for tests.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().entries.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is consistent between any two statements: a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn find(&mut self, key: &Key) -> Option<Arc<KnownOriginal>> {
        let found = self.entries.get(key)?;
        if found.forgotten.load(Ordering::Relaxed) {
            self.remove(key);
            return None;
        }
        Some(Arc::clone(found))
    }

    fn insert(&mut self, key: Key, original: KnownOriginal) {
        self.remove(&key);
        let bytes = original.table_bytes();
        if bytes > self.capacity {
            return;
        }
        while bytes > self.room
            && let Some((_, oldest)) = self.entries.pop_lru()
        {
            self.room += oldest.table_bytes();
        }
        self.room -= bytes;
        self.entries.put(key, Arc::new(original));
    }

    fn remove(&mut self, key: &Key) {
        if let Some(removed) = self.entries.pop(key) {
            self.room += removed.table_bytes();
        }
    }
}

impl KnownOriginal {
    pub(super) fn bytes(&self) -> u64 {
        self.file.bytes
    }

    pub(super) fn digest(&self) -> ContentDigest {
        self.digest
    }

    /// The marks of its first steps.
    pub(super) fn first_marks(&self, steps: usize) -> Vec<Mark> {
        self.marks.iter().take(steps).copied().collect()
    }

    /// Whether the original had this mark after so many steps and one more.
    pub(super) fn agrees(&self, steps: usize, mark: Mark) -> bool {
        self.marks.get(steps) == Some(&mark)
    }

    pub(super) fn is(&self, bytes: u64, digest: ContentDigest) -> bool {
        self.bytes() == bytes && self.digest == digest
    }

    /// It is not recognised any more.
    fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
    }

    /// What was read of its file, and what it should have been.
    ///
    /// # Errors
    /// They differ: the file is broken, and is not relied on any more.
    pub(super) fn check(&self, read: &Sha256, expected: ContentDigest) -> io::Result<()> {
        if digest_of(read.clone()) == expected {
            return Ok(());
        }
        self.forget();
        let text = format!("{} has other bytes than its original", self.path.display());
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    fn open(&self) -> Option<SpoolFile> {
        let opened = File::open(&self.path)
            .and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        match opened {
            Ok((file, metadata)) if FileIdentity::of(&metadata) == self.file => {
                Some(SpoolFile::from(file))
            }
            _ => {
                self.forget();
                None
            }
        }
    }

    fn table_bytes(&self) -> usize {
        self.marks.len() * size_of::<Mark>() + ENTRY_BYTES
    }
}

impl FileIdentity {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
            changed_at: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// A body that was recognised to its end: the original's open file, which has its bytes even after the
/// original is deleted.
#[derive(Debug, Clone)]
pub struct RecognisedBody {
    pub(super) original: Arc<KnownOriginal>,
    pub(super) file: Arc<SpoolFile>,
}

impl RecognisedBody {
    /// Length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.original.bytes()
    }

    /// The file; read it by position.
    pub(crate) fn file(&self) -> &Arc<SpoolFile> {
        &self.file
    }

    /// Writes a whole file of its own with the body's bytes, which are hashed once more. Blocks.
    pub(crate) fn write_to(&self, file: File) -> io::Result<File> {
        let mut appender = Appender::new(file, Caching::Direct)?;
        let mut hasher = Sha256::new();
        copy_hashed(&self.file, 0..self.bytes(), &mut appender, &mut hasher)?;
        self.original.check(&hasher, self.original.digest)?;
        Ok(appender.finish()?.into_inner())
    }
}

/// Appends a part of `file`, and hashes it. Blocks.
pub(super) fn copy_hashed(
    file: &File,
    part: Range<u64>,
    to: &mut Appender,
    hasher: &mut Sha256,
) -> io::Result<()> {
    let mut buffer = AlignedBuffer::with_capacity(STEP_BYTES);
    let mut offset = part.start;
    while offset < part.end {
        let count = (part.end - offset).min(STEP_BYTES as u64);
        buffer.read_from(file, offset, count as usize)?;
        hasher.update(buffer.bytes());
        to.append(buffer.bytes())?;
        buffer.clear();
        offset += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original(folder: &tempfile::TempDir, name: u8, marks: usize) -> KnownOriginal {
        let path = folder.path().join(name.to_string());
        std::fs::write(&path, [name]).expect("written");
        KnownOriginal {
            file: FileIdentity::of(&path.metadata().expect("there")),
            path,
            digest: ContentDigest::from([name; 32]),
            marks: (0..marks as u64).map(Mark).collect(),
            forgotten: AtomicBool::new(false),
        }
    }

    fn key(name: u8) -> Key {
        ("scope".to_owned(), Mark(u64::from(name)))
    }

    #[test]
    fn the_table_is_bounded_and_the_longest_unused_goes_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let room = 3 * (ENTRY_BYTES + 80);
        let known = KnownOriginals::with_capacity(room);
        let mut table = known.lock();
        for name in [1, 2, 3] {
            table.insert(key(name), original(&folder, name, 10));
        }
        assert_eq!(table.room, 0);
        assert!(table.find(&key(1)).is_some());
        table.insert(key(4), original(&folder, 4, 10));
        assert!(table.find(&key(2)).is_none());
        assert!(table.find(&key(1)).is_some() && table.find(&key(3)).is_some());
        // The same once more, then what takes all room, then what takes more than all.
        table.insert(key(4), original(&folder, 4, 9));
        assert_eq!((table.room, table.entries.len()), (8, 3));
        table.insert(key(5), original(&folder, 5, (room - ENTRY_BYTES) / 8));
        assert_eq!(table.entries.len(), 1);
        table.insert(key(6), original(&folder, 6, room));
        assert!(table.find(&key(5)).is_some() && table.find(&key(6)).is_none());
    }

    #[test]
    fn what_is_forgotten_is_not_found_and_leaves_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let known = KnownOriginals::default();
        known.lock().insert(key(1), original(&folder, 1, 10));
        let found = known.lock().find(&key(1)).expect("known");
        assert!(found.open().is_some());
        std::fs::write(&found.path, "longer").expect("written");
        assert!(found.open().is_none());
        assert!(known.lock().find(&key(1)).is_none());
        assert_eq!(known.lock().room, TABLE_BYTES);
    }
}
