//! Contents by number: the same number, the same bytes. A few are hot, many are new.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use crate::servers::MEMORY_THRESHOLD_BYTES;

/// Contents that everybody uploads and deletes all the time: their counts hover around zero.
const HOT: u64 = 6;
/// How many of the newest other contents are remembered, to be uploaded again.
const REMEMBERED: usize = 400;
const KIB: usize = 1024;

/// A file's bytes and what they hash to.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) bytes: Bytes,
    /// Hex of the SHA-256.
    pub(crate) hash: String,
}

/// Hands out contents.
#[derive(Debug)]
pub(crate) struct Contents {
    seed: u64,
    next: AtomicU64,
    known: Mutex<VecDeque<u64>>,
}

impl Contents {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            next: AtomicU64::new(HOT),
            known: Mutex::default(),
        }
    }

    /// A hot one, a new one, or one that was new a while ago.
    pub(crate) fn draw(&self, rng: &mut StdRng) -> Content {
        let number = match rng.random_range(0..100) {
            0..30 => rng.random_range(0..HOT),
            30..55 => {
                let known = self.known.lock().expect("nothing panics while holding it");
                match known.len() {
                    0 => 0,
                    count => known[rng.random_range(0..count)],
                }
            }
            _ => self.new_number(),
        };
        self.make(number)
    }

    fn new_number(&self) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut known = self.known.lock().expect("nothing panics while holding it");
        if known.len() == REMEMBERED {
            known.pop_front();
        }
        known.push_back(number);
        number
    }

    fn make(&self, number: u64) -> Content {
        let mut rng = StdRng::seed_from_u64(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let size = match rng.random_range(0..1000) {
            0..720 => rng.random_range(1..4 * KIB),
            720..960 => rng.random_range(4 * KIB..32 * KIB),
            960..992 => rng.random_range(MEMORY_THRESHOLD_BYTES + 1..4 * MEMORY_THRESHOLD_BYTES),
            _ => rng.random_range(512 * KIB..1536 * KIB),
        };
        let mut bytes = vec![0; size];
        rng.fill_bytes(&mut bytes);
        Content {
            hash: hash(&bytes),
            bytes: bytes.into(),
        }
    }
}

/// Hex of the SHA-256.
pub(crate) fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_content() {
        let contents = Contents::new(7);
        let (first, again) = (contents.make(3), contents.make(3));
        assert_eq!(first.bytes, again.bytes);
        assert_ne!(first.hash, contents.make(4).hash);
        assert_ne!(first.hash, Contents::new(8).make(3).hash);
    }

    #[test]
    fn hot_known_and_new_contents_come() {
        let contents = Contents::new(1);
        let mut rng = StdRng::seed_from_u64(1);
        let mut uses = std::collections::HashMap::new();
        for _ in 0..600 {
            *uses.entry(contents.draw(&mut rng).hash).or_insert(0) += 1;
        }
        assert!(uses.values().any(|count| *count > 15), "none is hot");
        assert!(uses.values().any(|count| *count == 2), "none is repeated");
        assert!(uses.values().filter(|count| **count == 1).count() > 100);
    }
}
