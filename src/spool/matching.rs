//! A body that so far is an original.

use std::io;
use std::sync::Arc;

use entity::ContentDigest;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, spawn_blocking, yield_now};

use super::blocks::Appender;
use super::gather::Gather;
use super::known::{KnownOriginal, Mark, RecognisedBody, STEP_BYTES, copy_hashed};
use super::writer::digest_of;
use super::{Spool, SpoolFile};

/// What is copied at a stretch where a body turns out to be another: about 10 ms.
const COPY_BYTES: u64 = 64 * STEP_BYTES as u64;
/// What is compared at a stretch by a thread of the blocking pool: about 0.6 ms.
const AHEAD_BYTES: usize = 8 * STEP_BYTES;

/// The steps that agreed are the original's first bytes, and are not kept; what came after them is.
///
/// A body is hashed where it is read, step by step. While few are on their way, a thread of the blocking
/// pool does that for one of them, eight steps at a stretch, so that its next bytes are read meanwhile:
/// nothing else would keep a second core busy.
#[derive(Debug)]
pub(super) struct Matching {
    file: Arc<SpoolFile>,
    matched: Whereabouts,
    /// What came last.
    gather: Gather,
    pace: Pace,
    /// What came before the gather, and is not the original's.
    foreign: Option<Gather>,
}

/// Steps that agreed.
#[derive(Debug, Clone)]
struct Matched {
    original: Arc<KnownOriginal>,
    steps: usize,
    /// The body's running hash after them.
    hasher: Sha256,
}

/// Who has them: exactly one place at any time.
#[derive(Debug)]
enum Whereabouts {
    Here(Matched),
    /// With the gather that is compared, and whether it agreed.
    Away(JoinHandle<(Matched, Gather, bool)>),
}

/// Who hashes what comes.
#[derive(Debug)]
enum Pace {
    /// The thread that reads it: the running hash of all of it.
    Step(Sha256),
    /// Another one.
    Ahead {
        /// The gather that is not filled; `None` while it is compared.
        spare: Option<Gather>,
        _permit: OwnedSemaphorePermit,
    },
}

/// What is left of a body that turned out to be another.
#[derive(Debug)]
pub(super) struct Parted {
    /// A file with the steps that agreed.
    pub(super) file: Appender,
    /// The body's running hash after them.
    pub(super) hasher: Sha256,
    /// Their marks.
    pub(super) marks: Vec<Mark>,
    /// Whole steps that came next, of which nothing is known.
    pub(super) next: Option<Gather>,
    /// And what came last.
    pub(super) last: Gather,
}

impl Matching {
    /// Of a body whose first step agreed, with that step's hash; `None` where there is no memory for the
    /// next one.
    pub(super) fn begin(
        spool: &Spool,
        original: Arc<KnownOriginal>,
        file: SpoolFile,
        hasher: &Sha256,
    ) -> Option<Self> {
        Some(Self {
            file: Arc::new(file),
            matched: Whereabouts::Here(Matched {
                original,
                steps: 1,
                hasher: hasher.clone(),
            }),
            gather: Gather::in_memory(&spool.shared.budget, STEP_BYTES)?,
            pace: Pace::Step(hasher.clone()),
            foreign: None,
        })
    }

    /// Takes bytes up to the end of the step at the most. Whether all may still be the original's.
    pub(super) async fn take(&mut self, spool: &Spool, bytes: &[u8]) -> io::Result<bool> {
        if let Pace::Step(hasher) = &mut self.pace {
            hasher.update(bytes);
            let ends = self.gather.bytes().len() + bytes.len() == STEP_BYTES;
            if ends && self.matched.here()?.agrees(hasher) {
                self.gather.truncate(0);
                self.go_ahead(spool);
                return Ok(true);
            }
            self.fill(bytes)?;
            return Ok(!ends);
        }
        self.fill(bytes)?;
        if self.gather.is_full() {
            return self.compare_elsewhere().await;
        }
        Ok(true)
    }

    /// Whether it holds more than the step that every body may.
    pub(super) fn is_ahead(&self) -> bool {
        matches!(self.pace, Pace::Ahead { .. })
    }

    /// The client is silent: gives back what it holds beyond one step. Whether all may still be the
    /// original's, and there was memory for that step.
    pub(super) async fn fall_back(&mut self, spool: &Spool) -> io::Result<bool> {
        if !self.is_ahead() {
            return Ok(true);
        }
        let Some(mut last) = Gather::in_memory(&spool.shared.budget, STEP_BYTES) else {
            return Ok(false);
        };
        if !self.settle().await? {
            return Ok(false);
        }
        let bytes = self.gather.bytes();
        let whole = bytes.len() - bytes.len() % STEP_BYTES;
        last.fill(&bytes[whole..]);
        self.gather.truncate(whole);
        self.compare_elsewhere().await?;
        self.gather = last;
        let agrees = self.settle().await?;
        let mut hasher = self.matched.here()?.hasher.clone();
        hasher.update(self.gather.bytes());
        self.pace = Pace::Step(hasher);
        Ok(agrees)
    }

    /// Whether the body, of so many bytes, is the original.
    pub(super) async fn is_whole(&mut self, bytes: u64) -> io::Result<bool> {
        if !self.settle().await? {
            return Ok(false);
        }
        let matched = self.matched.here()?.clone();
        if matched.original.bytes() != bytes {
            return Ok(false);
        }
        let hasher = match &self.pace {
            Pace::Step(hasher) => hasher.clone(),
            Pace::Ahead { .. } => {
                let mut hasher = matched.hasher;
                for step in self.gather.bytes().chunks(STEP_BYTES) {
                    hasher.update(step);
                    // Others have their turn.
                    yield_now().await;
                }
                hasher
            }
        };
        Ok(matched.original.is(bytes, digest_of(hasher)))
    }

    /// The whole body, and its digest.
    pub(super) fn into_body(mut self) -> io::Result<(RecognisedBody, ContentDigest)> {
        let original = Arc::clone(&self.matched.here()?.original);
        let digest = original.digest();
        let file = self.file;
        Ok((RecognisedBody { original, file }, digest))
    }

    /// It is something else: brings what agreed to disk.
    pub(super) async fn part(mut self, spool: &Spool) -> io::Result<Parted> {
        self.settle().await?;
        let matched = self.matched.here()?.clone();
        let file = matched.copy(spool, &self.file).await?;
        Ok(Parted {
            file,
            marks: matched.original.first_marks(matched.steps),
            hasher: matched.hasher,
            next: self.foreign,
            last: self.gather,
        })
    }

    /// Has the gather compared by the blocking pool, after the one before it, and goes on with the other.
    async fn compare_elsewhere(&mut self) -> io::Result<bool> {
        if !self.settle().await? {
            return Ok(false);
        }
        let spare = match &mut self.pace {
            Pace::Ahead { spare, .. } => spare.take(),
            Pace::Step(_) => None,
        };
        let spare = spare.ok_or_else(|| io::Error::other("there is no other gather"))?;
        let full = std::mem::replace(&mut self.gather, spare);
        let mut matched = self.matched.here()?.clone();
        self.matched = Whereabouts::Away(spawn_blocking(move || {
            let agrees = matched.compare(full.bytes());
            (matched, full, agrees)
        }));
        Ok(true)
    }

    fn fill(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.gather.fill(bytes) {
            [] => Ok(()),
            _ => Err(io::Error::other("bytes beyond the end of a step")),
        }
    }

    /// Waits until nothing is compared. Whether all that was is the original's.
    async fn settle(&mut self) -> io::Result<bool> {
        if let Whereabouts::Away(comparing) = &mut self.matched {
            let (matched, mut gather, agrees) = comparing.await.map_err(io::Error::other)?;
            self.matched = Whereabouts::Here(matched);
            if !agrees {
                self.foreign = Some(gather);
            } else if let Pace::Ahead { spare, .. } = &mut self.pace {
                gather.truncate(0);
                *spare = Some(gather);
            }
        }
        Ok(self.foreign.is_none())
    }

    /// Goes on with longer stretches on another thread, if there are cores and memory for it.
    fn go_ahead(&mut self, spool: &Spool) {
        let (shared, bytes) = (&spool.shared, AHEAD_BYTES);
        if let Ok(permit) = Arc::clone(&shared.comparers).try_acquire_owned()
            && let Some(gather) = Gather::in_memory(&shared.budget, bytes)
            && let Some(spare) = Gather::in_memory(&shared.budget, bytes)
        {
            self.gather = gather;
            self.pace = Pace::Ahead {
                spare: Some(spare),
                _permit: permit,
            };
        }
    }
}

impl Whereabouts {
    fn here(&mut self) -> io::Result<&mut Matched> {
        match self {
            Self::Here(matched) => Ok(matched),
            Self::Away(_) => Err(io::Error::other("the body's hash is elsewhere")),
        }
    }
}

impl Matched {
    /// Whether the next step, at whose end the running hash is this, is the original's.
    fn agrees(&mut self, hasher: &Sha256) -> bool {
        let agrees = self.original.agrees(self.steps, Mark::of(hasher));
        if agrees {
            self.steps += 1;
            self.hasher = hasher.clone();
        }
        agrees
    }

    /// Whether the next whole steps are. If not all are, none of them counts.
    fn compare(&mut self, bytes: &[u8]) -> bool {
        let (before, mut hasher) = (self.clone(), self.hasher.clone());
        let agrees = bytes.chunks_exact(STEP_BYTES).all(|step| {
            hasher.update(step);
            self.agrees(&hasher)
        });
        if !agrees {
            *self = before;
        }
        agrees
    }

    /// A new file with these steps, as the original's file has them.
    async fn copy(&self, spool: &Spool, source: &Arc<SpoolFile>) -> io::Result<Appender> {
        let bytes = (self.steps * STEP_BYTES) as u64;
        let mut copied = (None, Sha256::new());
        for start in (0..bytes).step_by(COPY_BYTES as usize) {
            let part = start..bytes.min(start + COPY_BYTES);
            let slot = spool.worker_slot().await;
            let (spool, source) = (spool.clone(), Arc::clone(source));
            let copying = spawn_blocking(move || {
                let (file, mut hasher) = copied;
                let mut file = file.map_or_else(|| spool.new_file(), Ok)?;
                copy_hashed(&source, part, &mut file, &mut hasher)?;
                drop(slot);
                io::Result::Ok((Some(file), hasher))
            });
            copied = copying.await.map_err(io::Error::other)??;
        }
        let (file, hasher) = copied;
        self.original
            .check(&hasher, digest_of(self.hasher.clone()))?;
        file.ok_or_else(|| io::Error::other("no step agreed"))
    }
}
