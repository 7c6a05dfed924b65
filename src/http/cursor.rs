//! List cursors: opaque to clients, versioned, and refused when this server did not make them.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike};
use entity::ImageId;
use uuid::Uuid;

use crate::service::ListCursor;

/// Version, seconds, nanoseconds, id.
const LENGTH: usize = 1 + 8 + 4 + 16;
/// The first byte; another layout gets another number.
const VERSION: u8 = 1;

/// The cursor as text.
pub fn encode(cursor: &ListCursor) -> String {
    let mut bytes = Vec::with_capacity(LENGTH);
    bytes.push(VERSION);
    bytes.extend_from_slice(&cursor.created_at.timestamp().to_be_bytes());
    // Whole nanoseconds: a database may keep more than microseconds, and a page must neither repeat
    // nor skip an image of the same moment.
    bytes.extend_from_slice(&cursor.created_at.timestamp_subsec_nanos().to_be_bytes());
    bytes.extend_from_slice(cursor.id.0.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The cursor in a text; `None` for every text that [`encode`] does not make.
pub fn decode(text: &str) -> Option<ListCursor> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let bytes: [u8; LENGTH] = bytes.try_into().ok()?;
    let (version, rest) = bytes.split_first()?;
    let (seconds, rest) = rest.split_first_chunk()?;
    let (nanoseconds, id) = rest.split_first_chunk()?;
    let created_at = DateTime::from_timestamp(
        i64::from_be_bytes(*seconds),
        u32::from_be_bytes(*nanoseconds),
    )?;
    // Databases store fewer years than the type holds; a forged cursor must not become their error.
    let stored_years = 1..=9999;
    (*version == VERSION && stored_years.contains(&created_at.year())).then_some(ListCursor {
        created_at,
        id: ImageId(Uuid::from_slice(id).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ListCursor {
        ListCursor {
            created_at: DateTime::from_timestamp(1_700_000_000, 123_456_789).expect("a time"),
            id: ImageId(Uuid::from_u128(0x0123_4567_89ab_cdef)),
        }
    }

    #[test]
    fn decodes_what_it_encodes() {
        assert_eq!(decode(&encode(&sample())), Some(sample()));
    }

    #[test]
    fn refuses_everything_else() {
        let good = encode(&sample());
        let with_byte = |at: usize, value: u8| {
            let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(&good).expect("base64");
            bytes[at] = value;
            BASE64_URL_SAFE_NO_PAD.encode(bytes)
        };
        for bad in [
            String::new(),
            "abc".to_owned(),
            format!("{good}A"),
            format!("{good}="),
            good[1..].to_owned(),
            good.replace(|c: char| c.is_ascii_lowercase(), "+"),
            with_byte(0, 2),
            with_byte(1, 0x7f),
            with_byte(1, 0x80),
            with_byte(9, 0xff),
        ] {
            assert_eq!(decode(&bad), None, "{bad}");
        }
    }
}
