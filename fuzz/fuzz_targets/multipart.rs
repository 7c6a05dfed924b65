//! Multipart bodies: how they were cut into pieces on the way makes no difference, every byte of a file
//! was in the body, and what the parser holds is bounded.
//! Input: a line that cuts, a line with the boundary, then the body.
#![no_main]

use bytes::Bytes;
use hapax::fuzzing::{MultipartError, MultipartParser, PartEvent, PartFilename};
use hapax_fuzz::{first_line, pieces};
use libfuzzer_sys::fuzz_target;

type Part = (String, PartFilename, Vec<u8>, bool);

/// Name, filename, bytes and whether it ended, of each part; and how the body ended.
fn parse(mut parser: MultipartParser, body: Vec<Bytes>) -> (Vec<Part>, Result<(), MultipartError>) {
    let mut parts: Vec<Part> = Vec::new();
    for piece in body {
        parser.feed(piece);
        loop {
            match parser.next_event() {
                Ok(None) => break,
                Ok(Some(PartEvent::Began(head))) => {
                    assert!(parts.last().is_none_or(|part| part.3), "within a part");
                    if let PartFilename::Named(name) = &head.filename {
                        assert!(!name.is_empty());
                    }
                    parts.push((head.name, head.filename, Vec::new(), false));
                }
                Ok(Some(PartEvent::Data(bytes))) => {
                    let part = parts.last_mut().expect("no part began");
                    assert!(!bytes.is_empty() && !part.3);
                    part.2.extend_from_slice(&bytes);
                }
                Ok(Some(PartEvent::Ended)) => {
                    let part = parts.last_mut().expect("no part began");
                    assert!(!std::mem::replace(&mut part.3, true), "ended twice");
                }
                Err(error) => return (parts, Err(error)),
            }
        }
    }
    let end = parser.finish();
    (parts, end)
}

fuzz_target!(|input: &[u8]| {
    let (cuts, rest) = first_line(input);
    let (boundary, body) = first_line(rest);
    let Ok(boundary) = std::str::from_utf8(boundary) else {
        return;
    };
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let parser = || MultipartParser::for_content_type(&content_type);
    let Ok(first) = parser() else {
        return;
    };
    let (whole, end) = parse(first, vec![Bytes::copy_from_slice(body)]);
    for cuts in [cuts, &[0][..], &[1][..]] {
        let parser = parser().expect("it was made before");
        assert_eq!(parse(parser, pieces(body, cuts)), (whole.clone(), end));
    }
    if end.is_ok() {
        assert!(whole.iter().all(|part| part.3), "a part without an end");
    }
    let bytes: usize = whole.iter().map(|part| part.2.len()).sum();
    assert!(bytes <= body.len());
});
