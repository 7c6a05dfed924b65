//! Store errors, classed by what the caller may conclude, not by vendor.

use std::error::Error as StdError;

use crate::seams::{Rule, enforced};

/// What a failed call says about the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The store answered that there is no such object.
    NotFound,
    /// The store answered that it did not take the request: the effect did not happen, and the same
    /// request would fail again (wrong digest, no permission, malformed).
    Refused,
    /// The store asked for patience (503 SlowDown, 429): later it may work. After a `put` this says
    /// no more than `Unknown`: a proxy may have answered for a request that went through, so the
    /// object may be there.
    Throttled,
    /// No clean answer (time-out, cut connection, 5xx): it may have taken effect, or still will.
    Unknown,
    /// The bytes that came are not the bytes that were stored: short, long or unreadable.
    Damaged,
}

impl StoreErrorKind {
    /// The metrics' `outcome` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
            Self::Unknown => "unknown",
            Self::Damaged => "damaged",
        }
    }
}

/// A failed call to the store.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {key}: {kind:?}: {source}")]
pub struct StoreError {
    /// What a caller may conclude.
    pub kind: StoreErrorKind,
    /// `put`, `get`, `stat`, `delete`, `list`, …
    pub operation: &'static str,
    /// The object, or the prefix of a listing.
    pub key: String,
    /// What the implementation reported.
    #[source]
    pub source: Box<dyn StdError + Send + Sync>,
}

impl StoreError {
    /// Builds an error from its parts; `source` may be a plain message.
    pub fn new(
        kind: StoreErrorKind,
        operation: &'static str,
        key: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            operation,
            key: key.into(),
            source: source.into(),
        }
    }

    /// Whether the store said that there is no such object.
    pub fn is_not_found(&self) -> bool {
        self.kind == StoreErrorKind::NotFound || !enforced(Rule::FailedReadIsNoAnswer)
    }
}
