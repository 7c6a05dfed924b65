//! Ranges and preconditions: whatever is asked for, what is sent lies within the content.
//! Input: a line with the content's size, then header lines.
#![no_main]

use hapax::fuzzing::{headers, selection};
use hapax_fuzz::{first_line, named_lines};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 4] = ["range", "if-range", "if-match", "if-none-match"];
const ETAG: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fuzz_target!(|input: &[u8]| {
    let (size, rest) = first_line(input);
    let size = std::str::from_utf8(size)
        .ok()
        .and_then(|text| text.parse().ok());
    let size: u64 = size.unwrap_or(100);
    let lines = named_lines(rest, &NAMES);
    let map = headers(lines.iter().copied());
    let (status, range) = selection(&map, ETAG, size, true);
    let has = |name: &str| map.contains_key(name);
    match status {
        200 => {}
        206 => {
            let range = range.expect("a part has a range");
            assert!(range.start < range.end && range.end <= size);
            assert!(has("range"));
            // What RFC 9110 calls the same range is answered in the same way.
            let same = format!("bytes={}-{}", range.start, range.end - 1);
            let same = headers([("range", same.as_bytes())]);
            assert_eq!(selection(&same, ETAG, size, true), (206, Some(range)));
        }
        304 => assert!(has("if-none-match")),
        412 => assert!(has("if-match")),
        416 => assert!(has("range")),
        other => panic!("{other}"),
    }
    // HEAD: the same preconditions, no ranges.
    let (head, none) = selection(&map, ETAG, size, false);
    assert!(none.is_none() && matches!(head, 200 | 304 | 412));
    if matches!(status, 304 | 412) {
        assert_eq!(head, status);
    }
    // The client that has it already is never sent it again, whatever else it says of ranges.
    let tag = format!("\"{ETAG}\"");
    let more = [("if-none-match", tag.as_bytes())];
    let asked = headers(lines.iter().copied().chain(more));
    assert!(matches!(selection(&asked, ETAG, size, true).0, 304 | 412));
});
