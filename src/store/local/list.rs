//! Listing the tree in the order of its keys, in constant memory however large a directory is.

use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::layout;
use crate::store::{BlobPage, ListedBlob};

/// Objects on one page: S3's own limit, so that both stores page alike.
const PAGE_OBJECTS: usize = 1000;

/// One page after `after`. All parts of a key have one length, so the byte order of names is that of keys.
pub(super) fn page(originals: &Path, after: Option<&str>) -> io::Result<BlobPage> {
    let after = after.unwrap_or_default();
    let mut page = BlobPage::default();
    // There are at most 256 of them.
    for shard in first_names(originals, layout::is_shard)? {
        if shard.as_str() >= after.split('/').next().unwrap_or_default() {
            list_shard(originals, &shard, after, &mut page)?;
        }
        if page.blobs.len() >= PAGE_OBJECTS {
            page.blobs.truncate(PAGE_OBJECTS);
            page.next = page.blobs.last().map(|last| last.key.clone());
            break;
        }
    }
    Ok(page)
}

/// The objects of one directory, as many as a page takes.
fn list_shard(originals: &Path, shard: &str, after: &str, page: &mut BlobPage) -> io::Result<()> {
    let directory = originals.join(shard);
    let in_it = after
        .strip_prefix(shard)
        .and_then(|rest| rest.strip_prefix('/'));
    let mut listed = layout::in_names(in_it.unwrap_or_default());
    loop {
        let is_next = |name: &str| name > listed.as_str() && layout::key_of(shard, name).is_some();
        let names = first_names(&directory, is_next)?;
        for name in &names {
            let key = layout::key_of(shard, name).unwrap_or_default();
            page.blobs.extend(listed_blob(&directory.join(name), key)?);
        }
        match names.into_iter().nth(PAGE_OBJECTS - 1) {
            Some(last) if page.blobs.len() < PAGE_OBJECTS => listed = last,
            _ => return Ok(()),
        }
    }
}

/// `None` for what is no file, or was deleted since its directory was read.
fn listed_blob(path: &Path, key: String) -> io::Result<Option<ListedBlob>> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    Ok(Some(ListedBlob {
        key,
        size: metadata.len(),
        modified_at: DateTime::<Utc>::from(metadata.modified()?),
    }))
}

/// The first [`PAGE_OBJECTS`] names that `wanted` takes, ascending. A directory that is gone is an
/// empty one: the caller makes sure of the root.
fn first_names(directory: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        // A file of somebody else's where a directory would be.
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(vec![]),
        Err(e) => return Err(e),
    };
    // The largest on top: the first to go when there are too many.
    let mut names = BinaryHeap::new();
    for entry in entries {
        let name: Result<String, OsString> = entry?.file_name().into_string();
        let is_full = names.len() == PAGE_OBJECTS;
        let Some(name) = name.ok() else { continue };
        if is_full && names.peek().is_some_and(|largest| name > *largest) || !wanted(&name) {
            continue;
        }
        if is_full {
            names.pop();
        }
        names.push(name);
    }
    Ok(names.into_sorted_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key, page by page.
    fn listed(root: &Path) -> (Vec<String>, usize) {
        let (mut keys, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let next = page(root, after.as_deref()).expect("a page");
            keys.extend(next.blobs.into_iter().map(|blob| blob.key));
            pages += 1;
            after = next.next;
            if after.is_none() {
                return (keys, pages);
            }
        }
    }

    #[test]
    fn directories_larger_than_a_page_are_listed_whole_and_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut expected = Vec::new();
        let mut plant = |shard: u8, digest: u32, generation: u128| {
            let hex = format!("{shard:02x}{:062x}", u64::from(digest) * 7919 % 65_537);
            let generation = uuid::Uuid::from_u128(generation);
            let key = format!("{}/{hex}/{generation}", &hex[..2]);
            let (shard, name) = layout::name_of(&key).expect("an original's key");
            let directory = folder.path().join(shard);
            fs::create_dir_all(&directory).expect("a directory");
            fs::write(directory.join(name), "x").expect("a file");
            expected.push(key);
        };
        for digest in 0..2100 {
            plant(0x0a, digest, 1);
        }
        for generation in 0..1500 {
            plant(0xfe, 3, generation);
        }
        plant(0x00, 1, 9);
        plant(0xff, 1, 9);
        expected.sort_unstable();
        // What is no object, in the way: another's files, and directories where files would be.
        for name in ["0a/notes.txt", "0a/0a", "readme"] {
            fs::write(folder.path().join(name), "mine").expect("written");
        }
        for generation in 5000..6100 {
            let generation = uuid::Uuid::from_u128(generation);
            let name = format!("fe/fe{:062x}.{generation}", 3 * 7919);
            fs::create_dir(folder.path().join(name)).expect("a directory");
        }
        let (keys, pages) = listed(folder.path());
        assert_eq!(keys.len(), expected.len());
        assert_eq!(keys, expected);
        assert_eq!(pages, 4);
        // Between two keys, and before or after all of a directory.
        for (after, first) in [
            ("0a", "0a/"),
            ("0a/0", "0a/"),
            ("0a/z", "fe/"),
            ("f", "fe/"),
        ] {
            let next = page(folder.path(), Some(after)).expect("a page");
            assert!(next.blobs[0].key.starts_with(first), "{after}");
        }
    }
}
