//! A body that so far is an original.

use std::io;
use std::sync::Arc;

use entity::ContentDigest;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::blocks::{AlignedBuffer, Appender};
use super::budget::Hold;
use super::disk::OnDisk;
use super::known::{KnownOriginal, Mark, RecognisedBody, STEP_BYTES, copy_hashed};
use super::writer::digest_of;
use super::{Spool, SpoolFile};

/// What is copied at a stretch where a body turns out to be another: about 10 ms.
const COPY_BYTES: u64 = 64 * STEP_BYTES as u64;

/// The steps that agreed are the original's first bytes, and are not kept; what came after them is.
#[derive(Debug)]
pub(super) struct Matching {
    original: Arc<KnownOriginal>,
    file: Arc<SpoolFile>,
    steps: usize,
    /// The body's running hash after them.
    hasher: Sha256,
    /// Less than a step.
    tail: AlignedBuffer,
    hold: Hold,
}

impl Matching {
    /// Of a body whose first step agreed. `hold` is for the memory of one step.
    pub(super) fn begin(
        original: Arc<KnownOriginal>,
        file: SpoolFile,
        hasher: &Sha256,
        hold: Hold,
    ) -> Self {
        Self {
            original,
            file: Arc::new(file),
            steps: 1,
            hasher: hasher.clone(),
            tail: AlignedBuffer::with_capacity(STEP_BYTES),
            hold,
        }
    }

    /// Takes bytes up to the end of the step at the most.
    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.tail.fill(bytes) {
            [] => Ok(()),
            _ => Err(io::Error::other("bytes beyond the end of a step")),
        }
    }

    /// The step is whole. Whether it is the original's: then its bytes are not kept.
    pub(super) fn agrees(&mut self, mark: Mark, hasher: &Sha256) -> bool {
        let agrees = self.original.agrees(self.steps, mark);
        if agrees {
            self.steps += 1;
            self.hasher = hasher.clone();
            self.tail.clear();
        }
        agrees
    }

    /// Whether a body that ended after so many bytes is the original.
    pub(super) fn is_whole(&self, bytes: u64, digest: ContentDigest) -> bool {
        self.original.is(bytes, digest)
    }

    /// The whole body.
    pub(super) fn into_body(self) -> RecognisedBody {
        RecognisedBody {
            original: self.original,
            file: self.file,
        }
    }

    /// It is something else: brings all that came to disk.
    pub(super) async fn into_disk(self, spool: &Spool) -> io::Result<OnDisk> {
        let file = self.copy_steps(spool).await?;
        let mut disk = OnDisk::with_file(file);
        let (tail, hold) = (self.tail, self.hold);
        let write = move |file: &mut Appender| {
            let written = file.append(tail.bytes());
            drop((tail, hold));
            written
        };
        disk.write_by(spool, write).await?;
        Ok(disk)
    }

    /// A new file with the steps that agreed, as the original's file has them.
    async fn copy_steps(&self, spool: &Spool) -> io::Result<Appender> {
        let bytes = (self.steps * STEP_BYTES) as u64;
        let mut copied = (None, Sha256::new());
        for start in (0..bytes).step_by(COPY_BYTES as usize) {
            let part = start..bytes.min(start + COPY_BYTES);
            let slot = spool.worker_slot().await;
            let (spool, source) = (spool.clone(), Arc::clone(&self.file));
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
