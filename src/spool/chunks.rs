//! Pieces of a body in memory, at a cost that stays near their length.

use bytes::{Bytes, BytesMut};

/// Pieces shorter than this are copied together. A piece of one byte would otherwise keep the whole
/// buffer that the socket was read into, and cost more to list than to hold.
const SMALL_CHUNK_BYTES: usize = 2 * 1024;
/// Where small pieces go.
const TAIL_BYTES: usize = 4 * 1024;

/// Pieces in order, none of them empty.
#[derive(Debug, Default)]
pub(super) struct ChunkList {
    sealed: Vec<Bytes>,
    tail: BytesMut,
}

impl ChunkList {
    pub(super) fn push(&mut self, chunk: Bytes) {
        if chunk.len() >= SMALL_CHUNK_BYTES {
            self.seal();
            self.sealed.push(chunk);
            return;
        }
        if self.tail.len() + chunk.len() > TAIL_BYTES {
            self.seal();
        }
        // It grows with what is in it: thousands of clients may be trickling single bytes.
        self.tail.extend_from_slice(&chunk);
    }

    pub(super) fn into_chunks(mut self) -> Vec<Bytes> {
        self.seal();
        self.sealed
    }

    /// Ends the tail: its buffer where it is well used, else a copy of the right size.
    fn seal(&mut self) {
        if self.tail.len() >= SMALL_CHUNK_BYTES {
            self.sealed.push(std::mem::take(&mut self.tail).freeze());
        } else if !self.tail.is_empty() {
            self.sealed.push(Bytes::copy_from_slice(&self.tail));
            self.tail.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_copies_small_pieces_together() {
        let mut list = ChunkList::default();
        let mut expected = Vec::new();
        for (index, length) in [1, 3000, 5, 7, 2047, 2048, 1]
            .into_iter()
            .cycle()
            .take(70)
            .enumerate()
        {
            let chunk = Bytes::from(vec![index as u8; length]);
            expected.extend_from_slice(&chunk);
            list.push(chunk);
        }
        assert_eq!(list.into_chunks().concat(), expected);
    }

    #[test]
    fn a_flood_of_single_bytes_is_a_few_pieces() {
        let mut list = ChunkList::default();
        for _ in 0..100_000 {
            list.push(Bytes::from_static(b"x"));
        }
        let chunks = list.into_chunks();
        assert_eq!(chunks.len(), 100_000_usize.div_ceil(TAIL_BYTES));
        assert_eq!(chunks.concat().len(), 100_000);
    }
}
