//! Slower than the machine can, so that the server beside it keeps its share.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// So many units a second, over time. Work is done first and paid for after; nothing is saved up
/// while there is none.
#[derive(Debug)]
pub struct Pace {
    /// `None`: as fast as it goes.
    units_per_second: Option<u64>,
    /// When what was done until now is paid for.
    paid_until: Mutex<Instant>,
}

impl Pace {
    /// At most so many units a second; `None` or 0: no limit.
    pub fn new(units_per_second: Option<u64>) -> Self {
        Self {
            units_per_second: units_per_second.filter(|units| *units > 0),
            paid_until: Mutex::new(Instant::now()),
        }
    }

    /// How long this many units take.
    pub fn time_of(&self, units: u64) -> Duration {
        match self.units_per_second {
            None => Duration::ZERO,
            Some(rate) => {
                let nanoseconds = u128::from(units) * 1_000_000_000 / u128::from(rate);
                Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
            }
        }
    }

    /// Waits until work of this many units is paid for, or `stop` says that nobody wants it any more.
    pub async fn pay(&self, units: u64, stop: &CancellationToken) {
        if self.units_per_second.is_none() || units == 0 {
            return;
        }
        let due = {
            let mut paid_until = self
                .paid_until
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let due = (*paid_until).max(Instant::now()) + self.time_of(units);
            *paid_until = due;
            due
        };
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            () = stop.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_takes_as_long_as_its_rate_says() {
        let (pace, stop) = (Pace::new(Some(1000)), CancellationToken::new());
        let began = Instant::now();
        futures::join!(pace.pay(20, &stop), pace.pay(30, &stop));
        pace.pay(50, &stop).await;
        let took = began.elapsed();
        assert!((100..1000).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test]
    async fn without_a_rate_or_wanted_no_more_it_does_not_wait() {
        let (stop, began) = (CancellationToken::new(), Instant::now());
        Pace::new(None).pay(u64::MAX, &stop).await;
        Pace::new(Some(0)).pay(u64::MAX, &stop).await;
        let slow = Pace::new(Some(1));
        slow.pay(0, &stop).await;
        stop.cancel();
        slow.pay(3600, &stop).await;
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(slow.time_of(90), Duration::from_secs(90));
    }
}
