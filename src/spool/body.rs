//! A whole body, and ways to read it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::SpoolFile;
use super::known::{Mark, RecognisedBody};

/// A whole body, ready to be read as often as needed. Dropping it frees its memory or its file.
#[derive(Debug, Clone)]
pub enum SpooledBody {
    /// Small: the pieces as they came, with the permit for their bytes.
    Memory {
        /// In order.
        chunks: Arc<[Bytes]>,
        /// Total length in bytes.
        bytes: u64,
        /// Returned to the budget with the last clone.
        permit: Arc<OwnedSemaphorePermit>,
    },
    /// Large: an unlinked file in the spool directory.
    File {
        /// Read it by position (`read_at`): clones share the cursor.
        file: Arc<SpoolFile>,
        /// Total length in bytes.
        bytes: u64,
        /// By which it is recognised when it comes again; empty where it would not be.
        marks: Arc<[Mark]>,
    },
    /// Large, and not kept: an original has the same bytes.
    Original(RecognisedBody),
}

impl SpooledBody {
    /// Total length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory { bytes, .. } | Self::File { bytes, .. } => *bytes,
            Self::Original(recognised) => recognised.bytes(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether reading it may wait for a disk.
    pub fn is_file(&self) -> bool {
        match self {
            Self::Memory { .. } => false,
            Self::File { .. } | Self::Original(_) => true,
        }
    }

    /// Reads bytes from `offset` on into `buffer`; how many. 0 only at the end or for an empty buffer.
    /// Blocks on the disk where the body [is a file](Self::is_file).
    ///
    /// # Errors
    /// The file could not be read.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.len().saturating_sub(offset);
        let wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let buffer = &mut buffer[..wanted];
        match self {
            Self::Memory { chunks, .. } => Ok(copy_from(chunks, offset, buffer)),
            Self::File { file, .. } => read_some(file, offset, buffer),
            Self::Original(recognised) => read_some(recognised.file(), offset, buffer),
        }
    }

    /// The first `count` bytes, or all there are. Blocks as [`Self::read_at`].
    ///
    /// # Errors
    /// The file could not be read.
    pub fn head(&self, count: usize) -> io::Result<Vec<u8>> {
        let count = count.min(usize::try_from(self.len()).unwrap_or(usize::MAX));
        let mut head = vec![0; count];
        let mut filled = 0;
        while filled < count {
            filled += self.read_at(filled as u64, &mut head[filled..])?;
        }
        Ok(head)
    }

    /// A reader with a position of its own, at the beginning.
    pub fn reader(&self) -> SpooledReader {
        SpooledReader {
            body: self.clone(),
            position: 0,
        }
    }

    /// A small body outside of any budget.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let permit = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned();
        Self::Memory {
            bytes: bytes.len() as u64,
            chunks: Arc::new([bytes]),
            permit: Arc::new(permit.expect("a new semaphore has its permit")),
        }
    }
}

fn read_some(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The file is as long as was written: its end before that is a broken disk.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            result => return result,
        }
    }
}

/// Fills `buffer` from `offset` on; how many bytes there were.
fn copy_from(chunks: &[Bytes], mut offset: u64, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    for chunk in chunks {
        if offset >= chunk.len() as u64 {
            offset -= chunk.len() as u64;
            continue;
        }
        // Smaller than the chunk, so it fits.
        let rest = &chunk[offset as usize..];
        let count = rest.len().min(buffer.len() - filled);
        buffer[filled..filled + count].copy_from_slice(&rest[..count]);
        filled += count;
        offset = 0;
        if filled == buffer.len() {
            break;
        }
    }
    filled
}

/// Reads a body by position: independent of every other reader of it. Unbuffered.
#[derive(Debug, Clone)]
pub struct SpooledReader {
    body: SpooledBody,
    position: u64,
}

impl Read for SpooledReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read_at(self.position, buffer)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for SpooledReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = seek_target(self.position, self.body.len(), to)?;
        Ok(self.position)
    }
}

/// Where a seek leads; beyond the end is allowed, before the beginning is not.
pub(crate) fn seek_target(position: u64, length: u64, to: SeekFrom) -> io::Result<u64> {
    let target = match to {
        SeekFrom::Start(offset) => Some(offset),
        SeekFrom::Current(offset) => position.checked_add_signed(offset),
        SeekFrom::End(offset) => length.checked_add_signed(offset),
    };
    target.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
