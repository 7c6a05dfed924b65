//! `Repr-Digest` and `Content-Digest`: what is read is what was declared, and no second opinion passes.
#![no_main]

use hapax::fuzzing::{MalformedDigest, declared_digest, digest_value, headers};
use hapax_fuzz::named_lines;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let lines = named_lines(input, &["repr-digest", "content-digest"]);
    let map = headers(lines.iter().copied());
    let Ok(declared) = declared_digest(&map) else {
        return;
    };
    let with = |value: &str| {
        let more = [("content-digest", value.as_bytes())];
        declared_digest(&headers(lines.iter().copied().chain(more)))
    };
    // Other algorithms change nothing; a broken or differing sha-256 is always noticed.
    assert_eq!(with("sha-512=:AAAA:, md5=?1"), Ok(declared));
    assert_eq!(with("sha-256=:AAAA:"), Err(MalformedDigest));
    match declared {
        Some(digest) => {
            assert_eq!(with(&digest_value(digest)), Ok(Some(digest)));
            let mut other = digest;
            other[31] ^= 1;
            assert_eq!(with(&digest_value(other)), Err(MalformedDigest));
        }
        None => {
            let digest = [7; 32];
            assert_eq!(with(&digest_value(digest)), Ok(Some(digest)));
        }
    }
});
