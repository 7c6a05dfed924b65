//! What a verification says.

use entity::{ContentDigest, OriginalId};
use serde::Serialize;
use uuid::Uuid;

/// What to look at, and whether to mend it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Read every stored object and hash it.
    pub deep: bool,
    /// Recount, mark damaged, delete strays.
    pub repair: bool,
}

/// Something that is wrong, each seen twice: once in passing, once more on its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Finding {
    /// The database was made for another store, or one of the two has lost its id. Objects are not
    /// compared: every one would seem a stray.
    StoreMismatch {
        /// The id in the database.
        database: Option<Uuid>,
        /// The id in the store.
        store: Option<Uuid>,
    },
    /// A `stored` original whose object is not there.
    MissingObject {
        /// The original.
        original: OriginalKey,
        /// Marked, so that the next upload of the bytes heals it.
        repaired: bool,
    },
    /// A `stored` original whose object has another length.
    WrongSize {
        /// The original.
        original: OriginalKey,
        /// Length by the row.
        expected: i64,
        /// Length in the store.
        actual: u64,
        /// Marked, so that the next upload of the bytes heals it.
        repaired: bool,
    },
    /// A `stored` original whose object has other bytes.
    WrongBytes {
        /// The original.
        original: OriginalKey,
        /// SHA-256 of what is there.
        #[serde(serialize_with = "as_text")]
        actual: ContentDigest,
        /// Marked, so that the next upload of the bytes heals it.
        repaired: bool,
    },
    /// A `stored` original that an earlier read or scrub found missing or wrong, and that no later
    /// one has cleared.
    KnownDamage {
        /// The original.
        original: OriginalKey,
        /// `--deep` read the right bytes: the mark was taken back.
        repaired: bool,
    },
    /// An object that no row knows.
    Stray {
        /// Its key.
        key: String,
        /// Its length.
        size: u64,
        /// It was deleted.
        repaired: bool,
    },
    /// Too many strays in one page to believe that they are strays: none of them, and none after
    /// them, is deleted.
    TooManyStrays {
        /// Strays in the page.
        strays: usize,
        /// The most that a page may have.
        limit: usize,
    },
    /// A count that is not the number of images that point at the row.
    WrongCount {
        /// The original.
        #[serde(serialize_with = "as_text")]
        original_id: OriginalId,
        /// What the row said.
        reference_count: i64,
        /// Images that point at it.
        live_images: i64,
        /// Set to the number of images.
        repaired: bool,
    },
    /// The store did not let an object be looked at: not a verdict on the object (rule R12).
    Unreadable {
        /// Its key.
        key: String,
        /// What the store said.
        error: String,
    },
}

/// Names an original and its object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OriginalKey {
    /// The generation.
    #[serde(serialize_with = "as_text")]
    pub id: OriginalId,
    /// Where its object is or should be.
    pub key: String,
}

/// How far it is, and at the end what was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VerifySummary {
    /// Rows of originals compared with objects, in whatever state.
    pub rows: u64,
    /// Objects listed.
    pub objects: u64,
    /// Objects read and hashed.
    pub hashed: u64,
    /// Their bytes.
    pub hashed_bytes: u64,
    /// Rows whose count was compared with the images.
    pub counts: u64,
    /// Findings.
    pub problems: u64,
    /// Findings that were mended.
    pub repaired: u64,
}

impl Finding {
    /// Whether it is mended now.
    pub fn is_repaired(&self) -> bool {
        match self {
            Self::MissingObject { repaired, .. }
            | Self::WrongSize { repaired, .. }
            | Self::WrongBytes { repaired, .. }
            | Self::KnownDamage { repaired, .. }
            | Self::Stray { repaired, .. }
            | Self::WrongCount { repaired, .. } => *repaired,
            Self::StoreMismatch { .. } | Self::TooManyStrays { .. } | Self::Unreadable { .. } => {
                false
            }
        }
    }
}

/// Told of everything while it happens: nothing is kept, so that memory stays constant.
pub trait Observer {
    /// A problem.
    fn found(&mut self, finding: &Finding);
    /// A page or slice is done.
    fn progressed(&mut self, so_far: &VerifySummary);
}

fn as_text<S: serde::Serializer>(
    value: &impl std::fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
