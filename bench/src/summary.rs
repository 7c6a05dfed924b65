//! From rounds to medians and ratios.

use serde::Serialize;

use crate::contender::Contender;
use crate::measure::{Line, Measured, Round};

/// A median with the least and the greatest of its values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` where there are no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Self { median, min, max })
    }
}

/// One figure of a round.
pub(crate) type Figure = fn(&Round) -> f64;

/// Units of work a second.
pub(crate) const THROUGHPUT: Figure = |round| round.throughput;
/// CPU seconds of the server for 1000 requests.
pub(crate) const CPU: Figure = |round| round.cpu_s_per_1000;

impl Measured {
    /// A figure over all rounds.
    pub(crate) fn spread(&self, figure: Figure) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(figure))
    }

    /// The median of a figure that only some servers have.
    pub(crate) fn optional(&self, figure: fn(&Round) -> Option<f64>) -> Option<f64> {
        Spread::of(self.rounds.iter().filter_map(figure)).map(|spread| spread.median)
    }

    /// Errors of all rounds.
    pub(crate) fn errors(&self) -> u64 {
        self.rounds.iter().map(|round| round.errors).sum()
    }
}

impl Line {
    /// One server's rounds.
    pub(crate) fn of(&self, contender: Contender) -> Option<&Measured> {
        self.measured
            .iter()
            .find(|measured| measured.contender == contender)
    }

    /// A figure of Hapax divided by a baseline's, round by round.
    pub(crate) fn ratio(&self, baseline: Contender, figure: Figure) -> Option<Spread> {
        let (hapax, baseline) = (self.of(Contender::Hapax)?, self.of(baseline)?);
        let rounds = hapax.rounds.iter().zip(&baseline.rounds);
        Spread::of(rounds.map(|(ours, theirs)| figure(ours) / figure(theirs)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_value() {
        let spread = Spread::of([3.0, 1.0, 2.0, f64::NAN]).expect("values");
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([1.0, 2.0]).expect("values").median, 1.5);
        assert_eq!(Spread::of([]), None);
    }
}
