//! Forms: what the service hears does not depend on how the body was cut, and `Complete` comes last,
//! once, and only for a form that is in order. Input: a line that cuts, then a body with boundary `X`.
#![no_main]

use bytes::Bytes;
use hapax::fuzzing::{MAX_METADATA_BYTES, MultipartParser, form_events};
use hapax::upload::BodyEvent;
use hapax_fuzz::{first_line, pieces};
use libfuzzer_sys::fuzz_target;

const MAX_FILES: usize = 3;

#[derive(Debug, PartialEq, Default)]
struct Heard {
    files: Vec<(Option<String>, Vec<u8>, bool)>,
    metadata: Vec<serde_json::Value>,
    complete: bool,
}

fn hear(body: Vec<Bytes>) -> (Heard, Result<(), String>) {
    let parser =
        MultipartParser::for_content_type("multipart/form-data; boundary=X").expect("a boundary");
    let (events, end) = form_events(parser, body, MAX_FILES);
    let mut heard = Heard::default();
    for event in events {
        assert!(!heard.complete, "something after the end");
        match event {
            BodyEvent::FileStarted { filename } => {
                assert!(heard.files.last().is_none_or(|file| file.2));
                heard.files.push((filename, Vec::new(), false));
            }
            BodyEvent::Chunk(bytes) => {
                let file = heard.files.last_mut().expect("a file began");
                assert!(!file.2 && !bytes.is_empty());
                file.1.extend_from_slice(&bytes);
            }
            BodyEvent::FileEnded => {
                let file = heard.files.last_mut().expect("a file began");
                assert!(!std::mem::replace(&mut file.2, true));
            }
            BodyEvent::Metadata(value) => {
                assert!(value.is_object() && value.to_string().len() <= MAX_METADATA_BYTES);
                heard.metadata.push(value);
            }
            BodyEvent::Complete => heard.complete = true,
            BodyEvent::Soon => {}
        }
    }
    assert!(heard.files.len() <= MAX_FILES && heard.metadata.len() <= 1);
    assert_eq!(heard.complete, end.is_ok());
    if heard.complete {
        assert!(!heard.files.is_empty() && heard.files.iter().all(|file| file.2));
    }
    (heard, end.map_err(|code| code.name().to_owned()))
}

fuzz_target!(|input: &[u8]| {
    let (cuts, body) = first_line(input);
    let whole = hear(vec![Bytes::copy_from_slice(body)]);
    for cuts in [cuts, &[0][..]] {
        let (heard, end) = hear(pieces(body, cuts));
        assert_eq!(end, whole.1);
        // A refusal may come before or after a part of the file at fault was passed on.
        if end.is_ok() {
            assert_eq!(heard, whole.0);
        }
    }
});
