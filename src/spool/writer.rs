//! A body while it comes in.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use entity::ContentDigest;
use sha2::{Digest, Sha256};

use super::blocks::{Appender, BLOCK_BYTES};
use super::budget::{GaugeShare, Hold};
use super::chunks::ChunkList;
use super::disk::OnDisk;
use super::known::{Mark, STEP_BYTES};
use super::matching::Matching;
use super::{Expected, Spool, SpooledBody};
use crate::metrics::METRICS;

/// The most that is hashed at a stretch on a thread that others share: about 0.1 ms. As much as the HTTP
/// library reads at once: whoever has a turn between two slices finds its buffer still in use, and reads
/// into a small new one.
const INLINE_HASH_BYTES: usize = 128 * 1024;

/// A body while it comes in: hashed and kept at once. Dropping it frees all it holds.
///
/// What happens once in a body's life, if at all, is boxed: it is no part of what each upload holds while it
/// waits for its client.
#[derive(Debug)]
pub struct SpoolWriter {
    spool: Spool,
    expected: Expected,
    bytes: u64,
    /// Of all bytes taken, while none are in the file of an original.
    hasher: Sha256,
    /// Its states at the ends of steps, where there are originals to be recognised by them.
    marks: Vec<Mark>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// All of it.
    Memory { chunks: ChunkList, hold: Hold },
    /// On disk, but for what is gathered or at work.
    Disk(OnDisk),
    /// In the file of an original, but for what is not compared yet.
    Original(Box<Matching>),
}

impl SpoolWriter {
    pub(super) fn new(spool: Spool, expected: Expected) -> Self {
        let budget = &spool.shared.budget;
        let place = if expected.at_least.is_some_and(|bytes| spool.is_large(bytes)) {
            Place::Disk(OnDisk::new())
        } else {
            Place::Memory {
                chunks: ChunkList::default(),
                hold: budget.hold_no_memory(),
            }
        };
        Self {
            spool,
            expected,
            bytes: 0,
            hasher: Sha256::new(),
            marks: Vec::new(),
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
    pub async fn write(&mut self, mut chunk: Bytes) -> io::Result<()> {
        let mut hashed = 0;
        while !chunk.is_empty() {
            let part = chunk.split_to(self.bytes_to_mark().min(chunk.len()));
            // Others have their turn between two slices.
            if hashed + part.len() > INLINE_HASH_BYTES && hashed > 0 {
                tokio::task::yield_now().await;
                hashed = 0;
            }
            hashed += part.len();
            if let Place::Original(matching) = &mut self.place {
                self.bytes += part.len() as u64;
                if !Box::pin(matching.take(&self.spool, &part)).await? {
                    Box::pin(self.leave_original()).await?;
                }
                continue;
            }
            self.hash(&part);
            if !self.is_recognised().await {
                self.keep(part).await?;
            }
        }
        Ok(())
    }

    /// Whether the writer holds memory that [`Self::pause`] would give back.
    pub fn holds_in_flight(&self) -> bool {
        match &self.place {
            Place::Memory { .. } => false,
            Place::Disk(disk) => disk.holds_in_flight(),
            Place::Original(matching) => matching.is_ahead(),
        }
    }

    /// The client is silent: writes or compares what is gathered, so that no slow client sits on memory that
    /// every other large upload needs.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn pause(&mut self) -> io::Result<()> {
        match &mut self.place {
            Place::Memory { .. } => Ok(()),
            Place::Disk(disk) => disk.pause(&self.spool).await,
            Place::Original(matching) => {
                if !Box::pin(matching.fall_back(&self.spool)).await? {
                    Box::pin(self.leave_original()).await?;
                }
                Ok(())
            }
        }
    }

    /// Ends the body: its bytes, and their SHA-256.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn finish(mut self) -> io::Result<(SpooledBody, ContentDigest)> {
        let bytes = self.bytes;
        if let Place::Original(matching) = &mut self.place
            && !Box::pin(matching.is_whole(bytes)).await?
        {
            Box::pin(self.leave_original()).await?;
        }
        let digest = digest_of(self.hasher);
        let disk = match self.place {
            Place::Memory { chunks, hold } => {
                let (permit, gauge) = hold.into_parts();
                let body = SpooledBody::Memory {
                    chunks: with_gauge(chunks.into_chunks(), gauge).into(),
                    bytes,
                    permit: Arc::new(permit),
                };
                return Ok((body, digest));
            }
            Place::Disk(disk) => disk,
            Place::Original(matching) => {
                METRICS.recognised_bytes.inc_by(bytes);
                let (body, digest) = matching.into_body()?;
                return Ok((SpooledBody::Original(body), digest));
            }
        };
        let body = SpooledBody::File {
            file: Arc::new(disk.finish(&self.spool).await?),
            bytes,
            marks: self.marks.into(),
        };
        Ok((body, digest))
    }

    /// How many bytes there are until the next mark, or until the next turn of others.
    fn bytes_to_mark(&self) -> usize {
        match self.spool.known {
            // Less than a step.
            Some(_) => STEP_BYTES - (self.bytes % STEP_BYTES as u64) as usize,
            None => INLINE_HASH_BYTES,
        }
    }

    async fn keep(&mut self, part: Bytes) -> io::Result<()> {
        if let Place::Memory { chunks, hold } = &mut self.place {
            let shared = &self.spool.shared;
            if self.bytes <= shared.memory_threshold
                && let Some(more) = shared.budget.try_hold_memory(part.len())
            {
                hold.merge(more);
                chunks.push(part);
                return Ok(());
            }
            Box::pin(self.spill()).await?;
        }
        match &mut self.place {
            Place::Disk(disk) => disk.write(&self.spool, &part).await,
            Place::Memory { .. } | Place::Original(_) => {
                Err(io::Error::other("a body in memory was not spilled"))
            }
        }
    }

    /// Hashes bytes up to the end of a step at the most.
    fn hash(&mut self, part: &[u8]) {
        self.hasher.update(part);
        self.bytes += part.len() as u64;
        if self.spool.known.is_some() && self.bytes.is_multiple_of(STEP_BYTES as u64) {
            self.marks.push(Mark::of(&self.hasher));
        }
    }

    /// Whether the body's first step, which is whole now, is an original's: then it need not be kept.
    async fn is_recognised(&mut self) -> bool {
        if self.bytes == STEP_BYTES as u64
            && let Some(first) = self.marks.first()
            && let Some(matching) = Box::pin(self.recognise(*first)).await
        {
            self.place = Place::Original(Box::new(matching));
            return true;
        }
        false
    }

    async fn recognise(&self, first: Mark) -> Option<Matching> {
        let (known, in_all) = (self.spool.known.as_ref()?, self.expected.in_all?);
        let (original, file) = known.recognise(&self.expected.scope, first, in_all).await?;
        Matching::begin(&self.spool, original, file, &self.hasher)
    }

    /// The body is another than it seemed: from its last step that agreed on, it is hashed and kept like any
    /// other.
    async fn leave_original(&mut self) -> io::Result<()> {
        let failed = Place::Disk(OnDisk::failed());
        let Place::Original(matching) = std::mem::replace(&mut self.place, failed) else {
            return Ok(());
        };
        let parted = matching.part(&self.spool).await?;
        (self.hasher, self.marks) = (parted.hasher, parted.marks);
        self.bytes = (self.marks.len() * STEP_BYTES) as u64;
        let mut disk = OnDisk::with_file(parted.file);
        for gather in parted.next.into_iter().chain([parted.last]) {
            for step in gather.bytes().chunks(STEP_BYTES) {
                self.hash(step);
                // Others have their turn.
                tokio::task::yield_now().await;
            }
            disk.take(&self.spool, gather).await?;
        }
        self.place = Place::Disk(disk);
        Ok(())
    }

    /// Moves what is in memory to disk; its permits return when it is written.
    async fn spill(&mut self) -> io::Result<()> {
        let failed = Place::Disk(OnDisk::failed());
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
                disk.write_by(&self.spool, write).await?;
            }
            disk.write(&self.spool, &tail).await?;
            self.place = Place::Disk(disk);
        }
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

pub(super) fn digest_of(hasher: Sha256) -> ContentDigest {
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
