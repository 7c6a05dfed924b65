//! Running the checker, and what came of it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::hash::Hash;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Distinct states.
    pub states: usize,
    /// Steps of the longest path.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// The properties that do not hold, each with a shortest way there where one was asked for.
    pub violations: BTreeMap<&'static str, Vec<String>>,
}

/// Checks until every state is seen or some property is found not to hold.
pub fn check<M>(model: M, threads: usize) -> Outcome
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Display + PartialEq,
{
    run(model, threads, HasDiscoveries::AnyFailures, None)
}

/// Finds a shortest counter-example to one property, if there is any. One thread: the checker
/// promises no order with several.
pub fn refute<M>(model: &M, property: &'static str) -> Outcome
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Display + PartialEq,
{
    let wanted = || HasDiscoveries::AnyOf([property].into());
    let mut outcome = run(model.clone(), 1, wanted(), None);
    // The checker looks at a block of states before it stops and keeps the last violation among
    // them, so look again among shorter paths until there is none.
    let mut steps = outcome.violations.get(property).map(Vec::len);
    while let Some(known) = steps {
        let mut shorter = run(model.clone(), 1, wanted(), Some(known));
        steps = shorter.violations.get(property).map(Vec::len);
        if let Some(path) = shorter.violations.remove(property) {
            outcome.violations.insert(property, path);
        }
    }
    outcome
}

/// `fewer_than`: only paths of fewer steps.
fn run<M>(model: M, threads: usize, until: HasDiscoveries, fewer_than: Option<usize>) -> Outcome
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Display + PartialEq,
{
    let begun = Instant::now();
    let mut builder = model.checker().threads(threads).finish_when(until);
    if let Some(steps) = fewer_than {
        // The checker counts states, of which a path has one more than steps, and leaves the
        // deepest out.
        builder = builder.target_max_depth(steps + 1);
    }
    let checker = builder.spawn_bfs().join();
    let violations = checker
        .discoveries()
        .into_iter()
        .map(|(name, path)| {
            (
                name,
                path.into_actions()
                    .iter()
                    .map(M::Action::to_string)
                    .collect(),
            )
        })
        .collect();
    Outcome {
        states: checker.unique_state_count(),
        depth: checker.max_depth().saturating_sub(1),
        took: begun.elapsed(),
        violations,
    }
}
