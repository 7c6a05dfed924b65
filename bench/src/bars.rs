//! What the product is held to, and whether this run shows it.

use serde::Serialize;

use crate::contender::Contender::{self, DockerRegistry, FloorHash, FloorStore, Hapax, Naive};
use crate::extras::Extras;
use crate::measure::Line;
use crate::summary::{CPU, Figure, THROUGHPUT};

/// One bar with what was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) bar: &'static str,
    /// `None` where this run did not measure it.
    pub(crate) measured: Option<String>,
    pub(crate) met: Option<bool>,
}

struct Judge<'a> {
    lines: &'a [Line],
    bars: Vec<Bar>,
}

/// Every bar, judged by what this run measured.
pub(crate) fn judge(lines: &[Line], extras: &Extras) -> Vec<Bar> {
    let mut judge = Judge {
        lines,
        bars: Vec::new(),
    };
    judge.throughput(
        "duplicates, 100 KiB, 32 connections, SQLite + local",
        "≥ 0.80 of floor-hash",
        "dup-100k-32",
        FloorHash,
        0.8,
    );
    judge.throughput(
        "new originals, 100 KiB, 32 connections, SQLite + local",
        "≥ 0.90 of floor-store",
        "new-100k-32",
        FloorStore,
        0.9,
    );
    judge.throughput(
        "1 GiB body, new, local store",
        "≥ 0.90 of floor-store",
        "new-1g-1",
        FloorStore,
        0.9,
    );
    judge.throughput(
        "1 GiB body, duplicate",
        "≥ 0.90 of floor-hash",
        "dup-1g-1",
        FloorHash,
        0.9,
    );
    judge.throughput(
        "10 MiB, new, 16 connections",
        "≥ 0.90 of floor-store",
        "new-10m-16",
        FloorStore,
        0.9,
    );
    judge.throughput(
        "one hot hash, 64 connections, 4 KiB, PostgreSQL",
        "≥ 10 × naive",
        "pg-hot-4k-64",
        Naive,
        10.0,
    );
    judge.throughput(
        "mixed 90 % duplicates with deletes, 64 connections, PostgreSQL + S3",
        "≥ 4 × naive",
        "pg-mixed-100k-64",
        Naive,
        4.0,
    );
    judge.bulk_deletes();
    judge.throughput(
        "the peer, new, 100 KiB",
        "≥ 5 × docker-registry",
        "new-100k-32",
        DockerRegistry,
        5.0,
    );
    judge.throughput(
        "the peer, duplicates, 100 KiB",
        "≥ 20 × docker-registry",
        "dup-100k-32",
        DockerRegistry,
        20.0,
    );
    judge.cpu(
        "CPU of the server per duplicate, 100 KiB",
        "≤ 2 × floor-hash's",
        "dup-100k-32",
        FloorHash,
        2.0,
    );
    judge.cpu(
        "CPU of the server per new original, 100 KiB",
        "≤ 1.2 × floor-store's",
        "new-100k-32",
        FloorStore,
        1.2,
    );
    judge.tail_latency();
    judge.costs();
    judge.bars.extend(extras.bars());
    judge.bars
}

impl Judge<'_> {
    fn line(&self, name: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.workload.name == name)
    }

    fn add(&mut self, what: &'static str, bar: &'static str, measured: Option<(String, bool)>) {
        let (measured, met) = measured.unzip();
        self.bars.push(Bar {
            what: what.to_owned(),
            bar,
            measured,
            met,
        });
    }

    fn ratio(&self, name: &str, to: Contender, figure: Figure) -> Option<(String, f64)> {
        let ratio = self.line(name)?.ratio(to, figure)?;
        let text = format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.min, ratio.max);
        Some((text, ratio.median))
    }

    fn throughput(
        &mut self,
        what: &'static str,
        bar: &'static str,
        line: &str,
        to: Contender,
        least: f64,
    ) {
        let ratio = self.ratio(line, to, THROUGHPUT);
        self.add(
            what,
            bar,
            ratio.map(|(text, median)| (text, median >= least)),
        );
    }

    fn cpu(&mut self, what: &'static str, bar: &'static str, line: &str, to: Contender, most: f64) {
        let ratio = self.ratio(line, to, CPU);
        self.add(
            what,
            bar,
            ratio.map(|(text, median)| (text, median <= most)),
        );
    }

    fn bulk_deletes(&mut self) {
        let measured = self.line("bulk-delete-4").and_then(|line| {
            let rate = line.of(Hapax)?.spread(THROUGHPUT)?.median;
            let ratio = line
                .ratio(Naive, THROUGHPUT)
                .map_or(0.0, |ratio| ratio.median);
            let text = format!("{rate:.0} a second, {ratio:.1} × naive");
            Some((text, rate >= 20_000.0 || ratio >= 20.0))
        });
        let bar = "≥ 20 000 references a second on SQLite, or ≥ 20 × naive";
        self.add("bulk deletes of references", bar, measured);
    }

    fn tail_latency(&mut self) {
        let measured = self.line("dup-100k-32").and_then(|line| {
            let hapax = line.of(Hapax)?;
            let ratio = hapax.spread(|round| round.p99_ms / round.p50_ms)?;
            let (p50, p99) = (
                hapax.spread(|round| round.p50_ms)?,
                hapax.spread(|round| round.p99_ms)?,
            );
            let text = format!(
                "{:.2} × ({:.2} ms, {:.2} ms)",
                ratio.median, p50.median, p99.median
            );
            Some((text, ratio.median <= 3.0))
        });
        self.add(
            "p99 latency, 32 connections, duplicates",
            "≤ 3 × p50",
            measured,
        );
    }

    fn costs(&mut self) {
        let cost = |name: &str, figure: fn(&crate::measure::Round) -> Option<f64>| {
            self.line(name)?.of(Hapax)?.optional(figure)
        };
        let duplicate = cost("pg-dup-100k-32", |round| round.store_calls);
        let new = cost("pg-new-100k-32", |round| round.store_calls);
        let of_duplicates = cost("pg-dup-100k-32", |round| round.transactions);
        let of_new = cost("pg-new-100k-32", |round| round.transactions);
        let of_many_new = cost("pg-new-100k-256", |round| round.transactions);
        let text = |value: f64| format!("{value:.3}");
        self.add(
            "S3 calls per duplicate",
            "0",
            duplicate.map(|calls| (text(calls), calls < 0.001)),
        );
        let one = |calls: f64| (0.99..=1.01).contains(&calls);
        self.add(
            "S3 calls per new original",
            "1",
            new.map(|calls| (text(calls), one(calls))),
        );
        let few = |count: f64| (text(count), count <= 0.2);
        self.add(
            "database transactions per duplicate, 32 connections",
            "≤ 0.2",
            of_duplicates.map(few),
        );
        self.add(
            "database transactions per new original, 32 connections",
            "≤ 0.2",
            of_new.map(few),
        );
        self.add("the same, 256 connections", "≤ 0.2", of_many_new.map(few));
    }
}
