//! Two ordered lists side by side: what the store listed, and what the database says should be there.

use std::cmp::Ordering;

use crate::ledger::verify::KeyedOriginal;
use crate::store::ListedBlob;
use entity::original_images::OriginalState;

/// How one key looks in both lists. Nothing here is a verdict: the lists are of two moments, and
/// every difference is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairing<'a> {
    /// A `stored` row and its object, of the right size.
    Matched(&'a KeyedOriginal),
    /// A `stored` row whose object has another size.
    WrongSize(&'a KeyedOriginal),
    /// A `stored` row without an object.
    RowAlone(&'a KeyedOriginal),
    /// An object without a row.
    ObjectAlone(&'a ListedBlob),
    /// A `pending` or `deleting` row: its object may be there or not.
    InTransit,
}

/// Pairs rows and objects. Both are ascending by key, and both are all there is in one and the same
/// range of keys.
pub(super) fn pair<'a>(
    blobs: &'a [ListedBlob],
    rows: &'a [KeyedOriginal],
) -> impl Iterator<Item = Pairing<'a>> {
    let mut blobs = blobs.iter().peekable();
    let mut rows = rows.iter().peekable();
    std::iter::from_fn(move || {
        let order = match (blobs.peek(), rows.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(blob), Some(row)) => blob.key.cmp(&row.s3_key),
        };
        match order {
            Ordering::Less => blobs.next().map(Pairing::ObjectAlone),
            Ordering::Greater => rows.next().map(|row| match row.state {
                OriginalState::Stored => Pairing::RowAlone(row),
                OriginalState::Pending | OriginalState::Deleting => Pairing::InTransit,
            }),
            Ordering::Equal => blobs.next().zip(rows.next()).map(|(blob, row)| {
                match (row.state, i64::try_from(blob.size) == Ok(row.file_size)) {
                    (OriginalState::Pending | OriginalState::Deleting, _) => Pairing::InTransit,
                    (OriginalState::Stored, true) => Pairing::Matched(row),
                    (OriginalState::Stored, false) => Pairing::WrongSize(row),
                }
            }),
        }
    })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use entity::{ContentDigest, OriginalId};

    use super::*;

    fn blob(key: &str, size: u64) -> ListedBlob {
        ListedBlob {
            key: key.to_owned(),
            size,
            modified_at: DateTime::UNIX_EPOCH,
        }
    }

    fn row(key: &str, state: OriginalState) -> KeyedOriginal {
        KeyedOriginal {
            id: OriginalId(uuid::Uuid::nil()),
            s3_key: key.to_owned(),
            state,
            content_hash: ContentDigest::from([0; 32]),
            file_size: 5,
            damaged_at: None,
        }
    }

    /// `+` matched, `#` wrong size, `r` row alone, `o` object alone, `.` in transit.
    fn drawn(blobs: &[ListedBlob], rows: &[KeyedOriginal]) -> String {
        pair(blobs, rows)
            .map(|pairing| match pairing {
                Pairing::Matched(_) => '+',
                Pairing::WrongSize(_) => '#',
                Pairing::RowAlone(_) => 'r',
                Pairing::ObjectAlone(_) => 'o',
                Pairing::InTransit => '.',
            })
            .collect()
    }

    #[test]
    fn every_key_of_either_side_is_seen_once_and_in_order() {
        use OriginalState::{Deleting, Pending, Stored};
        for (blobs, rows, expected) in [
            (vec![], vec![], ""),
            (vec![("a", 5)], vec![("a", Stored)], "+"),
            (vec![("a", 6)], vec![("a", Stored)], "#"),
            (vec![("a", 6)], vec![("a", Pending)], "."),
            (vec![("a", 6)], vec![("a", Deleting)], "."),
            (vec![], vec![("a", Pending), ("b", Deleting)], ".."),
            (vec![], vec![("a", Stored), ("b", Stored)], "rr"),
            (vec![("a", 5), ("b", 5)], vec![], "oo"),
            (vec![("a", 5), ("c", 5)], vec![("b", Stored)], "oro"),
            (
                vec![("b", 5)],
                vec![("a", Stored), ("b", Stored), ("c", Stored)],
                "r+r",
            ),
            // Byte order: upper case and `/` before lower case.
            (
                vec![("B", 5), ("a/b", 5), ("a0", 5)],
                vec![("a/b", Stored), ("a0", Stored)],
                "o++",
            ),
        ] {
            let blobs: Vec<_> = blobs.iter().map(|(key, size)| blob(key, *size)).collect();
            let rows: Vec<_> = rows.iter().map(|(key, state)| row(key, *state)).collect();
            assert_eq!(drawn(&blobs, &rows), expected, "{blobs:?} {rows:?}");
        }
    }
}
