//! The tree of originals: what the local store does, as calls that block.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::{durable, layout};
use crate::spool::{SpooledBody, write_whole};
use crate::store::StoreErrorKind::{Damaged, NotFound, Refused, Unknown};
use crate::store::{StoreError, StoreErrorKind};

/// Below the root: originals, each in the file that [`layout`] names.
const ORIGINALS: &str = "originals";

/// Beside the originals: what is Hapax's own and no original.
const RESERVED: &str = ".hapax";

/// What the name of a probe's file begins with.
const PROBE: &str = "probe-";

/// A named temporary file older than this was left by a crash: no copy and no probe takes a day.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder with a tree of originals in it.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    originals: PathBuf,
    /// Which of the 256 `<hh>` directories are known to survive a crash, by their byte.
    durable_shards: [AtomicBool; 256],
}

/// Where one object lives.
struct Place {
    shard: PathBuf,
    shard_byte: u8,
    file: PathBuf,
}

/// `<root>/.hapax/spool`.
pub(super) fn spool_dir(root: &Path) -> PathBuf {
    root.join(RESERVED).join("spool")
}

/// An error of the operating system as the store reports it.
pub(super) fn failed(
    kind: StoreErrorKind,
    operation: &'static str,
    key: &str,
) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError::new(kind, operation, key, error)
}

impl Tree {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        let spool = spool_dir(&root);
        durable::create_directories(&spool)?;
        remove_abandoned(&spool, durable::TEMPORARY_PREFIX)?;
        remove_abandoned(&root.join(RESERVED), PROBE)?;
        let originals = root.join(ORIGINALS);
        durable::create_directories(&originals)?;
        layout::bring_up_to_date(&root, &originals)?;
        Ok(Self {
            root,
            originals,
            durable_shards: std::array::from_fn(|_| AtomicBool::new(false)),
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn originals(&self) -> &Path {
        &self.originals
    }

    /// Only keys of originals have a place: nothing that a row says reaches outside of the tree.
    fn place(&self, operation: &'static str, key: &str) -> Result<Place, StoreError> {
        let named = layout::name_of(key).and_then(|(shard, name)| {
            let shard_byte = u8::from_str_radix(shard, 16).ok()?;
            let shard = self.originals.join(shard);
            let file = shard.join(name);
            Some(Place {
                shard,
                shard_byte,
                file,
            })
        });
        named.ok_or_else(|| StoreError::new(Refused, operation, key, "not the key of an original"))
    }

    pub(super) fn file_of(&self, key: &str) -> Option<PathBuf> {
        self.place("file_of", key).ok().map(|place| place.file)
    }

    /// The file has its name before it is synced: so bytes, name and directory become durable by one
    /// commit of the file system's journal. What a crash cuts short has a `pending` row (rule R2), which
    /// nobody reads and the reaper deletes.
    pub(super) fn put(&self, key: &str, body: &SpooledBody) -> Result<(), StoreError> {
        let place = self.place("put", key)?;
        self.create_shard(&place)
            .map_err(failed(Refused, "put", key))?;
        // The outer error: it has no name. The inner one: it has, but its bytes are not durable.
        let entered = match body {
            SpooledBody::Memory { chunks, .. } => File::create_new(&place.file)
                .map(|file| write_whole(file, chunks).and_then(|file| file.sync_all())),
            SpooledBody::File { file, bytes, .. } => check_length(file, *bytes)
                .and_then(|()| durable::place(file, *bytes, &place.file, &spool_dir(&self.root)))
                .map(|()| file.sync_all()),
            SpooledBody::Original(recognised) => File::create_new(&place.file)
                .map(|file| recognised.write_to(file).and_then(|file| file.sync_all())),
        };
        let (kind, error) = match entered {
            Ok(Ok(())) => {
                return durable::sync_directory(&place.shard).map_err(failed(Unknown, "put", key));
            }
            // An object under the key is one that this put did not write. Keys are never reused
            // (rule R1), so that is a bug, and `Refused` would say that nothing is there.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (Unknown, error),
            Err(error) => (Refused, error),
            Ok(Err(error)) => match fs::remove_file(&place.file) {
                Ok(()) => (Refused, error),
                Err(_) => (Unknown, error),
            },
        };
        Err(StoreError::new(kind, "put", key, error))
    }

    fn create_shard(&self, place: &Place) -> io::Result<()> {
        let known = &self.durable_shards[usize::from(place.shard_byte)];
        if known.load(Ordering::Acquire) && place.shard.is_dir() {
            return Ok(());
        }
        durable::create_directory(&place.shard)?;
        durable::sync_directory(&self.originals)?;
        known.store(true, Ordering::Release);
        Ok(())
    }

    pub(super) fn open_object(
        &self,
        operation: &'static str,
        key: &str,
    ) -> Result<(File, u64), StoreError> {
        let place = self.place(operation, key)?;
        let opened = File::open(&place.file)
            .and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        match opened {
            Ok((file, metadata)) if metadata.is_file() => Ok((file, metadata.len())),
            Ok(_) => Err(StoreError::new(Damaged, operation, key, "not a file")),
            Err(error) => Err(self.read_error(operation, key, error)),
        }
    }

    /// An object is missing only where the tree itself is there: an unmounted disk holds no
    /// evidence (rule R12).
    fn read_error(&self, operation: &'static str, key: &str, error: io::Error) -> StoreError {
        let kind = match error.kind() {
            io::ErrorKind::NotFound if self.is_present() => NotFound,
            _ => Unknown,
        };
        StoreError::new(kind, operation, key, error)
    }

    /// Whether the folder is the one that was opened, and not the empty place of an unmounted disk.
    pub(super) fn is_present(&self) -> bool {
        self.root.join(RESERVED).is_dir() && self.originals.is_dir()
    }

    pub(super) fn delete(
        &self,
        keys: &[String],
    ) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        if !self.is_present() {
            let root = self.root.display().to_string();
            return Err(StoreError::new(
                Unknown,
                "delete",
                root,
                "the folder is not there",
            ));
        }
        let mut changed = BTreeSet::new();
        let removed: Vec<_> = keys
            .iter()
            .map(|key| {
                let place = self.place("delete", key)?;
                remove(&place.file).map_err(failed(Unknown, "delete", key))?;
                changed.insert(place.shard.clone());
                Ok(place)
            })
            .collect();
        // One fsync per directory, however many objects it lost. A missing object's is synced, too:
        // an earlier delete may have got no further than the removal.
        let changed: Vec<PathBuf> = changed.into_iter().collect();
        let unsynced = durable::sync_directories(&changed);
        let results = removed.into_iter().zip(keys).map(|(removed, key)| {
            if unsynced.contains(&removed?.shard) {
                return Err(StoreError::new(Unknown, "delete", key, "fsync failed"));
            }
            Ok(())
        });
        Ok(results.collect())
    }

    pub(super) fn read_store_id(&self) -> Result<Option<Uuid>, StoreError> {
        let path = self.store_id_path();
        let shown = path.display().to_string();
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map(Some).map_err(|error: uuid::Error| {
                StoreError::new(Damaged, "read_store_id", shown, error)
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.is_present() => Ok(None),
            Err(e) => Err(StoreError::new(Unknown, "read_store_id", shown, e)),
        }
    }

    pub(super) fn write_store_id(&self, store_id: Uuid) -> Result<(), StoreError> {
        use std::io::Write;
        let path = self.store_id_path();
        let shown = path.display().to_string();
        let mut file = durable::named_temporary(&spool_dir(&self.root)).map_err(failed(
            Refused,
            "write_store_id",
            &shown,
        ))?;
        writeln!(file, "{store_id}")
            .and_then(|()| file.as_file().sync_all())
            .map_err(failed(Refused, "write_store_id", &shown))?;
        file.persist(&path)
            .map_err(|refused| refused.error)
            .and_then(|_| durable::sync_directory(&self.root.join(RESERVED)))
            .map_err(failed(Unknown, "write_store_id", &shown))
    }

    fn store_id_path(&self) -> PathBuf {
        self.root.join(RESERVED).join("store-id")
    }

    /// Writes a file by the way of every put, reads it back and removes it.
    pub(super) fn probe(&self) -> io::Result<()> {
        use std::io::Write;
        let nonce = Uuid::new_v4();
        let spool = spool_dir(&self.root);
        let target = self.root.join(RESERVED).join(format!("{PROBE}{nonce}"));
        let mut file = tempfile::tempfile_in(&spool)?;
        file.write_all(nonce.as_bytes())?;
        file.sync_data()?;
        durable::place(&file, nonce.as_bytes().len() as u64, &target, &spool)?;
        let read = fs::read(&target);
        fs::remove_file(&target)?;
        durable::sync_directory(&self.root.join(RESERVED))?;
        if read? != nonce.as_bytes() {
            return Err(io::Error::other("the probe reads back differently"));
        }
        Ok(())
    }
}

/// A spooled file is as long as what was written into it, or something cut it.
fn check_length(file: &File, bytes: u64) -> io::Result<()> {
    let found = file.metadata()?.len();
    if found != bytes {
        let text = format!("the spooled file has {found} bytes, not {bytes}");
        return Err(io::Error::other(text));
    }
    Ok(())
}

/// Removes a file; one that is not there is fine.
fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn remove_abandoned(folder: &Path, prefix: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let ours = entry.file_name().to_string_lossy().starts_with(prefix);
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let old = modified.is_ok_and(|at| {
            SystemTime::now()
                .duration_since(at)
                .is_ok_and(|age| age > ABANDONED_AFTER)
        });
        if ours && old {
            match fs::remove_file(entry.path()) {
                // A command that started beside this one was first.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}
