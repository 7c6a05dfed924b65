//! What a verification says.

use entity::original_images::OriginalState;
use entity::{ContentDigest, OriginalId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::progress::Progress;
use crate::ledger::usage_check::UsageDifference;

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
        /// It has a `deleting` row now: the reaper deletes it.
        repaired: bool,
    },
    /// Too many strays in one page to believe that they are strays: none of them, and none after
    /// them, is handed to the reaper.
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
        /// Only a `stored` row can be set right; images that point at another need a person.
        #[serde(serialize_with = "as_word")]
        state: OriginalState,
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VerifySummary {
    /// Rows of originals compared with objects, in whatever state.
    pub rows: u64,
    /// Objects listed.
    pub objects: u64,
    /// Rows and objects that were asked for once more, one by one.
    pub second_looks: u64,
    /// Rows looked at for objects to read, in whatever state.
    pub sampled_from: u64,
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
    /// Stored originals whose object is missing or wrong, marked or not: only an upload heals them.
    pub missing: u64,
    /// Objects without a row that were left alone.
    pub strays: u64,
    /// Counts that were left wrong.
    pub wrong_counts: u64,
    /// Objects that the store did not let be looked at.
    pub unreadable: u64,
    /// Owners whose usage counters were left wrong; not among the problems.
    pub wrong_usage: u64,
}

impl VerifySummary {
    /// Rows looked at, each as often as it was.
    pub fn looks(&self) -> u64 {
        self.rows + self.sampled_from + self.counts
    }

    pub(super) fn note(&mut self, finding: &Finding) {
        self.problems += 1;
        self.repaired += u64::from(finding.is_repaired());
        match finding {
            Finding::MissingObject { .. }
            | Finding::WrongSize { .. }
            | Finding::WrongBytes { .. }
            | Finding::KnownDamage {
                repaired: false, ..
            } => self.missing += 1,
            Finding::Stray {
                repaired: false, ..
            } => self.strays += 1,
            Finding::WrongCount {
                repaired: false, ..
            } => self.wrong_counts += 1,
            Finding::Unreadable { .. } => self.unreadable += 1,
            Finding::KnownDamage { .. }
            | Finding::Stray { .. }
            | Finding::WrongCount { .. }
            | Finding::StoreMismatch { .. }
            | Finding::TooManyStrays { .. } => {}
        }
    }
}

impl Finding {
    /// One word, as in JSON.
    pub fn problem(&self) -> &'static str {
        match self {
            Self::StoreMismatch { .. } => "store_mismatch",
            Self::MissingObject { .. } => "missing_object",
            Self::WrongSize { .. } => "wrong_size",
            Self::WrongBytes { .. } => "wrong_bytes",
            Self::KnownDamage { .. } => "known_damage",
            Self::Stray { .. } => "stray",
            Self::TooManyStrays { .. } => "too_many_strays",
            Self::WrongCount { .. } => "wrong_count",
            Self::Unreadable { .. } => "unreadable",
        }
    }

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
    /// An owner's usage counters say something else than the tables; whether that was set right.
    fn usage_differs(&mut self, difference: &UsageDifference, repaired: bool);
    /// A page or slice is done, or an object read.
    fn progressed(&mut self, so_far: &Progress);
}

/// A state as the table spells it.
pub fn word_of(state: OriginalState) -> &'static str {
    match state {
        OriginalState::Pending => "pending",
        OriginalState::Stored => "stored",
        OriginalState::Deleting => "deleting",
    }
}

fn as_word<S: serde::Serializer>(state: &OriginalState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(word_of(*state))
}

fn as_text<S: serde::Serializer>(
    value: &impl std::fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
