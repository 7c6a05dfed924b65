//! Which faults the way to the store has, and how often each was injected.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Calls in a hundred that meet a fault, in quiet times and in a storm.
const QUIET_PERCENT: u32 = 6;
const STORM_PERCENT: u32 = 55;

/// What a call asks of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Put,
    Get,
    Head,
    Delete,
    DeleteMany,
    List,
    Other,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::DeleteMany => "delete_many",
            Self::List => "list",
            Self::Other => "other",
        }
    }

    /// Whether it changes what is stored.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Put | Self::Delete | Self::DeleteMany)
    }

    /// By method and query, as S3 tells its calls apart.
    pub(crate) fn of(method: &hyper::Method, path: &str, query: &str) -> Self {
        let has_key = path.trim_matches('/').contains('/');
        let names = |name: &str| {
            query
                .split('&')
                .any(|part| part.split('=').next() == Some(name))
        };
        match *method {
            hyper::Method::PUT if has_key => Self::Put,
            hyper::Method::GET if has_key => Self::Get,
            hyper::Method::GET if names("list-type") => Self::List,
            hyper::Method::HEAD if has_key => Self::Head,
            hyper::Method::DELETE if has_key => Self::Delete,
            hyper::Method::POST if names("delete") => Self::DeleteMany,
            _ => Self::Other,
        }
    }
}

/// What happens to a call on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// It arrives later.
    Delay,
    /// Its bytes come in drops.
    Throttle,
    /// 500 `InternalError`; the store never sees it.
    InternalError,
    /// 503 `ServiceUnavailable`; the store never sees it.
    Unavailable,
    /// 503 `SlowDown`; the store never sees it.
    SlowDown,
    /// The connection ends before the store sees it.
    Cut,
    /// The connection ends in the middle of a body.
    CutWithin,
    /// The store does it, and the connection ends without an answer.
    DropAnswer,
    /// The store does it, and the answer says 500.
    FalseError,
    /// It is held until its sender has given up, and then goes on to the store.
    Late,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Throttle => "throttle",
            Self::InternalError => "internal_error",
            Self::Unavailable => "unavailable",
            Self::SlowDown => "slow_down",
            Self::Cut => "cut",
            Self::CutWithin => "cut_within",
            Self::DropAnswer => "drop_answer",
            Self::FalseError => "false_error",
            Self::Late => "late",
        }
    }
}

/// Each fault and its share of all faults.
const SHARES: [(Fault, u32); 10] = [
    (Fault::Delay, 16),
    (Fault::Throttle, 10),
    (Fault::InternalError, 10),
    (Fault::Unavailable, 8),
    (Fault::SlowDown, 10),
    (Fault::Cut, 8),
    (Fault::CutWithin, 8),
    (Fault::DropAnswer, 12),
    (Fault::FalseError, 8),
    (Fault::Late, 10),
];

/// How many of each were injected.
pub(crate) type FaultCounts = BTreeMap<(Operation, Fault), u64>;

/// Decides, from a seed, which calls meet which fault.
#[derive(Debug)]
pub(crate) struct Faults {
    rng: Mutex<StdRng>,
    enabled: AtomicBool,
    storm: AtomicBool,
    counts: Mutex<FaultCounts>,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            enabled: AtomicBool::new(false),
            storm: AtomicBool::new(false),
            counts: Mutex::default(),
        }
    }

    /// Switches all of them on or off.
    pub(crate) fn enable(&self, on: bool) {
        self.enabled.store(on, Ordering::Relaxed);
        self.storm.store(false, Ordering::Relaxed);
    }

    /// Begins or ends a time in which most calls meet one.
    pub(crate) fn storm(&self, on: bool) {
        self.storm.store(on, Ordering::Relaxed);
    }

    /// The fault that this call meets, if any; counted.
    pub(crate) fn draw(&self, operation: Operation) -> Option<Fault> {
        if !self.enabled.load(Ordering::Relaxed) {
            return None;
        }
        let percent = match self.storm.load(Ordering::Relaxed) {
            true => STORM_PERCENT,
            false => QUIET_PERCENT,
        };
        let fault = self.roll(percent)?;
        if fault == Fault::Late && !operation.writes() {
            return None;
        }
        let mut counts = self.counts.lock().expect("nothing panics while holding it");
        *counts.entry((operation, fault)).or_default() += 1;
        Some(fault)
    }

    /// A number for how long or how far, below `below`.
    pub(crate) fn below(&self, below: u64) -> u64 {
        let mut rng = self.rng.lock().expect("nothing panics while holding it");
        rng.random_range(0..below.max(1))
    }

    pub(crate) fn counts(&self) -> FaultCounts {
        self.counts
            .lock()
            .expect("nothing panics while holding it")
            .clone()
    }

    fn roll(&self, percent: u32) -> Option<Fault> {
        let mut rng = self.rng.lock().expect("nothing panics while holding it");
        if rng.random_range(0..100) >= percent {
            return None;
        }
        let total = SHARES.iter().map(|(_, share)| share).sum::<u32>();
        let mut point = rng.random_range(0..total);
        for (fault, share) in SHARES {
            if point < share {
                return Some(fault);
            }
            point -= share;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let of = |method: &str, path: &str, query: &str| {
            Operation::of(&method.parse().expect("a method"), path, query)
        };
        assert_eq!(of("PUT", "/b/a/key", "x-id=PutObject"), Operation::Put);
        assert_eq!(of("GET", "/b/a/key", "x-id=GetObject"), Operation::Get);
        assert_eq!(of("GET", "/b", "list-type=2&prefix=x"), Operation::List);
        assert_eq!(of("GET", "/b/", "list-type=2"), Operation::List);
        assert_eq!(of("HEAD", "/b/key", ""), Operation::Head);
        assert_eq!(of("DELETE", "/b/key", ""), Operation::Delete);
        assert_eq!(of("POST", "/b", "delete"), Operation::DeleteMany);
        assert_eq!(of("POST", "/b/", "delete="), Operation::DeleteMany);
        assert_eq!(of("PUT", "/b", ""), Operation::Other);
        assert_eq!(of("GET", "/b", "uploads"), Operation::Other);
    }

    #[test]
    fn every_fault_comes_and_is_counted() {
        let faults = Faults::new(1);
        assert_eq!(faults.draw(Operation::Put), None, "not yet enabled");
        faults.enable(true);
        let quiet = (0..20_000)
            .filter(|_| faults.draw(Operation::Put).is_some())
            .count();
        assert!((800..1600).contains(&quiet), "{quiet} of 20000");
        faults.storm(true);
        let stormy = (0..1000)
            .filter(|_| faults.draw(Operation::Get).is_some())
            .count();
        assert!(stormy > 350, "{stormy} of 1000");
        let counts = faults.counts();
        for (fault, _) in SHARES {
            assert!(counts.contains_key(&(Operation::Put, fault)), "{fault:?}");
        }
        assert!(!counts.contains_key(&(Operation::Get, Fault::Late)));
        assert_eq!(counts.values().sum::<u64>() as usize, quiet + stormy);
    }
}
