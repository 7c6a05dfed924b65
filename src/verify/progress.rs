//! Where a verification is. It is kept as JSON, so that an interrupted one goes on.

use entity::OriginalId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::report::VerifySummary;
use super::sample::Sample;

/// The stages in their order, each with the last key or id that it is done with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Cursor {
    /// The ordered listing beside the ordered rows.
    Objects {
        /// `None`: at the beginning.
        after: Option<String>,
    },
    /// Objects are read and hashed; only with a sample.
    Bytes {
        /// `None`: at the beginning.
        after: Option<String>,
    },
    /// Counts beside images.
    Counts {
        /// `None`: at the beginning.
        after: Option<Uuid>,
    },
    /// The usage counters, in one step.
    Usage,
    /// At the end.
    Done,
}

/// Everything that a verification has to know to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What it reads; `None`: nothing, only listings and rows are compared.
    pub deep: Option<Sample>,
    /// Where it is.
    pub cursor: Cursor,
    /// Too many strays came at once: none is handed over any more.
    pub strays_are_doubted: bool,
    /// What was looked at and found until here.
    pub summary: VerifySummary,
}

impl Progress {
    /// At the beginning.
    pub fn new(deep: Option<Sample>) -> Self {
        Self {
            deep,
            cursor: Cursor::Objects { after: None },
            strays_are_doubted: false,
            summary: VerifySummary::default(),
        }
    }

    /// Whether everything was looked at.
    pub fn is_complete(&self) -> bool {
        self.cursor == Cursor::Done
    }

    /// How often each row is looked at: beside its object, beside its images, and with its bytes.
    pub fn looks_per_row(&self) -> u64 {
        if self.deep.is_some() { 3 } else { 2 }
    }

    /// How much of the whole is done, 0 to 1, when there are `originals` rows.
    pub fn ratio(&self, originals: u64) -> f64 {
        match originals.saturating_mul(self.looks_per_row()) {
            0 => 0.0,
            looks => (self.summary.looks() as f64 / looks as f64).min(1.0),
        }
    }

    /// What was done since an earlier step, in the units of a rate: keys of rows or objects, whichever
    /// were more, second looks, and objects that were read.
    pub fn units_since(&self, earlier: &Self) -> u64 {
        let (now, before) = (&self.summary, &earlier.summary);
        let compared = (now.rows - before.rows).max(now.objects - before.objects);
        let read = (now.sampled_from - before.sampled_from).max(now.hashed - before.hashed);
        let again = now.second_looks - before.second_looks;
        compared + again + read + (now.counts - before.counts)
    }

    /// The stage after the objects, whether they were compared or could not be.
    pub(super) fn after_objects(&self) -> Cursor {
        match self.deep {
            Some(_) => Cursor::Bytes { after: None },
            None => Cursor::Counts { after: None },
        }
    }
}

impl Cursor {
    pub(super) fn counts_after(last: OriginalId) -> Self {
        Self::Counts {
            after: Some(last.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_back_as_it_was_kept() {
        for cursor in [
            Cursor::Objects { after: None },
            Cursor::Bytes {
                after: Some("aa/x\u{1f}/ö".to_owned()),
            },
            Cursor::counts_after(OriginalId(Uuid::from_u128(7))),
            Cursor::Usage,
            Cursor::Done,
        ] {
            for deep in [None, Some(Sample::ALL)] {
                let mut progress = Progress::new(deep);
                progress.cursor = cursor.clone();
                progress.summary.rows = 12;
                let kept = serde_json::to_value(&progress).expect("plain values");
                assert_eq!(serde_json::from_value(kept).ok(), Some(progress));
            }
        }
    }
}
