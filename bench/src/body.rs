//! What is uploaded: bytes that look like a JPEG from outside, in a form or bare, ready to be sent.
//!
//! A body is built once. To make it new content, a stamp inside the picture's comment segment is
//! overwritten: the load generator spends no time on making bytes.

use std::sync::Arc;

/// Between the parts of every form.
pub(crate) const BOUNDARY: &str = "----hapax-bench-5f1c0a7e";
/// A body up to this is one buffer; what is longer repeats one block.
const CONTIGUOUS_BYTES: u64 = 16 * 1024 * 1024;
/// What a long body repeats.
const BLOCK_BYTES: usize = 1024 * 1024;

/// The bytes of one request's body, and where its stamp is.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    /// All of a short body; of a long one, up to the end of the picture's header.
    first: Vec<u8>,
    block: Arc<[u8]>,
    /// How many bytes of repeated blocks follow `first`.
    repeated: u64,
    tail: Vec<u8>,
    stamps: Vec<usize>,
}

impl Body {
    /// A form with `files` file parts of `file_bytes` each.
    pub(crate) fn form(file_bytes: u64, files: usize) -> Self {
        let mut body = Self::empty();
        for file in 0..files {
            let head = format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; \
                 filename=\"photo-{file}.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n"
            );
            body.first.extend_from_slice(head.as_bytes());
            body.append_picture(file_bytes);
            let end: &[u8] = b"\r\n";
            match body.repeated {
                0 => body.first.extend_from_slice(end),
                _ => body.tail.extend_from_slice(end),
            }
        }
        let end = format!("--{BOUNDARY}--\r\n");
        match body.repeated {
            0 => body.first.extend_from_slice(end.as_bytes()),
            _ => body.tail.extend_from_slice(end.as_bytes()),
        }
        body
    }

    /// The picture and nothing else.
    pub(crate) fn bare(file_bytes: u64) -> Self {
        let mut body = Self::empty();
        body.append_picture(file_bytes);
        body
    }

    fn empty() -> Self {
        Self {
            first: Vec::new(),
            block: Arc::from(noise(BLOCK_BYTES, 1)),
            repeated: 0,
            tail: Vec::new(),
            stamps: Vec::new(),
        }
    }

    /// Start of image, JFIF header, a comment that holds the stamp, a frame header with the pixel
    /// size, a scan header, then noise, then the end of image.
    fn append_picture(&mut self, bytes: u64) {
        let begin = self.first.len();
        self.first
            .extend_from_slice(&[0xff, 0xd8, 0xff, 0xe0, 0, 16]);
        self.first
            .extend_from_slice(b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
        self.first.extend_from_slice(&[0xff, 0xfe, 0, 18]);
        self.stamps.push(self.first.len());
        self.first.extend_from_slice(&[0; 16]);
        self.first
            .extend_from_slice(&[0xff, 0xc0, 0, 11, 8, 1, 0xe0, 2, 0x80, 1, 1, 0x11, 0]);
        self.first
            .extend_from_slice(&[0xff, 0xda, 0, 8, 1, 1, 0, 0, 0x3f, 0]);
        let header = (self.first.len() - begin) as u64;
        let rest = bytes.saturating_sub(header + 2);
        if bytes > CONTIGUOUS_BYTES {
            self.repeated = rest;
            self.tail.extend_from_slice(&[0xff, 0xd9]);
        } else {
            let seed = self.stamps.len() as u64;
            self.first.extend(noise(rest as usize, seed));
            self.first.extend_from_slice(&[0xff, 0xd9]);
        }
    }

    /// Makes the bytes those of content `number`, below 2^96; each file of a form differs from the
    /// others.
    pub(crate) fn stamp(&mut self, number: u128) {
        for (file, at) in self.stamps.iter().enumerate() {
            let value = number.wrapping_add((file as u128) << 96);
            self.first[*at..*at + 16].copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.first.len() as u64 + self.repeated + self.tail.len() as u64
    }

    /// The pieces in order; none is longer than one block but the first.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (whole, rest) = (
            self.repeated / BLOCK_BYTES as u64,
            self.repeated % BLOCK_BYTES as u64,
        );
        std::iter::once(&self.first[..])
            .chain((0..whole).map(|_| &self.block[..]))
            .chain([&self.block[..rest as usize], &self.tail[..]])
            .filter(|piece| !piece.is_empty())
    }
}

/// Bytes that no compressor or deduplicating disk can shorten, the same at every call (xorshift).
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed | 1);
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // A JPEG's entropy-coded data has no bare 0xff.
        noise.extend_from_slice(&(state & 0x7f7f_7f7f_7f7f_7f7f).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &Body) -> Vec<u8> {
        body.pieces().flatten().copied().collect()
    }

    #[test]
    fn a_picture_has_exactly_its_length_and_a_size_in_pixels() {
        for bytes in [4096, 100 * 1024, CONTIGUOUS_BYTES + 12345] {
            let body = Body::bare(bytes);
            assert_eq!(body.len(), bytes);
            let bytes_of_it = whole(&body);
            assert_eq!(bytes_of_it.len() as u64, bytes);
            assert_eq!(
                hapax::sniff::media_type(&bytes_of_it[..4096]),
                Some("image/jpeg")
            );
        }
    }

    #[test]
    fn a_stamp_makes_every_file_of_a_form_new() {
        let mut body = Body::form(4096, 3);
        let before = whole(&body);
        body.stamp(7);
        let after = whole(&body);
        assert_eq!(before.len(), after.len());
        let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert!(changed >= 3, "{changed}");
    }
}
