//! The one place that spells object keys.

use std::fmt;

use entity::{ContentDigest, OriginalId};

/// What the name of a probe's object begins with.
const PROBE: &str = "probe-";

/// Where one generation of a content lives: `{prefix}/{hh}/{sha256 hex}/{generation id}`, without
/// the first part where there is no prefix. `hh` is the digest's first byte: it spreads a local tree
/// over 256 directories.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StorageKey(String);

/// Under the prefix, next to the digests' directories: objects of Hapax's own that are no originals.
const RESERVED: &str = ".hapax";

impl StorageKey {
    /// The key of one generation.
    pub fn original(prefix: &str, digest: &ContentDigest, generation: OriginalId) -> Self {
        let hex = digest.to_string();
        Self::under(prefix, &format!("{}/{hex}/{generation}", &hex[..2]))
    }

    /// The object that holds the store's id.
    pub fn store_id(prefix: &str) -> Self {
        Self::under(prefix, &format!("{RESERVED}/store-id"))
    }

    /// An object that the start-up probe writes and deletes.
    pub fn probe(prefix: &str, nonce: uuid::Uuid) -> Self {
        Self::under(prefix, &format!("{RESERVED}/{PROBE}{nonce}"))
    }

    /// What the keys of all probes begin with.
    pub fn probes(prefix: &str) -> Self {
        Self::under(prefix, &format!("{RESERVED}/{PROBE}"))
    }

    /// Whether `key` has the shape of an original's key. Everything else in the bucket is somebody
    /// else's and is never touched.
    pub fn names_an_original(prefix: &str, key: &str) -> bool {
        let rest = match prefix {
            "" => Some(key),
            prefix => key
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_prefix('/')),
        };
        let Some(parts) = rest.map(|rest| rest.split('/').collect::<Vec<_>>()) else {
            return false;
        };
        let [shard, digest, generation] = parts[..] else {
            return false;
        };
        digest.starts_with(shard)
            && shard.len() == 2
            && digest.parse::<ContentDigest>().is_ok()
            && is_hyphenated_uuid(generation)
    }

    /// The digest that an original's key names.
    pub fn digest_named_by(key: &str) -> Option<ContentDigest> {
        key.rsplit('/').nth(1)?.parse().ok()
    }

    /// The key as the store takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn under(prefix: &str, rest: &str) -> Self {
        match prefix {
            "" => Self(rest.to_owned()),
            prefix => Self(format!("{prefix}/{rest}")),
        }
    }
}

/// `Uuid::parse_str` also takes braces, URNs, capitals and no hyphens: spellings that no key of
/// Hapax has.
fn is_hyphenated_uuid(text: &str) -> bool {
    text.parse::<uuid::Uuid>().is_ok_and(|id| {
        let mut buffer = uuid::Uuid::encode_buffer();
        id.hyphenated().encode_lower(&mut buffer) == text
    })
}

impl fmt::Display for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_original_is_told_from_everything_else() {
        let digest = ContentDigest::from([0xab; 32]);
        let id = OriginalId(uuid::Uuid::from_u128(7));
        for prefix in ["", "hapax", "a/b"] {
            let key = StorageKey::original(prefix, &digest, id);
            assert!(StorageKey::names_an_original(prefix, key.as_str()), "{key}");
            assert!(!StorageKey::names_an_original("other", key.as_str()));
            assert_eq!(StorageKey::digest_named_by(key.as_str()), Some(digest));
            for foreign in [
                StorageKey::store_id(prefix).to_string(),
                StorageKey::probe(prefix, id.0).to_string(),
                format!("{key}/more"),
                format!("{prefix}/cd/{digest}/{id}"),
                key.as_str().replace('-', ""),
            ] {
                assert!(
                    !StorageKey::names_an_original(prefix, &foreign),
                    "{foreign}"
                );
            }
        }
        assert_eq!(StorageKey::digest_named_by("a/b/c"), None);
        assert_eq!(StorageKey::digest_named_by("c"), None);
    }
}
