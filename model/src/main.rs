//! Runs the model by name and prints a table; exit 1 on an unexpected verdict, 2 when used wrongly.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::thread::available_parallelism;

use model::Protocol;
use model::catalogue::{SEEDS, Size, broken_runs, first_runs, full_runs};
use model::check::{Outcome, check, refute};
use model::seed::Seed;

const USAGE: &str =
    "usage: model [--threads N] [--trace] [NAME…|short|all|long|rules|first|seed|list]

  NAME    one run; `list` prints their names
  short   the runs of `cargo test`
  all     every run of the full protocol but the long ones, every rule left out, the old flow
  long    everything
  rules   one run for each rule left out, with a shortest counter-example
  first   the runs of the first model, with its verdicts
  seed    the flow that the protocol replaces";

struct Options {
    names: Vec<String>,
    threads: usize,
    trace: bool,
}

fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut runner = Runner {
        options,
        known: false,
        failed: false,
    };
    if runner.options.names.iter().any(|name| name == "list") {
        list();
        return ExitCode::SUCCESS;
    }
    runner.full();
    runner.broken();
    runner.first();
    runner.seeds();
    match (runner.known, runner.failed) {
        (false, _) => {
            eprintln!("no run of that name\n{USAGE}");
            ExitCode::from(2)
        }
        (true, true) => ExitCode::FAILURE,
        (true, false) => ExitCode::SUCCESS,
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let threads = available_parallelism().map_or(1, NonZeroUsize::get);
    let mut options = Options {
        names: Vec::new(),
        threads,
        trace: false,
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--threads" => options.threads = arguments.next()?.parse().ok().filter(|n| *n > 0)?,
            "--trace" => options.trace = true,
            flag if flag.starts_with('-') => return None,
            _ => options.names.push(argument),
        }
    }
    (!options.names.is_empty()).then_some(options)
}

fn list() {
    for run in full_runs() {
        println!(
            "{:<36} {:?}: {}",
            run.config.name, run.size, run.config.about
        );
    }
    for run in broken_runs() {
        println!("{:<36} violates {}", run.config.name, run.violates);
    }
}

struct Runner {
    options: Options,
    known: bool,
    failed: bool,
}

impl Runner {
    fn wants(&self, name: &str, groups: &[&str]) -> bool {
        self.options
            .names
            .iter()
            .any(|wanted| wanted == name || groups.contains(&wanted.as_str()))
    }

    fn full(&mut self) {
        for run in full_runs() {
            let groups: &[&str] = match run.size {
                Size::Short => &["short", "all", "long"],
                Size::Medium => &["all", "long"],
                Size::Long => &["long"],
            };
            let name = run.config.name;
            if self.wants(name, groups) {
                let outcome = check(Protocol::new(run.config), self.options.threads);
                self.report(name, &outcome, None);
            }
        }
    }

    fn broken(&mut self) {
        for run in broken_runs() {
            let name = run.config.name;
            if self.wants(name, &["rules", "all", "long"]) {
                let outcome = refute(&Protocol::new(run.config), run.violates);
                self.report(name, &outcome, Some(run.violates));
            }
        }
    }

    fn first(&mut self) {
        for (_, config, violates) in first_runs() {
            let name = config.name;
            if self.wants(name, &["first", "all", "long"]) {
                let protocol = Protocol::new(config);
                let outcome = match violates {
                    Some(property) => refute(&protocol, property),
                    None => check(protocol, self.options.threads),
                };
                self.report(name, &outcome, violates);
            }
        }
    }

    fn seeds(&mut self) {
        for (name, one_transaction, crash, violates) in SEEDS {
            for property in *violates {
                if self.wants(name, &["seed", "all", "long"]) {
                    let seed = Seed {
                        one_transaction: *one_transaction,
                        crash: *crash,
                    };
                    self.report(name, &refute(&seed, property), Some(property));
                }
            }
        }
    }

    fn report(&mut self, name: &str, outcome: &Outcome, expected: Option<&str>) {
        if !self.known {
            println!(
                "{:<36} {:>10} {:>6} {:>8}  verdict",
                "run", "states", "depth", "seconds"
            );
        }
        self.known = true;
        let (good, verdict) = match expected {
            None if outcome.violations.is_empty() => (true, "no violation".to_owned()),
            None => (
                false,
                format!("VIOLATION of {:?}", outcome.violations.keys()),
            ),
            Some(property) => match outcome.violations.get(property) {
                Some(path) => (
                    true,
                    format!("{property}: violated in {} steps", path.len()),
                ),
                None => (false, format!("{property}: NO COUNTER-EXAMPLE")),
            },
        };
        self.failed |= !good;
        let Outcome {
            states,
            depth,
            took,
            ..
        } = outcome;
        println!(
            "{name:<36} {states:>10} {depth:>6} {:>8.1}  {verdict}",
            took.as_secs_f64()
        );
        if !good || self.options.trace {
            for (property, path) in &outcome.violations {
                if good && Some(*property) != expected {
                    continue;
                }
                println!("  {property}:");
                path.iter().for_each(|step| println!("    {step}"));
            }
        }
    }
}
