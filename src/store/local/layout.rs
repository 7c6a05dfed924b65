//! Which file an object's key names, and how older trees become one of these.
//!
//! A key has the digest as a directory, which costs an object store nothing. In a file system it would be
//! a second inode, a block and a sync for each original, so the file is named by digest and generation.

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

use super::durable;
use crate::store::StorageKey;

/// Between digest and generation, where the key has a slash.
const SEPARATOR: &str = ".";

/// Directory and file name of an original's key, as they are below the originals' folder.
pub(super) fn name_of(key: &str) -> Option<(&str, String)> {
    if !StorageKey::names_an_original("", key) {
        return None;
    }
    let (shard, rest) = key.split_once('/')?;
    Some((shard, in_names(rest)))
}

/// What follows the shard in a key, or a part of it, as it is in names; sorts among them as among keys.
pub(super) fn in_names(rest_of_key: &str) -> String {
    rest_of_key.replacen('/', SEPARATOR, 1)
}

/// The key whose object has that name; `None` for everything that is no original.
pub(super) fn key_of(shard: &str, name: &str) -> Option<String> {
    let (digest, generation) = name.split_once(SEPARATOR)?;
    let key = format!("{shard}/{digest}/{generation}");
    StorageKey::names_an_original("", &key).then_some(key)
}

/// Whether originals' digests can begin with it: the name of one of 256 directories.
pub(super) fn is_shard(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Moves what an earlier version stored, `<root>/<hh>/<sha256>/<generation id>`, to where it belongs now.
///
/// Nothing says that it was done but the absence of such directories: a crash in the middle, and an old
/// backup that comes back, are picked up by the next start. What is no object stays where it is.
pub(super) fn bring_up_to_date(root: &Path, originals: &Path) -> io::Result<()> {
    for shard in directories(root)? {
        if let Some(name) = shard.file_name().to_str().filter(|name| is_shard(name)) {
            move_shard(name, &shard.path(), &originals.join(name))?;
            durable::sync_directory(originals)?;
            durable::sync_directory(root)?;
        }
    }
    Ok(())
}

fn move_shard(name: &str, from: &Path, to: &Path) -> io::Result<()> {
    durable::create_directory(to)?;
    for digest in directories(from)? {
        for generation in entries(&digest.path())? {
            let digest = digest.file_name();
            let generation_name = generation.file_name();
            let key = [OsStr::new(name), &digest, &generation_name].map(OsStr::to_string_lossy);
            if let Some((_, name)) = name_of(&key.join("/"))
                && generation.file_type()?.is_file()
            {
                move_file(&generation.path(), &to.join(name))?;
            }
        }
        remove_if_empty(&digest.path())?;
    }
    // The new names first: what a power cut leaves has at least one.
    durable::sync_directory(to)?;
    remove_if_empty(from)
}

fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    unless_gone(fs::rename(from, to))?;
    // Two names of one file, which a power cut may leave, are left as they are by a rename.
    unless_gone(fs::remove_file(from))
}

/// What is below `path` and a directory itself.
fn directories(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut found = entries(path)?;
    let mut unknown = Ok(());
    found.retain(|entry| match entry.file_type() {
        Ok(kind) => kind.is_dir(),
        Err(error) => {
            unknown = Err(error);
            false
        }
    });
    unknown.map(|()| found)
}

fn entries(path: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        entries => entries?.collect(),
    }
}

fn remove_if_empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => unless_gone(removed),
    }
}

/// A command that started beside this one may have been first.
fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const DIGEST: &str = "ab00000000000000000000000000000000000000000000000000000000000000";
    const GENERATIONS: [&str; 2] = [
        "00000000-0000-0000-0000-000000000001",
        "00000000-0000-0000-0000-000000000002",
    ];

    /// A root with an object of the earlier layout, and where the originals are now.
    fn earlier() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("objects");
        let old = root.join("ab").join(DIGEST);
        fs::create_dir_all(&old).expect("made");
        fs::create_dir(root.join("originals")).expect("made");
        for generation in GENERATIONS {
            fs::write(old.join(generation), generation).expect("written");
        }
        (folder, root.clone(), root.join("originals"))
    }

    fn new_name(generation: &str) -> String {
        format!("ab/{DIGEST}.{generation}")
    }

    fn read(originals: &Path, generation: &str) -> String {
        fs::read_to_string(originals.join(new_name(generation))).expect("it is there")
    }

    #[test]
    fn keys_and_names_belong_to_each_other() {
        let key = format!("ab/{DIGEST}/{}", GENERATIONS[0]);
        let (shard, name) = name_of(&key).expect("an original");
        assert_eq!(key_of(shard, &name), Some(key));
        assert_eq!(key_of("cd", &name), None);
        for foreign in [&name[1..], &name[..64], DIGEST, "", ".", "notes.txt"] {
            assert_eq!(key_of("ab", foreign), None, "{foreign}");
        }
    }

    #[test]
    fn what_an_earlier_version_stored_is_moved_and_nothing_else() {
        let (_folder, root, originals) = earlier();
        let foreign = [
            root.join("ab").join(DIGEST).join("notes.txt"),
            root.join("ab/readme"),
            root.join("AB/file"),
            root.join("photos/ab/file"),
        ];
        for path in &foreign {
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, "mine").expect("written");
        }
        for _ in 0..2 {
            bring_up_to_date(&root, &originals).expect("moved");
            for generation in GENERATIONS {
                assert_eq!(read(&originals, generation), generation);
                assert!(!root.join("ab").join(DIGEST).join(generation).exists());
            }
            assert!(foreign.iter().all(|path| path.is_file()));
        }
        let made: Vec<_> = entries(&originals).expect("readable");
        assert_eq!(made.len(), 1, "{made:?}");
    }

    #[test]
    fn a_tree_that_was_moved_leaves_no_directories() {
        let (_folder, root, originals) = earlier();
        bring_up_to_date(&root, &originals).expect("moved");
        assert!(!root.join("ab").exists());
    }

    #[test]
    fn a_move_that_was_cut_short_is_ended() {
        let (_folder, root, originals) = earlier();
        let old = |generation| root.join("ab").join(DIGEST).join(generation);
        let new = |generation| originals.join(new_name(generation));
        fs::create_dir(originals.join("ab")).expect("made");
        fs::rename(old(GENERATIONS[0]), new(GENERATIONS[0])).expect("moved");
        fs::hard_link(old(GENERATIONS[1]), new(GENERATIONS[1])).expect("two names");
        bring_up_to_date(&root, &originals).expect("moved");
        for generation in GENERATIONS {
            assert_eq!(read(&originals, generation), generation);
        }
        assert!(!root.join("ab").exists());
    }
}
