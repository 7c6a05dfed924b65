//! The names of loaded rows: what `services/bulk.rs` has the database make, made here.

/// When the first row was made: seconds since 1970. Each image is a second later.
const FIRST_SECOND: u64 = 1_700_000_000;
/// Spreads numbers evenly.
const SPREAD: u64 = 2_654_435_761;

/// A prime: steps of it meet every number before they meet one again.
const STRIDE: u64 = 1_000_003;

/// The id of the image, or of the original, with this number.
pub(crate) fn id(number: u64) -> String {
    let milliseconds = (FIRST_SECOND + number) * 1000;
    let random = (number * SPREAD) % (1 << 60);
    let hex = format!("{milliseconds:012x}7{:03x}8{random:015x}", number % 4096);
    let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &hex[part]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// The hash of the original with this number.
pub(crate) fn content_hash(number: u64) -> String {
    format!("{:08x}{number:056x}", (number * SPREAD) % (1 << 32))
}

/// Numbers of originals of the tenant `default`, each once, all over the table: the `index`th.
pub(crate) fn scattered(index: u64, originals: u64) -> u64 {
    let half = originals / 2;
    2 * ((index * STRIDE) % half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_the_database_makes_them() {
        assert_eq!(id(0), "018bcfe5-6800-7000-8000-000000000000");
        assert_eq!(content_hash(1), format!("9e3779b1{:056x}", 1));
    }

    #[test]
    fn scattered_numbers_are_different() {
        let mut numbers: Vec<u64> = (0..500).map(|index| scattered(index, 2000)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 500);
    }
}
