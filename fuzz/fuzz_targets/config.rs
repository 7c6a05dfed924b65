//! The configuration: whatever a file and an environment say, it is a whole one that reads back the
//! same, or a refusal of bounded length. Input: the file, a line `---`, then `NAME=value` lines.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use hapax::fuzzing::{configuration, format_bytes, parse_bytes};
use libfuzzer_sys::fuzz_target;

fn split(input: &[u8]) -> (&[u8], &[u8]) {
    const SEPARATOR: &[u8] = b"\n---\n";
    let at = input
        .windows(SEPARATOR.len())
        .position(|window| window == SEPARATOR);
    match at {
        Some(at) => (&input[..at], &input[at + SEPARATOR.len()..]),
        None => (input, &[]),
    }
}

fn variables(lines: &[u8]) -> Vec<(OsString, OsString)> {
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b'=')?;
            Some((text(&line[..at]), text(&line[at + 1..])))
        })
        .collect()
}

fuzz_target!(|input: &[u8]| {
    let (file, environment) = split(input);
    if let Ok(text) = std::str::from_utf8(file)
        && let Some(bytes) = parse_bytes(text)
    {
        assert_eq!(parse_bytes(&format_bytes(bytes)), Some(bytes));
    }
    let file = std::str::from_utf8(file).ok();
    match configuration(file, variables(environment)) {
        Ok(config) => {
            let written = serde_json::to_value(&config).expect("plain values");
            let read = serde_json::from_value(written).expect("as it was written");
            assert_eq!(config, read);
            // Debug goes to logs: it must not fail, either.
            assert!(!format!("{config:?}").is_empty());
        }
        // A key is shown with the keys above it, so a deep one weighs as often as it is deep.
        Err(refusal) => {
            assert!(!refusal.is_empty());
            assert!(refusal.len() <= 4096 + 2048 * input.len());
        }
    }
});
