//! A body while it comes in.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use entity::ContentDigest;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::budget::{GaugeShare, Hold};
use super::chunks::ChunkList;
use super::{Spool, SpooledBody, unlinked_file, write_pieces};

/// The most that is hashed at a stretch on a thread that others share: about 0.1 ms.
const INLINE_HASH_BYTES: usize = 64 * 1024;
/// What is gathered before it is hashed and written by a thread of the blocking pool. A second gather
/// fills meanwhile, so one upload has at most twice this in flight.
const GATHER_BYTES: u64 = 128 * 1024;

/// A body while it comes in: hashed and kept at once. Dropping it frees all it holds.
#[derive(Debug)]
pub struct SpoolWriter {
    spool: Spool,
    bytes: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// All of it, hashed already.
    Memory {
        chunks: ChunkList,
        hold: Hold,
        hasher: Sha256,
    },
    /// On disk, but for what is gathered or at work.
    Disk { gather: Gather, worker: Worker },
}

/// Bytes and the permits for them. The bytes go first.
#[derive(Debug)]
struct Gather {
    chunks: ChunkList,
    hold: Hold,
}

/// Who has the file and the digest so far: exactly one place at any time, so that no byte is hashed
/// out of order or without being written.
#[derive(Debug)]
enum Worker {
    Idle(Sink),
    Busy(JoinHandle<io::Result<Sink>>),
    /// An error was reported; there is no body any more.
    Failed,
}

/// The file, opened with its first bytes, and the digest of what is in it.
#[derive(Debug)]
struct Sink {
    file: Option<File>,
    hasher: Sha256,
}

impl SpoolWriter {
    pub(super) fn new(spool: Spool, expected_bytes: Option<u64>) -> Self {
        let budget = &spool.shared.budget;
        let place = if expected_bytes.is_some_and(|bytes| bytes > spool.shared.memory_threshold) {
            Place::Disk {
                gather: Gather::new(&spool),
                worker: Worker::Idle(Sink::new(Sha256::new())),
            }
        } else {
            Place::Memory {
                chunks: ChunkList::default(),
                hold: budget.hold_no_memory(),
                hasher: Sha256::new(),
            }
        };
        Self {
            spool,
            bytes: 0,
            place,
        }
    }

    /// Bytes taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next bytes. Waits for the disk and for the budget, never while in memory. Drop the
    /// future and the body is lost: later calls fail.
    ///
    /// # Errors
    /// The spool's disk is full or broken. The writer is of no more use.
    pub async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        let fits = self.bytes + chunk.len() as u64 <= self.spool.shared.memory_threshold;
        self.bytes += chunk.len() as u64;
        if let Place::Memory {
            chunks,
            hold,
            hasher,
        } = &mut self.place
        {
            let budget = &self.spool.shared.budget;
            if fits && let Some(more) = budget.try_hold_memory(chunk.len()) {
                hold.merge(more);
                hash_in_slices(hasher, &chunk).await;
                chunks.push(chunk);
                return Ok(());
            }
            self.spill().await?;
        }
        self.write_to_disk(chunk).await
    }

    /// Whether the writer holds bytes that [`Self::pause`] would bring to disk.
    pub fn holds_in_flight(&self) -> bool {
        matches!(&self.place, Place::Disk { gather, .. } if gather.chunks.bytes() > 0)
    }

    /// The client is silent: brings to disk what is gathered, so that no slow client sits on the
    /// in-flight budget that every other large upload needs.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn pause(&mut self) -> io::Result<()> {
        match &mut self.place {
            Place::Disk { gather, worker } if gather.chunks.bytes() > 0 => {
                let full = std::mem::replace(gather, Gather::new(&self.spool));
                worker.start(&self.spool, full, Hashed::Not).await
            }
            _ => Ok(()),
        }
    }

    /// Ends the body: its bytes, and their SHA-256.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn finish(mut self) -> io::Result<(SpooledBody, ContentDigest)> {
        self.pause().await?;
        let bytes = self.bytes;
        match self.place {
            Place::Memory {
                chunks,
                hold,
                hasher,
            } => {
                let (permit, gauge) = hold.into_parts();
                let body = SpooledBody::Memory {
                    chunks: with_gauge(chunks.into_chunks(), gauge).into(),
                    bytes,
                    permit: Arc::new(permit),
                };
                Ok((body, digest_of(hasher)))
            }
            Place::Disk { mut worker, .. } => {
                let Sink { file, hasher } = worker.settle().await?;
                let file = match file {
                    Some(file) => file,
                    None => open_file(&self.spool).await?,
                };
                let file = Arc::new(file);
                Ok((SpooledBody::File { file, bytes }, digest_of(hasher)))
            }
        }
    }

    /// Moves what is in memory to disk; its permits return when it is written.
    async fn spill(&mut self) -> io::Result<()> {
        let disk = Place::Disk {
            gather: Gather::new(&self.spool),
            worker: Worker::Failed,
        };
        if let Place::Memory {
            chunks,
            hold,
            hasher,
        } = std::mem::replace(&mut self.place, disk)
            && let Place::Disk { worker, .. } = &mut self.place
        {
            *worker = Worker::Idle(Sink::new(hasher));
            if chunks.bytes() > 0 {
                let held = Gather { chunks, hold };
                worker.start(&self.spool, held, Hashed::Already).await?;
            }
        }
        Ok(())
    }

    async fn write_to_disk(&mut self, chunk: Bytes) -> io::Result<()> {
        let Place::Disk { gather, worker } = &mut self.place else {
            return Err(io::Error::other("a body in memory was not spilled"));
        };
        let budget = &self.spool.shared.budget;
        let hold = match budget.try_hold_in_flight(chunk.len()) {
            Some(hold) => hold,
            None => {
                // Give up everything before waiting: that is why this cannot deadlock.
                let held = std::mem::replace(gather, Gather::new(&self.spool));
                if held.chunks.bytes() > 0 {
                    worker.start(&self.spool, held, Hashed::Not).await?;
                }
                let sink = worker.settle().await?;
                *worker = Worker::Idle(sink);
                budget.hold_in_flight(chunk.len()).await
            }
        };
        gather.hold.merge(hold);
        gather.chunks.push(chunk);
        if gather.chunks.bytes() >= GATHER_BYTES {
            self.pause().await?;
        }
        Ok(())
    }
}

impl Gather {
    fn new(spool: &Spool) -> Self {
        Self {
            chunks: ChunkList::default(),
            hold: spool.shared.budget.hold_nothing_in_flight(),
        }
    }
}

/// Whether bytes went through SHA-256 when they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hashed {
    Already,
    Not,
}

impl Worker {
    /// Waits until nothing is at work and takes the sink out. `Failed` stays behind.
    async fn settle(&mut self) -> io::Result<Sink> {
        match std::mem::replace(self, Self::Failed) {
            Self::Idle(sink) => Ok(sink),
            Self::Busy(job) => job.await.map_err(io::Error::other)?,
            Self::Failed => Err(io::Error::other("the spooled body failed before")),
        }
    }

    /// Has the blocking pool append the pieces, as soon as the pieces before them are written.
    async fn start(&mut self, spool: &Spool, pieces: Gather, hashed: Hashed) -> io::Result<()> {
        let sink = self.settle().await?;
        let slot = Arc::clone(&spool.shared.workers)
            .acquire_owned()
            .await
            .expect("the workers' semaphore is never closed");
        let spool = spool.clone();
        *self = Self::Busy(tokio::task::spawn_blocking(move || {
            let Gather { chunks, hold } = pieces;
            let result = sink.append(&spool, &chunks.into_chunks(), hashed);
            drop(hold);
            drop(slot);
            result
        }));
        Ok(())
    }
}

impl Sink {
    fn new(hasher: Sha256) -> Self {
        Self { file: None, hasher }
    }

    fn append(mut self, spool: &Spool, chunks: &[Bytes], hashed: Hashed) -> io::Result<Self> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(unlinked_file(&spool.shared.directory)?),
        };
        if hashed == Hashed::Not {
            chunks.iter().for_each(|chunk| self.hasher.update(chunk));
        }
        // In one call: a file system that is told of many pages at once takes them as few large ones.
        write_pieces(chunks, file)?;
        Ok(self)
    }
}

async fn open_file(spool: &Spool) -> io::Result<File> {
    let spool = spool.clone();
    tokio::task::spawn_blocking(move || unlinked_file(&spool.shared.directory))
        .await
        .map_err(io::Error::other)?
}

/// Hashes in bounded slices and lets others run between them.
async fn hash_in_slices(hasher: &mut Sha256, chunk: &Bytes) {
    let mut slices = chunk.chunks(INLINE_HASH_BYTES).peekable();
    while let Some(slice) = slices.next() {
        hasher.update(slice);
        if slices.peek().is_some() {
            tokio::task::yield_now().await;
        }
    }
}

fn digest_of(hasher: Sha256) -> ContentDigest {
    ContentDigest::from(<[u8; 32]>::from(hasher.finalize()))
}

/// The body's permit is a plain one that knows no gauge, so its share rides in the first piece: the
/// gauge falls when the bytes really go.
fn with_gauge(mut chunks: Vec<Bytes>, gauge: GaugeShare) -> Vec<Bytes> {
    struct Counted {
        bytes: Bytes,
        _gauge: GaugeShare,
    }
    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    if let Some(first) = chunks.first_mut() {
        *first = Bytes::from_owner(Counted {
            bytes: std::mem::take(first),
            _gauge: gauge,
        });
    }
    chunks
}
