//! The run as JSON for machines and as tables for people.

use std::fmt::Write;

use serde::Serialize;

use crate::bars::Bar;
use crate::contender::{Backend, Contender};
use crate::extras::Extras;
use crate::machine::Machine;
use crate::measure::{Line, Measured};
use crate::scale::Scaled;
use crate::summary::{CPU, Spread, THROUGHPUT};
use crate::workload::Scale;

/// Everything that one run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) command: String,
    pub(crate) scale: Scale,
    /// What was left out, and why.
    pub(crate) left_out: Vec<String>,
    pub(crate) lines: Vec<Line>,
    pub(crate) extras: Extras,
    pub(crate) scaled: Vec<Scaled>,
    pub(crate) bars: Vec<Bar>,
}

const HEADINGS: [&str; 11] = [
    "workload",
    "connections",
    "server",
    "a second (min–max)",
    "Hapax to it (min–max)",
    "p50 ms",
    "p99 ms",
    "CPU s / 1000",
    "Hapax's CPU to it",
    "peak RSS MiB",
    "store calls, transactions",
];

impl Report {
    /// The whole report in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = self.machine.markdown();
        let Scale {
            rounds,
            seconds,
            warm_up_seconds,
            ..
        } = self.scale;
        let _ = writeln!(
            text,
            "\n`{}`: {rounds} rounds of {seconds} s after {warm_up_seconds} s of warm-up (or of a \
             fixed number of requests), the servers taking turns.\n",
            self.command
        );
        for reason in &self.left_out {
            let _ = writeln!(text, "- Left out: {reason}");
        }
        for (backend, title) in [
            (Backend::SqliteLocal, "SQLite + local store"),
            (Backend::PostgresS3, "PostgreSQL + S3"),
        ] {
            let lines: Vec<_> = self
                .lines
                .iter()
                .filter(|line| line.workload.backend == backend)
                .collect();
            if !lines.is_empty() {
                let rows = lines.iter().flat_map(|line| rows(line)).collect::<Vec<_>>();
                let _ = writeln!(text, "\n### {title}\n\n{}", table(&HEADINGS, &rows));
            }
        }
        for scaled in &self.scaled {
            let _ = writeln!(
                text,
                "\n### {}\n\n{}",
                scaled.title(),
                scaled_tables(scaled)
            );
        }
        let _ = writeln!(text, "\n### Bars\n\n{}", self.bars_table());
        text
    }

    fn bars_table(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .bars
            .iter()
            .map(|bar| {
                let met = match bar.met {
                    Some(true) => "met",
                    Some(false) => "**not met**",
                    None => "not measured",
                };
                let measured = bar.measured.clone().unwrap_or_else(|| "–".to_owned());
                vec![
                    bar.what.clone(),
                    bar.bar.to_owned(),
                    measured,
                    met.to_owned(),
                ]
            })
            .collect();
        table(&["what", "bar", "measured", ""], &rows)
    }

    /// Rounds in which a server answered what it should not have.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for line in &self.lines {
            for measured in line
                .measured
                .iter()
                .filter(|measured| measured.errors() > 0)
            {
                let first = measured
                    .rounds
                    .iter()
                    .find_map(|round| round.first_error.clone());
                failures.push(format!(
                    "{}, {}: {} errors, the first: {}",
                    line.workload.name,
                    measured.contender.name(),
                    measured.errors(),
                    first.unwrap_or_default()
                ));
            }
        }
        failures
    }
}

fn scaled_tables(scaled: &Scaled) -> String {
    let operations: Vec<Vec<String>> = scaled
        .operations
        .iter()
        .map(|one| {
            vec![
                one.what.to_owned(),
                show(Some(one.empty_p50_ms), 2),
                show(Some(one.full_p50_ms), 2),
                show(Some(one.ratio), 2),
            ]
        })
        .collect();
    let questions: Vec<Vec<String>> = scaled
        .questions
        .iter()
        .map(|one| {
            vec![
                one.what.clone(),
                format!("{:.2}", one.p50_ms),
                format!("{:.2}", one.most_ms),
            ]
        })
        .collect();
    let headings = [
        "operation",
        "empty: p50 ms",
        "full: p50 ms",
        "full to empty",
    ];
    format!(
        "{}\n{}",
        table(&headings, &operations),
        table(&["question", "p50 ms", "most ms"], &questions)
    )
}

fn rows(line: &Line) -> Vec<Vec<String>> {
    line.measured
        .iter()
        .map(|measured| row(line, measured))
        .collect()
}

fn row(line: &Line, measured: &Measured) -> Vec<String> {
    let is_hapax = measured.contender == Contender::Hapax;
    let (workload, connections) = match is_hapax {
        true => {
            let workload = &line.workload;
            (
                format!("{} (`{}`)", workload.title, workload.name),
                workload.connections.to_string(),
            )
        }
        false => Default::default(),
    };
    let ratio = |figure| match is_hapax {
        true => String::new(),
        false => show(line.ratio(measured.contender, figure), 2),
    };
    let median = |figure, digits| {
        measured
            .spread(figure)
            .map_or_else(String::new, |s| format!("{:.digits$}", s.median))
    };
    let count = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3}"));
    let transactions = measured
        .optional(|round| round.transactions)
        .or(measured.optional(|round| round.batches));
    let costs = match is_hapax || transactions.is_some() {
        true => {
            let calls = measured.optional(|round| round.store_calls);
            format!("{}, {}", count(calls), count(transactions))
        }
        false => String::new(),
    };
    vec![
        workload,
        connections,
        measured.contender.name().to_owned(),
        show(measured.spread(THROUGHPUT), 0),
        ratio(THROUGHPUT),
        median(|round| round.p50_ms, 2),
        median(|round| round.p99_ms, 2),
        median(CPU, 3),
        ratio(CPU),
        format!("{:.0}", measured.peak_rss_mib),
        costs,
    ]
}

fn show(spread: Option<Spread>, digits: usize) -> String {
    // A few large requests a second need their fractions.
    let digits = |spread: &Spread| {
        if spread.median < 10.0 {
            digits.max(2)
        } else {
            digits
        }
    };
    spread.map_or_else(String::new, |spread| {
        let digits = digits(&spread);
        let Spread { median, min, max } = spread;
        format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
    })
}

/// A Markdown table whose columns line up in a terminal too.
fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([headings[column].chars().count(), 3])
            .max()
            .unwrap_or(3)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| {
            let missing = width.saturating_sub(cell.chars().count());
            format!(" {cell}{} ", " ".repeat(missing))
        });
        format!("|{}|\n", padded.collect::<Vec<_>>().join("|"))
    };
    let mut text = line(headings.to_vec());
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    text.push_str(&line(rules.iter().map(String::as_str).collect()));
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}
