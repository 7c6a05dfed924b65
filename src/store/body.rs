//! Reading bytes by position, a bounded piece at a time and never on a thread that serves sockets.

use std::borrow::Borrow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use crate::spool::{SpoolFile, SpooledBody};

/// Bytes per read: large enough that the hop to the blocking pool (some ten microseconds) is noise,
/// small enough that a thousand slow readers, two pieces each, stay within half a GiB.
pub(super) const CHUNK_BYTES: u64 = 256 * 1024;

/// Reads `bytes` bytes at `offset`. A file that ends before is an [`io::ErrorKind::UnexpectedEof`].
pub(super) fn read_chunk(file: &File, offset: u64, bytes: u64) -> io::Result<Bytes> {
    let length = usize::try_from(bytes).map_err(io::Error::other)?;
    let mut chunk = vec![0; length];
    file.read_exact_at(&mut chunk, offset)?;
    Ok(chunk.into())
}

/// A part of a file as a stream that reads one piece ahead: the disk works while the last piece is
/// on the wire.
#[derive(Debug)]
pub(super) struct FileChunks<F> {
    file: Arc<F>,
    next_offset: u64,
    end: u64,
    ahead: Option<JoinHandle<io::Result<Bytes>>>,
}

impl<F: Borrow<File> + Send + Sync + 'static> FileChunks<F> {
    /// The half-open range `start..end`.
    pub(super) fn new(file: Arc<F>, start: u64, end: u64) -> Self {
        Self {
            file,
            next_offset: start,
            end,
            ahead: None,
        }
    }

    fn read_ahead(&mut self) {
        let bytes = (self.end.saturating_sub(self.next_offset)).min(CHUNK_BYTES);
        if bytes == 0 {
            return;
        }
        let (file, offset) = (Arc::clone(&self.file), self.next_offset);
        self.next_offset += bytes;
        self.ahead = Some(tokio::task::spawn_blocking(move || {
            read_chunk((*file).borrow(), offset, bytes)
        }));
    }
}

impl<F: Borrow<File> + Send + Sync + 'static> Stream for FileChunks<F> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ahead.is_none() {
            self.read_ahead();
        }
        let Some(ahead) = &mut self.ahead else {
            return Poll::Ready(None);
        };
        let chunk = ready!(Pin::new(ahead).poll(cx)).unwrap_or_else(|lost| {
            // The runtime is shutting down, or the read panicked.
            Err(io::Error::other(lost))
        });
        self.ahead = None;
        match &chunk {
            Ok(_) => self.read_ahead(),
            Err(_) => self.next_offset = self.end,
        }
        Poll::Ready(Some(chunk))
    }
}

/// A spooled body as an HTTP body of exactly known length, so that `Content-Length` is sent and
/// nothing is wrapped into chunks. It can be sent once: nothing can rewind it for a retry.
#[derive(Debug)]
pub(super) struct OutgoingBody {
    source: Source,
    remaining: u64,
}

#[derive(Debug)]
enum Source {
    Memory {
        chunks: Arc<[Bytes]>,
        next: usize,
        /// The bytes count against the budget until the last has been sent.
        _permit: Option<Arc<OwnedSemaphorePermit>>,
    },
    File(FileChunks<SpoolFile>),
}

impl OutgoingBody {
    /// From the first byte.
    pub(super) fn new(body: &SpooledBody) -> Self {
        let remaining = body.len();
        let source = match body {
            SpooledBody::Memory { chunks, permit, .. } => Source::Memory {
                chunks: Arc::clone(chunks),
                next: 0,
                _permit: Some(Arc::clone(permit)),
            },
            SpooledBody::File { file, .. } => {
                Source::File(FileChunks::new(Arc::clone(file), 0, remaining))
            }
            SpooledBody::Original(recognised) => {
                Source::File(FileChunks::new(Arc::clone(recognised.file()), 0, remaining))
            }
        };
        Self { source, remaining }
    }

    /// Of a few bytes of Hapax's own.
    pub(super) fn from_bytes(bytes: Bytes) -> Self {
        Self {
            remaining: bytes.len() as u64,
            source: Source::Memory {
                chunks: Arc::new([bytes]),
                next: 0,
                _permit: None,
            },
        }
    }

    /// Bytes still to be sent.
    pub(super) fn len(&self) -> u64 {
        self.remaining
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let chunk = match &mut this.source {
            Source::Memory { chunks, next, .. } => {
                let chunk = chunks.get(*next).cloned();
                *next += 1;
                chunk.map(Ok)
            }
            Source::File(chunks) => ready!(Pin::new(chunks).poll_next(cx)),
        };
        Poll::Ready(chunk.map(|chunk| {
            let chunk = chunk?;
            this.remaining = this.remaining.saturating_sub(chunk.len() as u64);
            Ok(Frame::data(chunk))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures::StreamExt;

    use super::*;

    fn file_of(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("written");
        Arc::new(file)
    }

    #[tokio::test]
    async fn a_range_comes_whole_and_in_order() {
        let bytes: Vec<u8> = (0..3 * CHUNK_BYTES + 17).map(|i| (i % 251) as u8).collect();
        for (start, end) in [(0, bytes.len()), (5, 5), (7, 8), (100, 3 * 256 * 1024)] {
            let chunks = FileChunks::new(file_of(&bytes), start as u64, end as u64);
            let read: Vec<Bytes> = chunks.map(|chunk| chunk.expect("readable")).collect().await;
            assert_eq!(read.concat(), bytes[start..end]);
        }
    }

    #[tokio::test]
    async fn a_file_shorter_than_it_should_be_is_an_error_and_the_end() {
        let mut chunks = FileChunks::new(file_of(b"short"), 0, 6);
        let error = chunks.next().await.expect("an item").expect_err("short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(chunks.next().await.is_none());
    }
}
