//! Which objects `--deep` reads.

use std::fmt;
use std::str::FromStr;

use entity::OriginalId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{format_percent, parse_percent};

/// Parts in a whole: a share is counted in millionths.
const WHOLE: u32 = 1_000_000;

/// A share of all originals, more than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share(u32);

/// A share and where it begins. Each original has a place on a circle, by the hash of its
/// generation; a sample is an arc of it, and the next seed's arc begins where this one's ends. So one
/// seed always chooses the same originals, and 100 seeds in a row of 1 % each choose every original
/// once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// How many.
    pub share: Share,
    /// Which ones.
    pub seed: u64,
}

impl Share {
    /// Every original.
    pub const ALL: Self = Self(WHOLE);

    /// So many millionths; `None` for none at all.
    pub fn from_millionths(millionths: u32) -> Option<Self> {
        (1..=WHOLE)
            .contains(&millionths)
            .then_some(Self(millionths))
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_percent(text)
            .and_then(Self::from_millionths)
            .ok_or_else(|| "more than 0% and at most 100%, like 1% or 0.05%".to_owned())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_percent(self.0))
    }
}

impl Sample {
    /// Every original.
    pub const ALL: Self = Self {
        share: Share::ALL,
        seed: 0,
    };

    /// Whether the original is one of them.
    pub fn contains(&self, id: OriginalId) -> bool {
        if self.share == Share::ALL {
            return true;
        }
        // Ids need not be random, hashes of them are.
        let hash = Sha256::digest(id.0.as_bytes());
        let place = hash
            .iter()
            .take(8)
            .fold(0_u64, |place, byte| place << 8 | u64::from(*byte));
        place.wrapping_sub(self.seed.wrapping_mul(self.arc())) < self.arc()
    }

    /// Rounded up, so that arcs in a row leave no gap when they have gone round.
    fn arc(&self) -> u64 {
        let arc = (u128::from(self.share.0) << 64).div_ceil(u128::from(WHOLE));
        u64::try_from(arc).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn sample(share: &str, seed: u64) -> Sample {
        let share = share.parse().expect("a share");
        Sample { share, seed }
    }

    #[test]
    fn seeds_in_a_row_choose_every_original_once() {
        for number in 0..2000 {
            let id = OriginalId(Uuid::from_u128(number));
            let times = (0..100)
                .filter(|seed| sample("1%", *seed).contains(id))
                .count();
            assert!((1..=2).contains(&times), "{number}: {times}");
            let twice = (0..3)
                .filter(|seed| sample("40%", *seed).contains(id))
                .count();
            assert!((1..=2).contains(&twice), "{number}: {twice}");
            assert!(Sample::ALL.contains(id) && sample("100%", 77).contains(id));
        }
    }

    #[test]
    fn a_seed_always_chooses_the_same_and_about_as_many_as_asked() {
        let ids = |seed| {
            (0..20_000_u128)
                .filter(|number| sample("5%", seed).contains(OriginalId(Uuid::from_u128(*number))))
                .collect::<Vec<_>>()
        };
        let chosen = ids(7);
        assert_eq!(chosen, ids(7));
        assert!((900..1100).contains(&chosen.len()), "{}", chosen.len());
        let others = ids(8);
        assert!(!chosen.iter().any(|number| others.contains(number)));
    }

    #[test]
    fn shares_are_read_and_shown() {
        for text in ["0.01%", "1%", "12.5%", "100%"] {
            assert_eq!(
                text.parse::<Share>().map(|share| share.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in ["0%", "0", "1", "101%", "-1%", "", "%", "0.00001%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
