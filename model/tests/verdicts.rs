//! What the model must say: nothing wrong with the protocol, something wrong without each rule.

use std::collections::{BTreeSet, HashSet};

use model::catalogue::{SEEDS, Size, broken_runs, first_runs, full_runs};
use model::check::{check, refute};
use model::seed::Seed;
use model::{Config, Protocol, Rule};
use stateright::Model;

const THREADS: usize = 2;

#[test]
fn the_full_protocol_violates_nothing() {
    for run in full_runs()
        .into_iter()
        .filter(|run| run.size == Size::Short)
    {
        let name = run.config.name;
        let outcome = check(Protocol::new(run.config), THREADS);
        assert!(
            outcome.violations.is_empty(),
            "{name}: {:#?}",
            outcome.violations
        );
        println!("{name}: {} states in {:.1?}", outcome.states, outcome.took);
    }
}

#[test]
fn each_rule_left_out_has_its_counter_example() {
    for run in broken_runs() {
        let name = run.config.name;
        let outcome = refute(&Protocol::new(run.config), run.violates);
        let path = outcome.violations.get(run.violates);
        let path = path.unwrap_or_else(|| panic!("{name}: {} was not violated", run.violates));
        println!(
            "{name}: {} is violated in {} steps",
            run.violates,
            path.len()
        );
    }
}

#[test]
fn every_rule_is_left_out_once() {
    let mut left_out: Vec<Rule> = broken_runs()
        .into_iter()
        .filter_map(|run| run.config.without)
        .collect();
    for rule in Rule::ALL {
        let at = left_out.iter().position(|other| *other == rule);
        left_out.remove(at.unwrap_or_else(|| panic!("{rule:?} is never left out")));
    }
    assert_eq!(left_out, []);
}

#[test]
fn agrees_with_the_first_model() {
    // H has as many states as all others together; `first` runs it, `zombie` is its like.
    for (name, config, violated) in first_runs().into_iter().filter(|(name, ..)| *name != "H") {
        match violated {
            None => {
                let outcome = check(Protocol::new(config), THREADS);
                assert!(
                    outcome.violations.is_empty(),
                    "{name}: {:#?}",
                    outcome.violations
                );
            }
            Some(property) => {
                let outcome = refute(&Protocol::new(config), property);
                assert!(
                    outcome.violations.contains_key(property),
                    "{name}: {property} holds"
                );
            }
        }
    }
}

#[test]
fn the_old_flow_loses_leaks_and_miscounts() {
    for (name, one_transaction, crash, violates) in SEEDS {
        for property in *violates {
            let seed = Seed {
                one_transaction: *one_transaction,
                crash: *crash,
            };
            let outcome = refute(&seed, property);
            assert!(
                outcome.violations.contains_key(property),
                "{name}: {property} holds"
            );
        }
    }
}

/// A transition that is never taken proves nothing.
#[test]
fn every_step_is_taken_by_some_run() {
    let mut taken = BTreeSet::new();
    for name in ["uploads", "retry-one", "zombie", "failover", "heal"] {
        let mut runs = full_runs().into_iter().map(|run| run.config);
        let config = runs
            .find(|config| config.name == name)
            .expect("the catalogue has it");
        collect_steps(config, &mut taken);
    }
    let missing: Vec<_> = STEPS
        .iter()
        .filter(|step| !taken.contains(**step))
        .collect();
    assert!(missing.is_empty(), "never taken: {missing:?}");
    let unlisted: Vec<_> = taken.iter().filter(|step| !STEPS.contains(step)).collect();
    assert!(unlisted.is_empty(), "not in the list: {unlisted:?}");
}

fn collect_steps(config: Config, taken: &mut BTreeSet<&'static str>) {
    let protocol = Protocol::new(config);
    let mut seen: HashSet<_> = protocol.init_states().into_iter().collect();
    let mut open: Vec<_> = seen.iter().copied().collect();
    let mut steps = Vec::new();
    while let Some(state) = open.pop() {
        protocol.actions(&state, &mut steps);
        for step in steps.drain(..) {
            taken.insert(step.what);
            if seen.insert(step.next) {
                open.push(step.next);
            }
        }
    }
}

/// The steps of the full protocol.
const STEPS: &[&str] = &[
    "PUT",
    "PUT is refused",
    "PUT is stored and times out",
    "PUT times out, may land late",
    "S3 DELETE",
    "S3 DELETE times out, may land late",
    "announces a generation",
    "cannot give its generation up",
    "claims at count 0",
    "commits, 201",
    "commits, outcome unknown",
    "crashes",
    "deletes a stray",
    "deletes, 200",
    "deletes, outcome unknown: retried",
    "fails over, last transaction lost",
    "finds content missing",
    "finds its images committed",
    "finds its lease lost",
    "finds them deleted",
    "gives its generation up",
    "late DELETE dies",
    "late DELETE lands",
    "late PUT dies",
    "late PUT lands",
    "lease ran out, condemns",
    "lists the bucket",
    "loses an object",
    "marks the row damaged",
    "put_deadline passes",
    "removes the row",
    "replica catches up",
    "runs out of time",
    "selects all rows",
    "spoils an object",
];
