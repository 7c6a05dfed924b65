//! A reader for header parsers that bounds what a hostile file can make them do.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use crate::spool::{SpooledBody, seek_target};

/// What is fetched at once.
const PAGE_BYTES: usize = 4 * 1024;
/// Fetches: 1 MiB, or a JPEG with 256 full segments (16 MiB of metadata) before its size.
const MAX_PAGES: u32 = 256;
/// What a parser may consume, whatever it seeks over: 16 000 JPEG segments or 5000 TIFF tags. Parsers
/// read byte by byte, so this also keeps the work below about half a millisecond.
const MAX_CONSUMED_BYTES: usize = 64 * 1024;

/// Reads a body by pages. Past the limits every read fails, which ends the parser.
#[derive(Debug)]
pub(super) struct HeaderReader<'a> {
    body: &'a SpooledBody,
    position: u64,
    page: [u8; PAGE_BYTES],
    page_start: u64,
    page_length: usize,
    pages_left: u32,
    bytes_left: usize,
}

impl<'a> HeaderReader<'a> {
    pub(super) fn new(body: &'a SpooledBody) -> Self {
        Self {
            body,
            position: 0,
            page: [0; PAGE_BYTES],
            page_start: 0,
            page_length: 0,
            pages_left: MAX_PAGES,
            bytes_left: MAX_CONSUMED_BYTES,
        }
    }

    /// Where in the page the position is, if it is in it.
    fn offset_in_page(&self) -> Option<usize> {
        let offset = usize::try_from(self.position.checked_sub(self.page_start)?).ok()?;
        (offset < self.page_length).then_some(offset)
    }
}

fn limit_reached() -> io::Error {
    io::Error::other("the header is larger than what is looked at")
}

impl BufRead for HeaderReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes_left == 0 {
            return Err(limit_reached());
        }
        let offset = match self.offset_in_page() {
            Some(offset) => offset,
            None => {
                self.pages_left = self.pages_left.checked_sub(1).ok_or_else(limit_reached)?;
                self.page_length = 0;
                self.page_length = self.body.read_at(self.position, &mut self.page)?;
                self.page_start = self.position;
                0
            }
        };
        let end = self.page_length.min(offset.saturating_add(self.bytes_left));
        Ok(&self.page[offset..end])
    }

    fn consume(&mut self, count: usize) {
        self.position = self.position.saturating_add(count as u64);
        self.bytes_left = self.bytes_left.saturating_sub(count);
    }
}

impl Read for HeaderReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl Seek for HeaderReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = seek_target(self.position, self.body.len(), to)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_wherever_it_is_asked() {
        let bytes: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
        let body = SpooledBody::from_bytes(bytes.clone());
        let mut reader = HeaderReader::new(&body);
        for start in [0, 4095, 4096, 19_990, 3, 12_000] {
            reader.seek(SeekFrom::Start(start)).expect("in range");
            let mut got = [0; 10];
            reader.read_exact(&mut got).expect("there");
            assert_eq!(got, bytes[start as usize..][..10]);
        }
        reader.seek(SeekFrom::End(-2)).expect("in range");
        assert_eq!(reader.read(&mut [0; 10]).expect("there"), 2);
        assert_eq!(reader.read(&mut [0; 10]).expect("the end"), 0);
        assert!(reader.seek(SeekFrom::Start(3)).is_ok());
        assert!(reader.seek(SeekFrom::Current(-4)).is_err());
    }

    #[test]
    fn ends_parsers_that_read_or_jump_without_end() {
        let body = SpooledBody::from_bytes(vec![0; 4 << 20]);
        let mut reader = HeaderReader::new(&body);
        let mut all = Vec::new();
        assert!(reader.read_to_end(&mut all).is_err());
        assert_eq!(all.len(), MAX_CONSUMED_BYTES);

        let mut reader = HeaderReader::new(&body);
        let jumps = (0..1000)
            .take_while(|jump| {
                reader.seek(SeekFrom::Start(jump * 4096)).expect("in range");
                reader.read_exact(&mut [0]).is_ok()
            })
            .count();
        assert_eq!(jumps, MAX_PAGES as usize);
    }
}
