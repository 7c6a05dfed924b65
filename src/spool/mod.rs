//! Bodies on their way in: in memory while small and while the byte budget lasts, else in an
//! unlinked temporary file; or nowhere, as long as an original at hand has the same bytes.
//!
//! **Invariants.** A body's digest is computed over exactly the bytes that were spooled, in the same
//! pass. Every byte held in memory has a permit. A wait for permits holds none, so uploads cannot
//! deadlock on the budget. Files have no name: whatever ends the process, nothing is left behind.

mod blocks;
mod body;
mod budget;
mod chunks;
mod disk;
mod file;
mod gather;
mod known;
mod matching;
mod writer;

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use blocks::Caching;
pub(crate) use blocks::write_whole;
pub(crate) use body::seek_target;
pub use body::{SpooledBody, SpooledReader};
pub use file::SpoolFile;
pub use known::{KnownOriginals, Mark, RecognisedBody};
pub use writer::SpoolWriter;

use crate::metrics::METRICS;
use blocks::Appender;
use budget::Budget;

/// With less than this free, the spool is not ready for uploads.
const MIN_FREE_BYTES: u64 = 1024 * 1024;
/// Pieces in one `writev(2)`: Linux takes 1024.
const MAX_SLICES: usize = 1024;
/// What [`Spool::check`] writes: one block, so that a full disk or quota shows.
const PROBE: [u8; 4096] = [0; 4096];

/// Where bodies wait until they are stored, and how much memory they may take. A cheap clone.
#[derive(Debug, Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    known: Option<KnownOriginals>,
}

/// What is known of a body before its first byte. None of it is relied on.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// It is likely to have so many bytes at the least: one that is larger than the threshold goes to
    /// disk at once.
    pub at_least: Option<u64>,
    /// So many bytes come, and are about all its own if it is alone.
    pub in_all: Option<u64>,
    /// Whose originals it may be one of.
    pub scope: String,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    memory_threshold: u64,
    caching: Caching,
    budget: Budget,
    /// One permit per gather that is written. More threads than the machine can run
    /// would only add memory: each costs a stack and an allocator arena.
    workers: Arc<Semaphore>,
    /// One permit per body that is compared on another thread than it is read: it keeps two cores busy.
    comparers: Arc<Semaphore>,
}

impl Spool {
    /// Opens the spool and shows that a file can be written there. Creates the directory with mode
    /// 0700 where it is missing; bodies are nobody else's to read.
    ///
    /// `memory_budget` is what all bodies together may hold in memory, `memory_threshold` what one
    /// of them may; both in bytes. `caching` is how the others reach the disk.
    ///
    /// # Errors
    /// The directory cannot be created or written.
    pub fn open(
        directory: impl AsRef<Path>,
        memory_budget: u64,
        memory_threshold: u64,
        caching: Caching,
    ) -> io::Result<Self> {
        let budget = Budget::new(memory_budget, METRICS.spool_bytes.clone());
        Self::with_budget(directory.as_ref(), budget, memory_threshold, caching)
    }

    fn with_budget(
        directory: &Path,
        budget: Budget,
        memory_threshold: u64,
        caching: Caching,
    ) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let spool = Self {
            shared: Arc::new(Shared {
                directory: directory.to_owned(),
                memory_threshold,
                caching,
                budget,
                workers: Arc::new(Semaphore::new(2 * cores)),
                comparers: Arc::new(Semaphore::new(cores / 2)),
            }),
            known: None,
        };
        probe(directory)?;
        Ok(spool)
    }

    /// A spool that recognises large originals, once they are known, while their bytes come again.
    #[must_use]
    pub fn recognising(self, known: KnownOriginals) -> Self {
        let known = Some(known);
        Self { known, ..self }
    }

    /// The originals that it recognises.
    pub fn known(&self) -> Option<&KnownOriginals> {
        self.known.as_ref()
    }

    /// Begins a body.
    pub fn writer(&self, expected: Expected) -> SpoolWriter {
        SpoolWriter::new(self.clone(), expected)
    }

    /// Whether a body of so many bytes belongs on disk.
    pub fn is_large(&self, bytes: u64) -> bool {
        bytes > self.shared.memory_threshold
    }

    /// Whether a body could be spooled to disk right now: a file can be made and written, and there is
    /// free space.
    ///
    /// # Errors
    /// Says why not; [`io::ErrorKind::StorageFull`] when less than 1 MiB is free.
    pub async fn check(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || {
            let space = rustix::fs::statvfs(&shared.directory)?;
            if space.f_bavail.saturating_mul(space.f_frsize) < MIN_FREE_BYTES {
                return Err(io::ErrorKind::StorageFull.into());
            }
            probe(&shared.directory)
        })
        .await
        .map_err(io::Error::other)?
    }

    fn new_file(&self) -> io::Result<Appender> {
        let file = SpoolFile::create_in(&self.shared.directory)?;
        Appender::new(file, self.shared.caching)
    }

    async fn worker_slot(&self) -> OwnedSemaphorePermit {
        let workers = Arc::clone(&self.shared.workers);
        let slot = workers.acquire_owned().await;
        slot.expect("the workers' semaphore is never closed")
    }

    /// Bytes of memory that may still be taken by bodies, for tests of leaks.
    #[cfg(test)]
    pub(crate) fn free_permits(&self) -> (usize, usize) {
        self.shared.budget.free()
    }
}

fn probe(directory: &Path) -> io::Result<()> {
    (&*SpoolFile::create_in(directory)?).write_all(&PROBE)
}

/// Writes pieces one after the other in as few calls as the kernel allows.
fn write_pieces(pieces: &[Bytes], mut target: &File) -> io::Result<()> {
    use std::io::IoSlice;
    for some in pieces.chunks(MAX_SLICES) {
        let mut slices: Vec<IoSlice<'_>> = some.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            match target.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod recognition_tests;
#[cfg(test)]
mod tests;
