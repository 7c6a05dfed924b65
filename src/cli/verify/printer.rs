//! What `hapax verify` shows: findings as lines or as JSON, a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::error::CliError;
use crate::cli::output;
use crate::ledger::usage_check::UsageDifference;
use crate::verify::{
    Cursor, Finding, Observer, OriginalKey, Progress, Sample, VerifySummary, word_of,
};

/// How often a line tells of the progress where there is no terminal to draw on.
const PLAIN_PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Writes findings to stdout, progress to stderr.
pub(super) struct Printer {
    json: bool,
    findings: u64,
    bar: ProgressBar,
    /// Looks at rows that are to come in all.
    looks: u64,
    last_line: Instant,
    /// The first line that could not be written.
    failure: Option<CliError>,
}

impl Printer {
    pub(super) fn new(json: bool, originals: u64, progress: &Progress) -> Self {
        let looks = originals.saturating_mul(progress.looks_per_row());
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::new(looks).with_style(
                ProgressStyle::with_template("{bar:20} {percent:>3}% {eta} {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            ),
            false => ProgressBar::hidden(),
        };
        // What an earlier run did took this one no time.
        bar.set_position(progress.summary.looks());
        bar.reset_eta();
        Self {
            json,
            findings: 0,
            bar,
            looks,
            last_line: Instant::now(),
            failure: None,
        }
    }

    /// Takes the bar away.
    ///
    /// # Errors
    /// A line could not be written.
    pub(super) fn finish(self) -> Result<(), CliError> {
        self.bar.finish_and_clear();
        self.failure.map_or(Ok(()), Err)
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

    fn usage_differs(&mut self, difference: &UsageDifference, repaired: bool) {
        let end = match repaired {
            true => ": set right",
            false => ": --repair sets them right",
        };
        let text = format!(
            "verify: the usage counters of {:?} differ from the tables{end}",
            difference.owner
        );
        self.bar
            .suspend(|| output::complain(&output::harmless(&text)));
    }

    fn progressed(&mut self, so_far: &Progress) {
        let done = so_far.summary.looks();
        self.bar.set_length(self.looks.max(done));
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.last_line.elapsed() < PLAIN_PROGRESS_EVERY {
            return;
        }
        let summary = &so_far.summary;
        let text = format!(
            "{}: {} rows and {} objects compared, {} hashed, {} counted, {} problems",
            stage(&so_far.cursor),
            summary.rows,
            summary.objects,
            summary.hashed,
            summary.counts,
            summary.problems
        );
        if self.bar.is_hidden() {
            self.last_line = Instant::now();
            let percent = (done.saturating_mul(100) / self.looks.max(done).max(1)).min(100);
            output::complain(&format!("verify: {percent}% {text}"));
        }
        self.bar.set_message(text);
    }
}

fn stage(cursor: &Cursor) -> &'static str {
    match cursor {
        Cursor::Objects { .. } => "objects",
        Cursor::Bytes { .. } => "bytes",
        Cursor::Counts { .. } => "counts",
        Cursor::Usage => "usage counters",
        Cursor::Done => "done",
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
            "too many strays: {strays} in one page, more than {limit}: strays are left alone from \
             here on; is this the right database?"
        ),
        Finding::WrongCount {
            original_id,
            state,
            reference_count,
            live_images,
            ..
        } => format!(
            "wrong count: the {} original {original_id} says {reference_count}, {live_images} images point at it",
            word_of(*state)
        ),
        Finding::Unreadable { key, error } => format!("unreadable: {key}: {error}"),
    };
    match finding.is_repaired() {
        true => format!("{} [repaired]", output::harmless(&text)),
        false => output::harmless(&text),
    }
}

/// The last line.
pub(super) fn conclusion(
    summary: &VerifySummary,
    is_complete: bool,
    deep: Option<Sample>,
) -> String {
    let VerifySummary {
        rows,
        objects,
        hashed,
        counts,
        problems,
        repaired,
        ..
    } = summary;
    let sample = match deep {
        Some(Sample { share, seed }) if share != crate::verify::Share::ALL => {
            format!(" (a sample of {share}, seed {seed})")
        }
        _ => String::new(),
    };
    let looked = format!(
        "{rows} rows against {objects} objects, {counts} counts against images, {hashed} objects hashed{sample}"
    );
    match (problems, is_complete) {
        (0, true) => format!("ok: {looked}"),
        (0, false) => format!("nothing wrong so far: {looked}"),
        _ => format!("problems: {problems}, of them repaired: {repaired}; {looked}"),
    }
}
