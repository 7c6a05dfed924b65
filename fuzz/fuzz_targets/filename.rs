//! Filenames: what is kept breaks no header, no path and no line, and comes back as it was kept.
#![no_main]

use hapax::fuzzing::{MAX_FILENAME_BYTES, disposition_filename, disposition_value, kept_filename};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // Once as a whole header, once as a name that came in a form.
    let from_header = disposition_filename(input);
    let from_text = std::str::from_utf8(input).ok().map(str::to_owned);
    for raw in from_header.into_iter().chain(from_text) {
        let Some(kept) = kept_filename(&raw) else {
            continue;
        };
        assert!((1..=MAX_FILENAME_BYTES).contains(&kept.len()));
        assert!(!kept.contains(['/', '\\']) && kept != "." && kept != "..");
        assert!(!kept.chars().any(char::is_control));
        assert_eq!(kept_filename(&kept).as_ref(), Some(&kept), "keeping twice");
        for inline in [true, false] {
            let value = disposition_value(inline, Some(&kept));
            assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            assert!(value.len() <= 64 + 4 * kept.len());
            assert_eq!(disposition_filename(value.as_bytes()).as_ref(), Some(&kept));
        }
    }
});
