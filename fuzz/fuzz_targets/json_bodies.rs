//! JSON bodies: lists within their bound, references to exactly one thing, and nothing unheard of.
#![no_main]

use hapax::fuzzing::{MAX_ITEMS, MAX_METADATA_BYTES, deletion_list, hash_list, reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(ids) = deletion_list(input) {
        assert!(ids <= MAX_ITEMS);
        assert!(hash_list(input).is_err(), "one body for two routes");
    }
    if let Ok(hashes) = hash_list(input) {
        assert!(hashes.len() <= MAX_ITEMS);
        let again = serde_json::json!({ "content_hashes": hashes }).to_string();
        assert_eq!(hash_list(again.as_bytes()), Ok(hashes));
    }
    if let Ok((by_hash, by_original, _, metadata)) = reference(input) {
        assert_ne!(by_hash, by_original);
        if let Some(metadata) = metadata {
            assert!(metadata.is_object() && metadata.to_string().len() <= MAX_METADATA_BYTES);
        }
    }
});
