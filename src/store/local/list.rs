//! Listing the tree in the order of its keys, in constant memory however large a directory is.

use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use chrono::{DateTime, Utc};

use crate::store::{BlobPage, ListedBlob, StorageKey};

/// Objects on one page: S3's own limit, so that both stores page alike.
const PAGE_OBJECTS: usize = 1000;

/// One page after `after`. Names of a level have one length, so the order of directories is the
/// byte order of keys.
pub(super) fn page(root: &Path, after: Option<&str>) -> io::Result<BlobPage> {
    let after = after.unwrap_or_default();
    let mut page = BlobPage::default();
    // There are at most 256 of them.
    for shard in first_names(root, |name| is_lower_hex(name, 2))? {
        let below = format!("{shard}/");
        if all_before(&below, after) {
            continue;
        }
        let first = after.strip_prefix(&below).unwrap_or_default();
        let first = first.split('/').next().unwrap_or_default();
        let mut listed = String::new();
        loop {
            let is_next =
                |name: &str| is_lower_hex(name, 64) && name >= first && name > listed.as_str();
            let digests = first_names(&root.join(&shard), is_next)?;
            for digest in &digests {
                list_directory(root, &format!("{below}{digest}/"), after, &mut page)?;
                if page.blobs.len() >= PAGE_OBJECTS {
                    page.blobs.truncate(PAGE_OBJECTS);
                    page.next = page.blobs.last().map(|last| last.key.clone());
                    return Ok(page);
                }
            }
            match digests.into_iter().nth(PAGE_OBJECTS - 1) {
                Some(last) => listed = last,
                None => break,
            }
        }
    }
    Ok(page)
}

/// The generations of one digest, as many as a page takes.
fn list_directory(root: &Path, below: &str, after: &str, page: &mut BlobPage) -> io::Result<()> {
    let mut listed = after.to_owned();
    loop {
        let is_next = |name: &str| {
            let key = format!("{below}{name}");
            key > listed && StorageKey::names_an_original("", &key)
        };
        let names = first_names(&root.join(below), is_next)?;
        for name in &names {
            page.blobs
                .extend(listed_blob(root, format!("{below}{name}"))?);
        }
        match names.get(PAGE_OBJECTS - 1) {
            Some(last) if page.blobs.len() < PAGE_OBJECTS => listed = format!("{below}{last}"),
            _ => return Ok(()),
        }
    }
}

/// `None` for what is no file, or was deleted since its directory was read.
fn listed_blob(root: &Path, key: String) -> io::Result<Option<ListedBlob>> {
    let metadata = match fs::symlink_metadata(root.join(&key)) {
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
        let Some(name) = name.ok().filter(|name| wanted(name)) else {
            continue;
        };
        if names.len() < PAGE_OBJECTS {
            names.push(name);
        } else if let Some(mut largest) = names.peek_mut().filter(|largest| name < **largest) {
            *largest = name;
        }
    }
    Ok(names.into_sorted_vec())
}

/// Whether every key that begins with `below` is at or before `after`.
fn all_before(below: &str, after: &str) -> bool {
    below < after && !after.starts_with(below)
}

fn is_lower_hex(name: &str, length: usize) -> bool {
    name.len() == length && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
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
            let path = folder.path().join(&key);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(&path, "x").expect("a file");
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
        // What is no object, in the way: an empty digest, and directories where files would be.
        let empty = folder.path().join(format!("0a/0a{:062x}", 1));
        fs::create_dir_all(empty).expect("a directory");
        let crowded = format!("fe/fe{:062x}", 3 * 7919);
        for generation in 5000..6100 {
            let name = uuid::Uuid::from_u128(generation).to_string();
            fs::create_dir(folder.path().join(&crowded).join(name)).expect("a directory");
        }
        let (keys, pages) = listed(folder.path());
        assert_eq!(keys.len(), expected.len());
        assert_eq!(keys, expected);
        assert_eq!(pages, 4);
    }
}
