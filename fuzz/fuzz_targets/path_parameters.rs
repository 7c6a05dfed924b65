//! Ids and hashes in paths: one address for one thing.
#![no_main]

use hapax::fuzzing::{content_hash, image_id};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    if let Some(id) = image_id(input) {
        assert_eq!(id, input.to_ascii_lowercase());
    }
    if let Some(hash) = content_hash(input) {
        assert_eq!(hash, input);
    }
});
