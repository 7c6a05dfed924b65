//! `hapax verify`: prints what is wrong while it is found.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::error::CliError;
use super::{Outcome, output, setup};
use crate::config::Config;
use crate::verify::{self, Finding, Observer, OriginalKey, VerifyOptions, VerifySummary};

/// How often a line tells of the progress where there is no terminal to draw on.
const PLAIN_PROGRESS_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Args)]
pub(super) struct Arguments {
    /// Read every stored object and hash it
    #[arg(long)]
    deep: bool,
    /// Set counts right, mark damaged originals (the next upload of their bytes heals them), delete
    /// objects that no row knows
    #[arg(long)]
    repair: bool,
    /// One JSON document instead of lines: {"findings":[…],"ok":…,…}
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, config: &Config) -> Result<Outcome, CliError> {
    let ledger = setup::ledger(config).await?;
    let store = setup::store(config).await?;
    // Every row is looked at twice: beside its object, and beside its images.
    let steps = 2 * ledger.count_originals().await?;
    let options = VerifyOptions {
        deep: arguments.deep,
        repair: arguments.repair,
    };
    let mut printer = Printer::new(arguments.json, steps);
    if arguments.json {
        output::say("{\"findings\":[")?;
    }
    let summary = verify::verify(&ledger, &store, options, &mut printer).await;
    printer.bar.finish_and_clear();
    // The document is closed even when the verification broke off: what was found is worth reading.
    if arguments.json {
        let mut end = match &summary {
            Ok(summary) => serde_json::to_value(summary).unwrap_or_default(),
            Err(error) => json!({ "error": error.to_string() }),
        };
        end["ok"] = matches!(&summary, Ok(summary) if is_sound(summary)).into();
        let end = end.to_string();
        output::say(&format!("],{}", end.trim_start_matches('{')))?;
    }
    if let Some(error) = printer.failure {
        return Err(error);
    }
    let summary = summary?;
    if !arguments.json {
        output::say(&conclusion(&summary))?;
    }
    Ok(match is_sound(&summary) {
        true => Outcome::Done,
        false => Outcome::Found,
    })
}

/// Whether nothing was wrong. What was mended was wrong, too: somebody should know.
fn is_sound(summary: &VerifySummary) -> bool {
    summary.problems == 0
}

struct Printer {
    json: bool,
    findings: u64,
    bar: ProgressBar,
    steps: u64,
    last_line: Instant,
    /// The first line that could not be written.
    failure: Option<CliError>,
}

impl Printer {
    fn new(json: bool, steps: u64) -> Self {
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::new(steps).with_style(
                ProgressStyle::with_template("{bar:20} {percent:>3}% {eta} {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            ),
            false => ProgressBar::hidden(),
        };
        Self {
            json,
            findings: 0,
            bar,
            steps,
            last_line: Instant::now(),
            failure: None,
        }
    }
}

impl Observer for Printer {
    fn found(&mut self, finding: &Finding) {
        let line = match self.json {
            true => {
                let comma = if self.findings == 0 { "" } else { "," };
                let json = serde_json::to_string(finding).unwrap_or_default();
                format!("{comma}{json}")
            }
            false => described(finding),
        };
        self.findings += 1;
        if let Err(error) = self.bar.suspend(|| output::say(&line)) {
            self.failure.get_or_insert(error);
        }
    }

    fn progressed(&mut self, so_far: &VerifySummary) {
        let done = so_far.rows + so_far.counts;
        self.bar.set_length(self.steps.max(done));
        self.bar.set_position(done);
        let text = format!(
            "{} rows and {} objects compared, {} hashed, {} problems",
            so_far.rows, so_far.objects, so_far.hashed, so_far.problems
        );
        if self.bar.is_hidden() && self.last_line.elapsed() >= PLAIN_PROGRESS_EVERY {
            self.last_line = Instant::now();
            output::complain(&format!("verify: {text}"));
        }
        self.bar.set_message(text);
    }
}

fn described(finding: &Finding) -> String {
    let named = |original: &OriginalKey| format!("original {} ({})", original.id, original.key);
    let text = match finding {
        Finding::StoreMismatch { database, store } => {
            let shown =
                |id: &Option<uuid::Uuid>| id.map_or("no id".to_owned(), |id| id.to_string());
            format!(
                "store mismatch: the database belongs to store {}, this store is {}; objects were not compared",
                shown(database),
                shown(store)
            )
        }
        Finding::MissingObject { original, .. } => {
            format!("missing object: {} has no object", named(original))
        }
        Finding::WrongSize {
            original,
            expected,
            actual,
            ..
        } => format!(
            "wrong size: the object of {} has {actual} bytes, not {expected}",
            named(original)
        ),
        Finding::WrongBytes {
            original, actual, ..
        } => format!(
            "wrong bytes: the object of {} has SHA-256 {actual}",
            named(original)
        ),
        Finding::KnownDamage { original, .. } => {
            format!("known damage: {} is marked as damaged", named(original))
        }
        Finding::Stray { key, size, .. } => {
            format!("stray object: {key} ({size} bytes) has no row")
        }
        Finding::TooManyStrays { strays, limit } => format!(
            "too many strays: {strays} in one page, more than {limit}: no more strays are deleted; is \
             this the right database?"
        ),
        Finding::WrongCount {
            original_id,
            reference_count,
            live_images,
            ..
        } => format!(
            "wrong count: original {original_id} says {reference_count}, {live_images} images point at it"
        ),
        Finding::Unreadable { key, error } => format!("unreadable: {key}: {error}"),
    };
    match finding.is_repaired() {
        true => format!("{} [repaired]", output::harmless(&text)),
        false => output::harmless(&text),
    }
}

fn conclusion(summary: &VerifySummary) -> String {
    let VerifySummary {
        rows,
        objects,
        hashed,
        counts,
        problems,
        repaired,
        ..
    } = summary;
    let looked = format!(
        "{rows} rows against {objects} objects, {counts} counts against images, {hashed} objects hashed"
    );
    match problems {
        0 => format!("ok: {looked}"),
        _ => format!("problems: {problems}, of them repaired: {repaired}; {looked}"),
    }
}
