//! `multipart/form-data` (RFC 7578, RFC 2046), taken apart as it streams by.
//!
//! A parser of our own, without I/O: bytes in, events out, so that tests and fuzzers drive it
//! directly. It is stricter than the web framework's where leniency would lose bytes (a part's own
//! `Content-Length` is not believed: the delimiter alone ends a part), it passes file bytes on
//! without copying them, and it bounds everything that is not a file.

use actix_web::http::header::{ContentDisposition, HeaderValue};
use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

use super::filename::{self, InvalidFilename};

/// The longest boundary (RFC 2046, section 5.1.1).
const MAX_BOUNDARY_BYTES: usize = 70;
/// What a delimiter begins with, but for the one at the very beginning of a body.
const LINE_BREAK: &[u8] = b"\r\n";
/// The longest head of one part. A filename of the greatest length, percent-encoded, fits twice.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// All that is not a file: preamble, heads, text parts, epilogue. Room for thousands of parts.
const MAX_OVERHEAD_BYTES: usize = 1024 * 1024;

/// Why a multipart body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    /// It ended before its closing delimiter.
    #[error("the body ended before its closing boundary")]
    Incomplete,
    /// It breaks the grammar.
    #[error("{0}")]
    Malformed(&'static str),
    /// A part's filename cannot be kept.
    #[error("{}", .0.0)]
    InvalidFilename(InvalidFilename),
}

/// What a part's head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHead {
    /// The form field's name.
    pub name: String,
    /// Whether it is a file, and what the client calls it.
    pub filename: PartFilename,
}

/// A part's `filename` parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartFilename {
    /// None: a text field.
    Absent,
    /// `filename=""`: a browser's file field in which nothing was chosen.
    Empty,
    /// A file.
    Named(String),
}

/// A step of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartEvent {
    /// A part begins.
    Began(PartHead),
    /// Bytes of the part that began last; never empty.
    Data(Bytes),
    /// The part that began last is whole.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Preamble,
    AfterDelimiter,
    Head,
    Data,
    Epilogue { line_ended: bool },
}

/// Takes one body apart.
#[derive(Debug)]
pub struct MultipartParser {
    finder: memmem::Finder<'static>,
    buffer: Bytes,
    state: State,
    /// How far the head at the buffer's beginning was searched for its end: a head that comes byte by
    /// byte is not searched from its beginning each time.
    head_searched: usize,
    overhead_bytes: usize,
}

impl MultipartParser {
    /// A parser for the body that a `Content-Type` header announces.
    ///
    /// # Errors
    /// The header names no usable boundary.
    pub fn for_content_type(content_type: &str) -> Result<Self, MultipartError> {
        let boundary = boundary_of(content_type).ok_or(MultipartError::Malformed(
            "the content type has no boundary of 1 to 70 visible characters",
        ))?;
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        Ok(Self {
            finder: memmem::Finder::new(&delimiter).into_owned(),
            // The first delimiter may begin the body; this is the line break before it.
            buffer: Bytes::from_static(LINE_BREAK),
            state: State::Preamble,
            head_searched: 0,
            overhead_bytes: 0,
        })
    }

    /// Adds bytes. Call [`MultipartParser::next_event`] until it answers `None` before the next ones.
    pub fn feed(&mut self, bytes: Bytes) {
        if self.buffer.is_empty() {
            self.buffer = bytes;
            return;
        }
        if self.state == State::Preamble && self.begins_with_delimiter(&bytes) {
            // The usual body: its first piece, most of a small one, need not be copied.
            self.buffer = bytes;
            self.buffer
                .advance(self.finder.needle().len() - LINE_BREAK.len());
            self.state = State::AfterDelimiter;
            return;
        }
        // A joined buffer is ours alone and grows in place: a head in many small pieces is not copied
        // once per piece.
        let mut joined = std::mem::take(&mut self.buffer)
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        joined.extend_from_slice(&bytes);
        self.buffer = joined.freeze();
    }

    /// Whether these bytes complete the first delimiter, of which the line break is there.
    fn begins_with_delimiter(&self, bytes: &[u8]) -> bool {
        self.buffer == LINE_BREAK && bytes.starts_with(&self.finder.needle()[LINE_BREAK.len()..])
    }

    /// The next step, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// The body breaks the grammar or a bound; the parser is of no use any more.
    pub fn next_event(&mut self) -> Result<Option<PartEvent>, MultipartError> {
        loop {
            let state = self.state;
            let event = match state {
                State::Preamble => self.skip_preamble()?,
                State::AfterDelimiter => self.end_delimiter_line()?,
                State::Head => match self.read_head()? {
                    Some(head) => return Ok(Some(PartEvent::Began(head))),
                    None => false,
                },
                State::Data => return Ok(self.read_data()),
                State::Epilogue { line_ended } => self.skip_epilogue(line_ended)?,
            };
            if !event {
                return Ok(None);
            }
        }
    }

    /// Whether the body may end here.
    ///
    /// # Errors
    /// [`MultipartError::Incomplete`] before the closing delimiter.
    pub fn finish(&self) -> Result<(), MultipartError> {
        match self.state {
            State::Epilogue { .. } => Ok(()),
            _ => Err(MultipartError::Incomplete),
        }
    }

    /// Counts bytes that are no file's against the bound for them.
    ///
    /// # Errors
    /// The bound is passed.
    pub fn charge_overhead(&mut self, bytes: usize) -> Result<(), MultipartError> {
        self.overhead_bytes = self.overhead_bytes.saturating_add(bytes);
        if self.overhead_bytes > MAX_OVERHEAD_BYTES {
            return Err(MultipartError::Malformed(
                "more than 1 MiB of the body belongs to no file",
            ));
        }
        Ok(())
    }

    /// Each of the three skipping steps says whether the state moved on.
    fn skip_preamble(&mut self) -> Result<bool, MultipartError> {
        let found = self.finder.find(&self.buffer);
        let skipped = found.unwrap_or(self.buffer.len() - self.held_back());
        self.charge_overhead(skipped)?;
        self.buffer.advance(skipped);
        if found.is_some() {
            self.enter_delimiter()?;
        }
        Ok(found.is_some())
    }

    fn enter_delimiter(&mut self) -> Result<(), MultipartError> {
        let delimiter = self.finder.needle().len();
        self.buffer.advance(delimiter);
        self.state = State::AfterDelimiter;
        self.charge_overhead(delimiter)
    }

    fn end_delimiter_line(&mut self) -> Result<bool, MultipartError> {
        // Transport padding (RFC 2046) is allowed before the line's end.
        while matches!(self.buffer.first(), Some(b' ' | b'\t')) {
            self.buffer.advance(1);
            self.charge_overhead(1)?;
        }
        let Some(pair) = self.buffer.first_chunk::<2>() else {
            return Ok(false);
        };
        self.state = match pair {
            b"\r\n" => State::Head,
            b"--" => State::Epilogue { line_ended: false },
            _ => {
                return Err(MultipartError::Malformed(
                    "a line begins with the boundary but does not end after it",
                ));
            }
        };
        // A head keeps its leading line break: an empty head is then just "\r\n\r\n" like any other.
        if self.state != State::Head {
            self.buffer.advance(2);
        }
        Ok(true)
    }

    fn read_head(&mut self) -> Result<Option<PartHead>, MultipartError> {
        const END: &[u8] = b"\r\n\r\n";
        let from = self.head_searched;
        let found = memmem::find(&self.buffer[from..], END).map(|at| from + at);
        // Where the end is, or before where it cannot be: the bound is the same for every cut.
        let end = found.unwrap_or((self.buffer.len() + 1).saturating_sub(END.len()));
        if end > MAX_HEAD_BYTES {
            return Err(MultipartError::Malformed("a part's head is too long"));
        }
        self.head_searched = end;
        if found.is_none() {
            return Ok(None);
        }
        self.head_searched = 0;
        let head = self.buffer.split_to(end + 4);
        self.charge_overhead(head.len())?;
        self.state = State::Data;
        parse_head(&head[..end]).map(Some)
    }

    fn read_data(&mut self) -> Option<PartEvent> {
        match self.finder.find(&self.buffer) {
            Some(0) => {
                // The charge for a delimiter cannot matter here: the head after it is charged too.
                self.buffer.advance(self.finder.needle().len());
                self.state = State::AfterDelimiter;
                Some(PartEvent::Ended)
            }
            Some(at) => Some(PartEvent::Data(self.buffer.split_to(at))),
            None => {
                let ready = self.buffer.len() - self.held_back();
                (ready > 0).then(|| PartEvent::Data(self.buffer.split_to(ready)))
            }
        }
    }

    /// How many bytes at the buffer's end may be the beginning of a delimiter. A boundary holds no
    /// carriage return, so only the last one can begin it.
    fn held_back(&self) -> usize {
        let delimiter = self.finder.needle();
        let window = self.buffer.len().min(delimiter.len() - 1);
        let tail = &self.buffer[self.buffer.len() - window..];
        match memchr::memrchr(b'\r', tail) {
            Some(at) if delimiter.starts_with(&tail[at..]) => tail.len() - at,
            _ => 0,
        }
    }

    fn skip_epilogue(&mut self, line_ended: bool) -> Result<bool, MultipartError> {
        if line_ended {
            let rest = self.buffer.len();
            self.buffer.clear();
            self.charge_overhead(rest)?;
            return Ok(false);
        }
        while let Some(&byte) = self.buffer.first() {
            match byte {
                b' ' | b'\t' | b'\r' => {
                    self.buffer.advance(1);
                    self.charge_overhead(1)?;
                }
                b'\n' => {
                    self.state = State::Epilogue { line_ended: true };
                    return Ok(true);
                }
                _ => {
                    return Err(MultipartError::Malformed(
                        "the closing boundary does not end its line",
                    ));
                }
            }
        }
        Ok(false)
    }
}

/// The `boundary` parameter, read leniently: `=` and other characters occur unquoted in the wild.
fn boundary_of(content_type: &str) -> Option<String> {
    let value = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.trim_end()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim())
    })?;
    let value = value
        .strip_prefix('"')
        .map_or(Some(value), |quoted| quoted.strip_suffix('"'))?;
    let fits = (1..=MAX_BOUNDARY_BYTES).contains(&value.len())
        && value
            .bytes()
            .all(|c| (0x20..0x7f).contains(&c) && c != b'"')
        && !value.ends_with(' ');
    fits.then(|| value.to_owned())
}

fn parse_head(head: &[u8]) -> Result<PartHead, MultipartError> {
    use MultipartError::Malformed;

    let head = std::str::from_utf8(head).map_err(|_| Malformed("a part's head is not UTF-8"))?;
    let mut disposition = None;
    for line in head.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line
            .split_once(':')
            .ok_or(Malformed("a line of a part's head has no colon"))?;
        let value = value.trim_matches([' ', '\t']);
        if name.eq_ignore_ascii_case("content-disposition") {
            if disposition.replace(value).is_some() {
                return Err(Malformed("a part has two Content-Disposition headers"));
            }
        } else if name.eq_ignore_ascii_case("content-type") {
            if starts_with_ignoring_case(value, "multipart/") {
                return Err(Malformed("a part is a multipart body itself"));
            }
        } else if name.eq_ignore_ascii_case("content-transfer-encoding")
            && !["7bit", "8bit", "binary"].contains(&value.to_ascii_lowercase().as_str())
        {
            // RFC 7578, section 4.7: not to be sent. Kept undecoded it would be another file.
            return Err(Malformed("a part is encoded for transfer"));
        }
    }
    part_head(disposition.ok_or(Malformed("a part has no Content-Disposition header"))?)
}

fn part_head(disposition: &str) -> Result<PartHead, MultipartError> {
    use MultipartError::Malformed;

    let disposition = HeaderValue::from_bytes(disposition.as_bytes())
        .ok()
        .and_then(|value| ContentDisposition::from_raw(&value).ok())
        .filter(ContentDisposition::is_form_data)
        .ok_or(Malformed("a part's Content-Disposition cannot be read"))?;
    let name = disposition
        .get_name()
        .ok_or(Malformed("a part has no name"))?
        .to_owned();
    let filename = match filename::from_disposition(&disposition) {
        None => PartFilename::Absent,
        Some(raw) if raw.is_empty() => PartFilename::Empty,
        Some(raw) => {
            PartFilename::Named(filename::keep(&raw).map_err(MultipartError::InvalidFilename)?)
        }
    };
    Ok(PartHead { name, filename })
}

fn starts_with_ignoring_case(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
#[path = "multipart_tests.rs"]
mod tests;
