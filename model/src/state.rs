//! One state of the world: the database, the bucket, what is on its way, and where each process is.

use std::fmt;

use crate::config::{MAX_CONTENTS, MAX_GENERATIONS, MAX_IMAGES, MAX_PROCESSES};

/// The state of a row of `original_images`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RowState {
    /// No such row, or removed.
    #[default]
    Absent,
    /// Announced; its bytes are being written.
    Pending,
    /// Committed.
    Stored,
    /// Condemned; terminal.
    Deleting,
}

/// A row of `original_images`; its place in the array is its id, a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    /// Where it is in its life.
    pub state: RowState,
    /// `reference_count`.
    pub count: i8,
    /// `s3_key`; the generation's own, until a heal exchanges it.
    pub key: u8,
    /// `damaged_at` is set.
    pub damaged: bool,
}

/// A row of `images`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Image {
    /// Never committed.
    #[default]
    Absent,
    /// Live, pointing at a row.
    Live(u8),
    /// Soft-deleted: it points nowhere.
    Deleted,
}

/// A committed snapshot of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Db {
    /// `original_images`, by generation.
    pub rows: [Row; MAX_GENERATIONS],
    /// `images`, by id.
    pub images: [Image; MAX_IMAGES],
}

impl Db {
    /// The live images that point at a row.
    pub fn images_at(&self, row: usize) -> Set {
        let live = Image::Live(row as u8);
        let images = (0..MAX_IMAGES).filter(|image| self.images[*image] == live);
        images.fold(Set::default(), Set::with)
    }

    /// How many they are.
    pub fn references(&self, row: usize) -> usize {
        self.images_at(row).0.count_ones() as usize
    }

    /// The rows in a state.
    pub fn in_state(&self, state: RowState) -> impl Iterator<Item = usize> + '_ {
        (0..MAX_GENERATIONS).filter(move |row| self.rows[*row].state == state)
    }

    /// The keys that rows name.
    pub fn keys(&self) -> Set {
        let rows = self.rows.iter().filter(|row| row.state != RowState::Absent);
        rows.fold(Set::default(), |keys, row| keys.with(row.key as usize))
    }
}

/// A set of small numbers.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(pub u8);

impl Set {
    /// Whether it holds `n`.
    pub fn has(self, n: usize) -> bool {
        self.0 & (1 << n) != 0
    }
    /// With `n`.
    #[must_use]
    pub fn with(self, n: usize) -> Self {
        Self(self.0 | 1 << n)
    }
    /// Without `n`.
    #[must_use]
    pub fn without(self, n: usize) -> Self {
        Self(self.0 & !(1 << n))
    }
    /// With all of `other`.
    #[must_use]
    pub fn with_all(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Without all of `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// Whether it holds nothing.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The smallest.
    pub fn first(self) -> Option<usize> {
        self.iter().next()
    }
    /// Ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |n| self.has(*n))
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What a process does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Next {
    /// Upload: steps 3 and 6, attach or commit. Deletion: its transaction.
    #[default]
    Transact,
    /// Upload: step 4, announce generations of the contents `todo`.
    Intent,
    /// Upload: step 5, PUT the contents `todo`.
    Put,
    /// Upload: give the generations of the contents `lost` up, then look again.
    Release,
    /// Upload: the same, then answer 503.
    GiveUp,
    /// Answered.
    Done,
    /// Crashed or failed.
    Stopped,
}

/// An upload or a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    /// Its next step.
    pub next: Next,
    /// Generations burnt per content.
    pub round: u8,
    /// Per content the round, from 1, under which it wrote a generation it still counts on.
    pub own: [u8; MAX_CONTENTS],
    /// Contents to announce or to write.
    pub todo: Set,
    /// Contents whose generation is to be given up.
    pub lost: Set,
    /// What a run without some rule keeps in memory between two steps; else 0.
    pub note: u8,
}

impl Process {
    /// The contents it has written.
    pub fn owned(&self) -> Set {
        let owned = (0..MAX_CONTENTS).filter(|content| self.own[*content] > 0);
        owned.fold(Set::default(), Set::with)
    }

    /// Whether it takes no more steps.
    pub fn is_over(&self) -> bool {
        matches!(self.next, Next::Done | Next::Stopped)
    }
}

/// Where the scrub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scrub {
    /// Between two runs.
    #[default]
    Idle,
    /// It has listed these keys (without R12: selected them from the rows).
    First(Set),
    /// These were listed and no row named them.
    Strays(Set),
}

/// Everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// The primary.
    pub db: Db,
    /// What a failover would leave: the primary before its last transaction, or as it is.
    pub replica: Db,
    /// Keys of objects in the bucket.
    pub objects: Set,
    /// Those among them whose bytes do not match their digest.
    pub spoiled: Set,
    /// Keys whose object the store lost or spoiled by itself.
    pub rotten: Set,
    /// PUTs that timed out and may land.
    pub puts: Set,
    /// DELETEs that timed out and may land.
    pub deletes: Set,
    /// Generations whose `put_deadline` has passed.
    pub expired: Set,
    /// Rows whose object a reaper, in its memory, knows to be gone for good.
    pub gone: Set,
    /// Without R4: rows that the reaper has seen at count 0.
    pub seen_zero: Set,
    /// Images whose upload was answered 201.
    pub acked: Set,
    /// Images that cannot be read through no fault of the protocol, until they are healed.
    pub excused: Set,
    /// Failovers left.
    pub failovers: u8,
    /// Self-made losses of the store left.
    pub damages: u8,
    /// The scrub.
    pub scrub: Scrub,
    /// Uploads, then deletions.
    pub processes: [Process; MAX_PROCESSES],
}

impl State {
    /// Ends a process; what it had in memory is forgotten.
    pub fn stop(&mut self, process: usize, next: Next) {
        self.processes[process] = Process {
            next,
            ..Process::default()
        };
    }

    /// Forgets what can no longer matter, so that states that differ in nothing else are one.
    pub fn normalise(&mut self, owned_by_nobody: impl Fn(usize) -> bool) {
        let keys = self.db.keys();
        self.spoiled = Set(self.spoiled.0 & self.objects.0);
        self.rotten = Set(self.rotten.0 & keys.0);
        for row in 0..MAX_GENERATIONS {
            let state = self.db.rows[row].state;
            if state == RowState::Absent && self.expired.has(row) && owned_by_nobody(row) {
                self.expired = self.expired.without(row);
            }
            if state != RowState::Deleting {
                self.gone = self.gone.without(row);
            }
            if state != RowState::Stored {
                self.seen_zero = self.seen_zero.without(row);
            }
        }
    }
}

/// Who takes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// An upload.
    Upload,
    /// A deletion.
    Delete,
    /// A reaper.
    Reaper,
    /// The scrub.
    Scrub,
    /// The object store.
    Store,
    /// The database's clock.
    Clock,
    /// The database.
    Database,
    /// A reader.
    Reader,
}

/// A step and where it leads.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Who takes it.
    pub who: Who,
    /// What is done.
    pub what: &'static str,
    /// The process, generation or key concerned.
    pub about: u8,
    /// Whether it brings the world towards rest by itself: a leak is what no such step removes.
    pub progress: bool,
    /// The state it leads to.
    pub next: State,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.who {
            Who::Upload => write!(f, "U{} {}", self.about + 1, self.what),
            Who::Delete => write!(f, "D{} {}", self.about + 1, self.what),
            Who::Store | Who::Scrub => {
                write!(f, "{:?}: {}, key {}", self.who, self.what, self.about + 1)
            }
            who => write!(f, "{who:?}: {}, row {}", self.what, self.about + 1),
        }
    }
}
