//! A body while it comes in.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use entity::ContentDigest;
use sha2::{Digest, Sha256};
use tokio::task::{JoinHandle, spawn_blocking};

use super::blocks::{AlignedBuffer, Appender, BLOCK_BYTES};
use super::budget::{GaugeShare, Hold};
use super::chunks::ChunkList;
use super::{Spool, SpoolFile, SpooledBody};

/// The most that is hashed at a stretch on a thread that others share: about 0.1 ms. As much as the HTTP
/// library reads at once: whoever has a turn between two slices finds its buffer still in use, and reads
/// into a small new one.
const INLINE_HASH_BYTES: usize = 128 * 1024;
/// The first gather of a body on disk, and of one whose client was silent: all of it is taken from the
/// budget as soon as there is one byte in it.
const FIRST_GATHER_BYTES: usize = 32 * 1024 - BLOCK_BYTES;
/// What is gathered at the most before a thread of the blocking pool writes it: with what aligning it may
/// take, an allocation of 128 KiB. A second gather fills meanwhile, so one upload has at most twice this in
/// flight.
const GATHER_BYTES: usize = 128 * 1024 - BLOCK_BYTES;
/// The same as long as few uploads share the budget: each change of threads is worth more bytes then.
const LONE_GATHER_BYTES: usize = 1024 * 1024 - BLOCK_BYTES;

/// A body while it comes in: hashed and kept at once. Dropping it frees all it holds.
#[derive(Debug)]
pub struct SpoolWriter {
    spool: Spool,
    bytes: u64,
    /// Of all bytes taken.
    hasher: Sha256,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// All of it.
    Memory { chunks: ChunkList, hold: Hold },
    /// On disk, but for what is gathered or at work.
    Disk(OnDisk),
}

#[derive(Debug)]
struct OnDisk {
    /// There is at least one byte in it.
    gather: Option<Gather>,
    /// The size of the next gather: it grows as long as they are filled.
    next_bytes: usize,
    worker: Worker,
}

/// Bytes on their way to the disk, and the permits for all that may be in it. The bytes go first.
#[derive(Debug)]
struct Gather {
    buffer: AlignedBuffer,
    _hold: Hold,
}

/// Who has the file: exactly one place at any time, so that no byte is written out of order.
#[derive(Debug)]
enum Worker {
    /// Opened with its first bytes.
    Idle(Option<Appender>),
    Busy(JoinHandle<io::Result<Appender>>),
    /// An error was reported; there is no body any more.
    Failed,
}

impl SpoolWriter {
    pub(super) fn new(spool: Spool, expected_bytes: Option<u64>) -> Self {
        let budget = &spool.shared.budget;
        let place = if expected_bytes.is_some_and(|bytes| spool.is_large(bytes)) {
            Place::Disk(OnDisk::new())
        } else {
            Place::Memory {
                chunks: ChunkList::default(),
                hold: budget.hold_no_memory(),
            }
        };
        Self {
            spool,
            bytes: 0,
            hasher: Sha256::new(),
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
        hash_in_slices(&mut self.hasher, &chunk).await;
        if let Place::Memory { chunks, hold } = &mut self.place {
            let budget = &self.spool.shared.budget;
            if fits && let Some(more) = budget.try_hold_memory(chunk.len()) {
                hold.merge(more);
                chunks.push(chunk);
                return Ok(());
            }
            self.spill().await?;
        }
        self.write_to_disk(chunk).await
    }

    /// Whether the writer holds bytes that [`Self::pause`] would bring to disk.
    pub fn holds_in_flight(&self) -> bool {
        matches!(&self.place, Place::Disk(disk) if disk.gather.is_some())
    }

    /// The client is silent: brings to disk what is gathered, so that no slow client sits on the
    /// in-flight budget that every other large upload needs.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn pause(&mut self) -> io::Result<()> {
        match &mut self.place {
            Place::Disk(disk) => {
                disk.next_bytes = FIRST_GATHER_BYTES;
                disk.flush(&self.spool).await
            }
            Place::Memory { .. } => Ok(()),
        }
    }

    /// Ends the body: its bytes, and their SHA-256.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn finish(mut self) -> io::Result<(SpooledBody, ContentDigest)> {
        self.pause().await?;
        let (bytes, digest) = (self.bytes, digest_of(self.hasher));
        match self.place {
            Place::Memory { chunks, hold } => {
                let (permit, gauge) = hold.into_parts();
                let body = SpooledBody::Memory {
                    chunks: with_gauge(chunks.into_chunks(), gauge).into(),
                    bytes,
                    permit: Arc::new(permit),
                };
                Ok((body, digest))
            }
            Place::Disk(OnDisk { mut worker, .. }) => {
                let file = match worker.settle().await? {
                    Some(file) => file.finish()?,
                    None => open_file(&self.spool).await?,
                };
                let file = Arc::new(file);
                Ok((SpooledBody::File { file, bytes }, digest))
            }
        }
    }

    /// Moves what is in memory to disk; its permits return when it is written.
    async fn spill(&mut self) -> io::Result<()> {
        let failed = Place::Disk(OnDisk {
            worker: Worker::Failed,
            ..OnDisk::new()
        });
        if let Place::Memory { chunks, hold } = std::mem::replace(&mut self.place, failed) {
            let mut disk = OnDisk::new();
            let mut pieces = chunks.into_chunks();
            let tail = split_tail(&mut pieces);
            if !pieces.is_empty() {
                let write = move |file: &mut Appender| {
                    let written = file.append_pieces(&pieces);
                    drop((pieces, hold));
                    written
                };
                disk.worker.start(&self.spool, write).await?;
            }
            if !tail.is_empty() {
                let gather = disk.begin(&self.spool).await?;
                // Less than a block, and there is room for one.
                gather.buffer.fill(&tail);
            }
            self.place = Place::Disk(disk);
        }
        Ok(())
    }

    async fn write_to_disk(&mut self, chunk: Bytes) -> io::Result<()> {
        let Place::Disk(disk) = &mut self.place else {
            return Err(io::Error::other("a body in memory was not spilled"));
        };
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let gather = match &mut disk.gather {
                Some(gather) => gather,
                None => disk.begin(&self.spool).await?,
            };
            rest = gather.buffer.fill(rest);
            if gather.buffer.is_full() {
                disk.next_bytes = (2 * disk.next_bytes).min(LONE_GATHER_BYTES);
                disk.flush(&self.spool).await?;
            }
        }
        Ok(())
    }
}

impl OnDisk {
    fn new() -> Self {
        Self {
            gather: None,
            next_bytes: FIRST_GATHER_BYTES,
            worker: Worker::Idle(None),
        }
    }

    /// A new gather, as soon as the budget has room for it.
    async fn begin(&mut self, spool: &Spool) -> io::Result<&mut Gather> {
        let budget = &spool.shared.budget;
        let most = budget.lone_share_in_flight().map_or(GATHER_BYTES, |share| {
            share.clamp(GATHER_BYTES, LONE_GATHER_BYTES)
        });
        let capacity = budget.whole_blocks_in_flight(self.next_bytes.min(most));
        let hold = match budget.try_hold_in_flight(capacity) {
            Some(hold) => hold,
            None => {
                // Give up everything before waiting: that is why this cannot deadlock.
                let file = self.worker.settle().await?;
                self.worker = Worker::Idle(file);
                budget.hold_in_flight(capacity).await
            }
        };
        Ok(self.gather.insert(Gather {
            buffer: AlignedBuffer::with_capacity(capacity),
            _hold: hold,
        }))
    }

    /// Has what is gathered written.
    async fn flush(&mut self, spool: &Spool) -> io::Result<()> {
        match self.gather.take() {
            Some(gather) => {
                let write = move |file: &mut Appender| file.append(gather.buffer.bytes());
                self.worker.start(spool, write).await
            }
            None => Ok(()),
        }
    }
}

impl Worker {
    /// Waits until nothing is at work and takes the file out. `Failed` stays behind.
    async fn settle(&mut self) -> io::Result<Option<Appender>> {
        match std::mem::replace(self, Self::Failed) {
            Self::Idle(file) => Ok(file),
            Self::Busy(writing) => writing.await.map_err(io::Error::other)?.map(Some),
            Self::Failed => Err(io::Error::other("the spooled body failed before")),
        }
    }

    /// Has the blocking pool `write` to the file, as soon as what was given to it before is written.
    async fn start(
        &mut self,
        spool: &Spool,
        write: impl FnOnce(&mut Appender) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let file = self.settle().await?;
        let slot = spool.worker_slot().await;
        let spool = spool.clone();
        *self = Self::Busy(spawn_blocking(move || {
            let mut file = match file {
                Some(file) => file,
                None => Appender::new(
                    SpoolFile::create_in(&spool.shared.directory)?,
                    spool.shared.caching,
                )?,
            };
            write(&mut file)?;
            drop(slot);
            Ok(file)
        }));
        Ok(())
    }
}

/// Takes what is beyond the last whole block out of the pieces: less than a block.
fn split_tail(pieces: &mut Vec<Bytes>) -> Vec<u8> {
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    let mut missing = bytes % BLOCK_BYTES;
    let mut tail = Vec::with_capacity(2);
    while missing > 0
        && let Some(last) = pieces.pop()
    {
        let (kept, taken) = (last.len().saturating_sub(missing), last.len().min(missing));
        tail.push(last.slice(kept..));
        if kept > 0 {
            pieces.push(last.slice(..kept));
        }
        missing -= taken;
    }
    tail.reverse();
    tail.concat()
}

async fn open_file(spool: &Spool) -> io::Result<SpoolFile> {
    let spool = spool.clone();
    tokio::task::spawn_blocking(move || SpoolFile::create_in(&spool.shared.directory))
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
