//! List queries and cursors: a cursor is one that this server writes, letter for letter.
#![no_main]

use hapax::fuzzing::{MAX_ITEMS, cursor_again, listing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    if let Some(again) = cursor_again(input) {
        assert_eq!(again, input);
        assert_eq!(listing(&format!("cursor={input}")), Ok((50, true)));
    }
    if let Ok((limit, _)) = listing(input) {
        assert!((1..=MAX_ITEMS as u64).contains(&limit));
    }
});
