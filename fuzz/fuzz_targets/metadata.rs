//! Metadata: an object of bounded length that a database can hold and that reads back the same.
#![no_main]

use hapax::fuzzing::{MAX_METADATA_BYTES, metadata};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(value) = metadata(input) else {
        return;
    };
    assert!(value.is_object());
    let text = value.to_string();
    assert!(text.len() <= MAX_METADATA_BYTES && !text.contains("\\u0000"));
    assert_eq!(metadata(text.as_bytes()).as_ref(), Ok(&value), "{text}");
});
