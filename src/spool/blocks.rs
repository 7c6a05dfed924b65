//! Whole blocks between memory and disk, past the kernel's page cache.
//!
//! What is stored for good is written once and seldom read soon: copying it into the cache costs more
//! CPU time than hashing it does, and the cache's pages are taken from what is read. `O_DIRECT` lets the
//! disk fetch the bytes from where they are, on three conditions: memory, offset and length are
//! multiples of a block. Whatever does not fit, such as a file's last bytes, takes the cache's way, and so
//! does everything where the file system knows no other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::SpoolFile;

/// No disk's logical block is larger.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// What is copied together of smaller pieces before it is written.
const COPY_BYTES: usize = 256 * 1024;
/// Below this the cache is no slower: what a file costs then is its metadata.
const WORTHWHILE_BYTES: u64 = 64 * 1024;

/// Bytes that begin at a block's boundary in memory; as many as there is room for.
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    /// Never grows beyond what it was made with, so that the bytes stay where they are.
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl AlignedBuffer {
    /// Room for `capacity` bytes.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let mut memory = Vec::<u8>::with_capacity(capacity + BLOCK_BYTES);
        let start = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        memory.resize(start, 0);
        Self {
            memory,
            start,
            capacity,
        }
    }

    /// Takes what there is room for; the rest.
    pub(crate) fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.capacity - self.bytes().len();
        let (taken, rest) = bytes.split_at(bytes.len().min(room));
        self.memory.extend_from_slice(taken);
        rest
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes().len() == self.capacity
    }

    pub(crate) fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets all but the first `count` bytes.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.memory.truncate(self.start.saturating_add(count));
    }

    /// Takes `count` bytes of a file, for which there must be room.
    pub(crate) fn read_from(&mut self, file: &File, offset: u64, count: usize) -> io::Result<()> {
        let end = self.memory.len();
        if end + count > self.start + self.capacity {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.memory.resize(end + count, 0);
        file.read_exact_at(&mut self.memory[end..], offset)
    }
}

/// How a file's bytes reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// Past the page cache: what is written is to be kept.
    Direct,
    /// Through it: what is written may be read at once, or deleted before the disk saw it.
    Cached,
}

/// A new file that is written from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Appender {
    file: SpoolFile,
    position: u64,
    direct: bool,
}

impl Appender {
    /// Writes to an empty file.
    pub(crate) fn new(file: impl Into<SpoolFile>, caching: Caching) -> io::Result<Self> {
        let mut appender = Self {
            file: file.into(),
            position: 0,
            direct: false,
        };
        if caching == Caching::Direct {
            match appender.set_direct(true) {
                // Said by file systems without it.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
                set => set?,
            }
        }
        Ok(appender)
    }

    /// Appends bytes; those of an [`AlignedBuffer`] past the cache as long as only whole blocks came
    /// before them.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            let written = match self.whole_blocks(left) {
                Some(blocks) => self.file.write_at(blocks, self.position),
                None => {
                    self.set_direct(false)?;
                    self.file.write_at(left, self.position)
                }
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.position += count as u64;
                    left = &left[count..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A file system that takes the flag and then refuses the write, or has larger blocks.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput && self.direct => {
                    self.set_direct(false)?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Appends pieces of any size, gathered.
    pub(crate) fn append_pieces(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let mut buffer = AlignedBuffer::with_capacity(bytes.min(COPY_BYTES));
        for piece in pieces {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                rest = buffer.fill(rest);
                if buffer.is_full() {
                    self.append(buffer.bytes())?;
                    buffer.clear();
                }
            }
        }
        self.append(buffer.bytes())
    }

    /// The file, to be read and synced like any other.
    pub(crate) fn finish(mut self) -> io::Result<SpoolFile> {
        self.set_direct(false)?;
        Ok(self.file)
    }

    /// As much of `bytes` as the disk can fetch from where it is.
    fn whole_blocks<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let whole = bytes.len() - bytes.len() % BLOCK_BYTES;
        let fits = self.position.is_multiple_of(BLOCK_BYTES as u64)
            && bytes.as_ptr().align_offset(BLOCK_BYTES) == 0;
        (self.direct && fits && whole > 0).then(|| &bytes[..whole])
    }

    fn set_direct(&mut self, direct: bool) -> Result<(), Errno> {
        if direct == self.direct {
            return Ok(());
        }
        let mut flags = fcntl_getfl(&*self.file)?;
        flags.set(OFlags::DIRECT, direct);
        fcntl_setfl(&*self.file, flags)?;
        self.direct = direct;
        Ok(())
    }
}

/// Writes the pieces of a whole file of its own, which is to be kept.
pub(crate) fn write_whole(file: File, pieces: &[Bytes]) -> io::Result<File> {
    let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    if bytes < WORTHWHILE_BYTES {
        super::write_pieces(pieces, &file)?;
        return Ok(file);
    }
    let mut appender = Appender::new(file, Caching::Direct)?;
    appender.append_pieces(pieces)?;
    Ok(appender.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn a_buffer_is_aligned_and_takes_no_more_than_its_room() {
        for capacity in [1, 4096, 5000, 256 * 1024] {
            let mut buffer = AlignedBuffer::with_capacity(capacity);
            let content = bytes(capacity + 7);
            let (first, second) = content.split_at(capacity / 2);
            assert!(buffer.fill(first).is_empty() && !buffer.is_full());
            assert_eq!(buffer.fill(second).len(), 7);
            assert!(buffer.is_full());
            assert_eq!(buffer.bytes(), &content[..capacity]);
            assert_eq!(buffer.bytes().as_ptr().align_offset(BLOCK_BYTES), 0);
            buffer.clear();
            assert!(buffer.bytes().is_empty());
        }
    }

    #[test]
    fn whatever_the_lengths_the_file_has_the_bytes_in_their_order() {
        let folder = tempfile::tempdir().expect("a folder");
        for caching in [Caching::Direct, Caching::Cached] {
            for (index, lengths) in [
                &[0, 1, 4096, 5000, 300_000][..],
                &[8192, 4096, 4095, 4096],
                &[1 << 20],
            ]
            .iter()
            .enumerate()
            {
                let path = folder.path().join(format!("{index}-{caching:?}"));
                let file = File::create_new(&path).expect("created");
                let mut appender = Appender::new(file, caching).expect("a file");
                let mut expected = Vec::new();
                for length in *lengths {
                    let content = bytes(*length);
                    let mut buffer = AlignedBuffer::with_capacity(*length);
                    buffer.fill(&content);
                    appender.append(buffer.bytes()).expect("written");
                    expected.extend_from_slice(&content);
                }
                let file = appender.finish().expect("a file");
                assert!(!fcntl_getfl(&*file).expect("open").contains(OFlags::DIRECT));
                assert!(std::fs::read(&path).expect("readable") == expected);
            }
        }
    }

    #[test]
    fn pieces_of_any_number_and_length_make_one_file() {
        let folder = tempfile::tempdir().expect("a folder");
        for total in [0, 10, 70_000, 262_144, 700_001] {
            let content = Bytes::from(bytes(total));
            let pieces: Vec<Bytes> = (0..total)
                .step_by(1501)
                .map(|at| content.slice(at..total.min(at + 1501)))
                .collect();
            let path = folder.path().join(total.to_string());
            let file = File::create_new(&path).expect("created");
            write_whole(file, &pieces).expect("written");
            assert!(std::fs::read(&path).expect("readable") == content);
        }
    }
}
