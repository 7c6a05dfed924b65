//! File operations that are durable when they return. All of them block.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, linkat};
use rustix::io::Errno;
use tempfile::{Builder, NamedTempFile};

use crate::store::body::{CHUNK_BYTES, read_chunk};

/// Named temporary files begin with it. They exist only where an unlinked file cannot be given a
/// name, and for the moment of a copy.
pub(super) const TEMPORARY_PREFIX: &str = "put-";

/// Directories synced at once after a delete of many objects.
const SYNC_THREADS: usize = 16;

/// Makes a directory's entries durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the entries of many directories durable; those that could not be synced, except where they
/// are gone. Several at once: a disk makes flushes that wait at the same moment one, and alone each
/// may take ten milliseconds.
pub(super) fn sync_directories(paths: &[PathBuf]) -> Vec<PathBuf> {
    let share = paths.len().div_ceil(SYNC_THREADS).max(1);
    std::thread::scope(|scope| {
        let syncing: Vec<_> = paths
            .chunks(share)
            .map(|paths| {
                scope.spawn(move || -> Vec<PathBuf> {
                    paths
                        .iter()
                        .filter(|path| is_unsynced(path))
                        .cloned()
                        .collect()
                })
            })
            .collect();
        let unsynced = syncing.into_iter().zip(paths.chunks(share));
        unsynced
            .flat_map(|(thread, paths)| match thread.join() {
                Ok(unsynced) => unsynced,
                // Panicked: nothing is known of its share.
                Err(_) => paths.to_vec(),
            })
            .collect()
    })
}

fn is_unsynced(path: &Path) -> bool {
    sync_directory(path).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
}

/// `mkdir -p`, with every entry that it made durable.
pub(super) fn create_directories(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().ok_or(e)?;
            create_directories(parent)?;
            create_directory(path)?;
        }
        Err(e) => return Err(e),
    }
    path.parent().map_or(Ok(()), sync_directory)
}

/// `mkdir`; one that is there already is fine. Not durable yet.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn copy(source: &File, bytes: u64, target: &mut File) -> io::Result<()> {
    use std::io::Write;
    let mut offset = 0;
    while offset < bytes {
        let chunk = read_chunk(source, offset, (bytes - offset).min(CHUNK_BYTES))?;
        target.write_all(&chunk)?;
        offset += chunk.len() as u64;
    }
    Ok(())
}

/// Gives a file without a name its name `target`. Nothing is ever overwritten. The entry is not durable
/// yet.
///
/// Where the kernel or the file system cannot name an unlinked file (no `/proc`, another file
/// system, `O_TMPFILE` emulated), its bytes are copied to a named file in `spool` and that is moved.
pub(super) fn place(file: &File, bytes: u64, target: &Path, spool: &Path) -> io::Result<()> {
    match name_unlinked(file, target) {
        Err(e) if cannot_be_named(e) => named_copy(file, bytes, spool)?
            .persist_noclobber(target)
            .map(drop)
            .map_err(|refused| refused.error),
        named => named.map_err(io::Error::from),
    }
}

/// `open(2)`, `O_TMPFILE`: the way to name an unlinked file without being root.
fn name_unlinked(file: &File, target: &Path) -> Result<(), Errno> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, source, CWD, target, AtFlags::SYMLINK_FOLLOW)
}

fn cannot_be_named(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOENT
            | Errno::XDEV
            | Errno::OPNOTSUPP
            | Errno::PERM
            | Errno::ACCESS
            | Errno::NOSYS
            | Errno::LOOP
            | Errno::INVAL
    )
}

/// A durable copy under a temporary name in `spool`, removed when dropped.
fn named_copy(file: &File, bytes: u64, spool: &Path) -> io::Result<NamedTempFile> {
    let mut named = named_temporary(spool)?;
    copy(file, bytes, named.as_file_mut())?;
    named.as_file().sync_data()?;
    Ok(named)
}

/// An empty file under a temporary name in `spool`, removed when dropped.
pub(super) fn named_temporary(spool: &Path) -> io::Result<NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    // As `O_TMPFILE` makes them: what the umask leaves.
    let permissions = fs::Permissions::from_mode(0o666);
    Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .permissions(permissions)
        .tempfile_in(spool)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn unlinked(spool: &Path, bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile_in(spool).expect("a temporary file");
        file.write_all(bytes).expect("written");
        file
    }

    #[test]
    fn a_file_is_placed_and_never_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("file");
        place(&unlinked(dir.path(), b"one"), 3, &target, dir.path()).expect("placed");
        let again = place(&unlinked(dir.path(), b"two"), 3, &target, dir.path());
        assert_eq!(
            again.expect_err("taken").kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(&target).expect("readable"), b"one");
    }

    #[test]
    fn a_file_that_cannot_be_named_is_copied() {
        let dir = tempfile::tempdir().expect("a directory");
        // A file that once had a name and lost it cannot be linked again: ENOENT.
        let lost = dir.path().join("lost");
        fs::write(&lost, b"bytes").expect("written");
        let file = File::open(&lost).expect("open");
        fs::remove_file(&lost).expect("removed");

        let target = dir.path().join("file");
        place(&file, 5, &target, dir.path()).expect("placed");
        assert_eq!(fs::read(&target).expect("readable"), b"bytes");
        let again = place(&file, 5, &target, dir.path());
        assert_eq!(
            again.expect_err("taken").kind(),
            io::ErrorKind::AlreadyExists
        );
        let left = fs::read_dir(dir.path()).expect("readable").count();
        assert_eq!(left, 1, "no temporary file is left");
    }

    #[test]
    fn directories_are_made_to_any_depth_and_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("a/b/c");
        create_directories(&deep).expect("made");
        create_directories(&deep).expect("there");
        assert!(deep.is_dir());
    }
}
