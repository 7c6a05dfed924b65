//! Listing the tree in the order of its keys, one directory in memory at a time.

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
    for shard in sorted_names(root, |name| is_lower_hex(name, 2))? {
        let below = format!("{shard}/");
        if all_before(&below, after) {
            continue;
        }
        for digest in sorted_names(&root.join(&shard), |name| is_lower_hex(name, 64))? {
            let below = format!("{below}{digest}/");
            if all_before(&below, after) {
                continue;
            }
            list_directory(root, &below, after, &mut page)?;
            if page.blobs.len() >= PAGE_OBJECTS {
                page.blobs.truncate(PAGE_OBJECTS);
                page.next = page.blobs.last().map(|last| last.key.clone());
                return Ok(page);
            }
        }
    }
    Ok(page)
}

/// The generations of one digest.
fn list_directory(root: &Path, below: &str, after: &str, page: &mut BlobPage) -> io::Result<()> {
    let is_original = |name: &str| {
        let key = format!("{below}{name}");
        key.as_str() > after && StorageKey::names_an_original("", &key)
    };
    for name in sorted_names(&root.join(below), is_original)? {
        let key = format!("{below}{name}");
        let metadata = match fs::symlink_metadata(root.join(&key)) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => continue,
            // Deleted since the directory was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        page.blobs.push(ListedBlob {
            key,
            size: metadata.len(),
            modified_at: DateTime::<Utc>::from(metadata.modified()?),
        });
    }
    Ok(())
}

/// The names that `wanted` takes, ascending. A directory that is gone is an empty one: the caller
/// makes sure of the root.
fn sorted_names(directory: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        // A file of somebody else's where a directory would be.
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(vec![]),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name: Result<String, OsString> = entry?.file_name().into_string();
        names.extend(name.ok().filter(|name| wanted(name)));
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether every key that begins with `below` is at or before `after`.
fn all_before(below: &str, after: &str) -> bool {
    below < after && !after.starts_with(below)
}

fn is_lower_hex(name: &str, length: usize) -> bool {
    name.len() == length && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
