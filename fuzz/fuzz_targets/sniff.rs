//! Types and pixel sizes: bounded work, sane answers, and never more than a guess. A parser of another
//! crate may panic inside: the product takes that for "unknown", and so does this target.
#![no_main]

use bytes::Bytes;
use hapax::fuzzing::{HEAD_BYTES, sniffed, sniffed_media_type};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        // The fuzzer's own hook ends the process at every panic, caught or not.
        std::panic::set_hook(Box::new(|_| {}));
    },
    |input: &[u8]| {
        let head = &input[..input.len().min(HEAD_BYTES)];
        let by_head = sniffed_media_type(head);
        let seen = sniffed(Bytes::copy_from_slice(input));
        if by_head.is_some() {
            assert_eq!(seen.mime_type, by_head);
        } else {
            assert!(matches!(seen.mime_type, None | Some("image/x-tga")));
        }
        if let Some(mime_type) = seen.mime_type {
            let (kind, name) = mime_type.split_once('/').expect("a kind and a name");
            assert!(!kind.is_empty() && !name.is_empty() && mime_type.is_ascii());
        }
        if let Some((width, height)) = seen.dimensions {
            let pixels = 1..=i32::MAX as u32;
            assert!(pixels.contains(&width) && pixels.contains(&height));
            let mime_type = seen.mime_type.expect("only a known type has a size");
            assert!(mime_type.starts_with("image/") && mime_type != "image/svg+xml");
        }
    }
);
