//! The smaller request headers: bounded, one of each, and what is taken is what was sent.
#![no_main]

use hapax::fuzzing::{bearer, content_length, headers, idempotency_key, media_type};
use hapax_fuzz::named_lines;
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 4] = [
    "authorization",
    "idempotency-key",
    "content-type",
    "content-length",
];

fuzz_target!(|input: &[u8]| {
    let lines = named_lines(input, &NAMES);
    let map = headers(lines.iter().copied());
    let sent = |name: &str| map.get_all(name).count();
    if let Some(secret) = bearer(&map) {
        assert_eq!(sent("authorization"), 1);
        assert!(!secret.is_empty() && secret.trim() == secret);
    }
    match idempotency_key(&map) {
        Ok(Some(key)) => {
            assert_eq!(sent("idempotency-key"), 1);
            assert!((1..=255).contains(&key.len()));
            assert!(key.bytes().all(|byte| byte.is_ascii_graphic()));
        }
        Ok(None) => assert_eq!(sent("idempotency-key"), 0),
        Err(_) => assert!(sent("idempotency-key") > 0),
    }
    let media_type = media_type(&map);
    assert_eq!(media_type, media_type.to_ascii_lowercase());
    assert!(!media_type.contains(';'));
    if let Some(length) = content_length(&map) {
        let text = map.get("content-length").expect("it was read").to_str();
        let text = text.expect("it was a number").trim();
        assert_eq!(text.trim_start_matches('+').parse(), Ok(length));
    }
});
