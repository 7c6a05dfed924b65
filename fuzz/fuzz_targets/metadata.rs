//! Metadata: an object of bounded length that a database can hold and that reads back the same.
#![no_main]

use hapax::fuzzing::{MAX_METADATA_BYTES, metadata};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let Ok(value) = metadata(input) else {
        return;
    };
    assert!(value.is_object());
    assert!(!has_nul(&value));
    let text = value.to_string();
    assert!(text.len() <= MAX_METADATA_BYTES);
    assert_eq!(metadata(text.as_bytes()).as_ref(), Ok(&value), "{text}");
});

/// In the strings themselves: their JSON may well have a backslash before `u0000`.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
