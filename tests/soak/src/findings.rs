//! What was found wrong, by kind.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;

/// How many findings of a kind are told in full; the others are counted.
const TOLD: usize = 50;

/// What a finding means for whoever trusts the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Acknowledged and not deleted, and yet not there.
    Lost,
    /// Bytes, rows or files that nothing refers to and nobody removes.
    Leaked,
    /// A count that is not the number of images, or an effect that came twice or unasked.
    Miscounted,
    /// Anything else that must not be: a wrong answer, a server that ended by itself.
    Wrong,
}

/// All findings of one kind.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Found {
    pub(crate) count: u64,
    /// The first ones.
    pub(crate) told: Vec<String>,
}

/// Findings, from all tasks.
#[derive(Debug, Default)]
pub(crate) struct Findings(Mutex<BTreeMap<Kind, Found>>);

impl Findings {
    /// Adds one, and says it on standard error.
    pub(crate) fn add(&self, kind: Kind, text: impl Into<String>) {
        let text = text.into();
        let mut all = self.all();
        let found = all.entry(kind).or_default();
        found.count += 1;
        if found.told.len() < TOLD {
            eprintln!("soak: {kind:?}: {text}");
            found.told.push(text);
        }
    }

    /// Whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// Everything.
    pub(crate) fn told(&self) -> BTreeMap<Kind, Found> {
        self.all().clone()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Kind, Found>> {
        self.0.lock().expect("nothing panics while holding it")
    }
}
