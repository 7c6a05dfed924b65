//! The tables as pictures.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::contender::{Backend, Contender};
use crate::measure::Line;
use crate::report::Report;
use crate::summary::{CPU, Figure, Spread, THROUGHPUT};

const WIDTH: u32 = 960;
const BAR: i32 = 15;
const TOP: i32 = 64;
const LEFT: i32 = 190;
const RIGHT: i32 = 190;

/// Draws every picture into `folder`; their names.
pub(crate) fn draw(report: &Report, folder: &Path) -> Result<Vec<&'static str>> {
    std::fs::create_dir_all(folder)?;
    let mut drawn = Vec::new();
    for (backend, name, title) in [
        (
            Backend::SqliteLocal,
            "throughput-sqlite.svg",
            "Throughput, SQLite + local store",
        ),
        (
            Backend::PostgresS3,
            "throughput-postgres.svg",
            "Throughput, PostgreSQL + S3",
        ),
    ] {
        let chart = Chart {
            title,
            note: "share of the fastest server in the same workload; the figure is operations a second",
            figure: THROUGHPUT,
        };
        if chart.draw(report, backend, &folder.join(name))? {
            drawn.push(name);
        }
    }
    let chart = Chart {
        title: "CPU time of the server, SQLite + local store",
        note: "share of the greatest in the same workload; the figure is seconds for 1000 requests",
        figure: CPU,
    };
    if chart.draw(report, Backend::SqliteLocal, &folder.join("cpu-sqlite.svg"))? {
        drawn.push("cpu-sqlite.svg");
    }
    Ok(drawn)
}

struct Chart {
    title: &'static str,
    note: &'static str,
    figure: Figure,
}

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Chart {
    /// One bar per server, grouped by workload, each as long as its share of the group's greatest; a
    /// thin line from the least to the greatest round. `false`: there is nothing to draw.
    fn draw(&self, report: &Report, backend: Backend, file: &Path) -> Result<bool> {
        let lines: Vec<&Line> = report
            .lines
            .iter()
            .filter(|line| line.workload.backend == backend)
            .collect();
        let bars: i32 = lines.iter().map(|line| line.measured.len() as i32).sum();
        if bars == 0 {
            return Ok(false);
        }
        let height = TOP + bars * BAR + lines.len() as i32 * BAR;
        let canvas = SVGBackend::new(file, (WIDTH, height as u32)).into_drawing_area();
        canvas.fill(&WHITE)?;
        text(&canvas, self.title, (LEFT, 12), 20)?;
        text(&canvas, self.note, (LEFT, 38), 12)?;
        let mut top = TOP;
        for line in lines {
            top = self.group(&canvas, line, top)?;
        }
        canvas.present().context("the picture cannot be written")?;
        Ok(true)
    }

    fn group(&self, canvas: &Canvas<'_>, line: &Line, mut top: i32) -> Result<i32> {
        let spreads: Vec<(Contender, Spread)> = line
            .measured
            .iter()
            .filter_map(|measured| Some((measured.contender, measured.spread(self.figure)?)))
            .collect();
        let greatest = spreads
            .iter()
            .map(|(_, spread)| spread.max)
            .fold(f64::MIN_POSITIVE, f64::max);
        let room = f64::from(WIDTH as i32 - LEFT - RIGHT);
        let at = |value: f64| LEFT + (value / greatest * room) as i32;
        text(canvas, line.workload.name, (8, top), 13)?;
        for (contender, spread) in spreads {
            let bar = [(LEFT, top + 1), (at(spread.median), top + BAR - 2)];
            canvas.draw(&Rectangle::new(bar, colour(contender).filled()))?;
            let middle = top + BAR / 2;
            let whisker = vec![(at(spread.min), middle), (at(spread.max), middle)];
            canvas.draw(&PathElement::new(whisker, BLACK.stroke_width(1)))?;
            let median = spread.median;
            let label = match median {
                _ if median >= 100.0 => format!("{} {median:.0}", contender.name()),
                _ => format!("{} {median:.3}", contender.name()),
            };
            text(canvas, &label, (at(spread.max) + 6, top), 12)?;
            top += BAR;
        }
        Ok(top + BAR)
    }
}

fn text(canvas: &Canvas<'_>, words: &str, at: (i32, i32), size: i32) -> Result<()> {
    let style = ("sans-serif", size)
        .into_font()
        .color(&RGBColor(40, 40, 40));
    canvas.draw(&Text::new(words.to_owned(), at, style))?;
    Ok(())
}

fn colour(contender: Contender) -> RGBColor {
    match contender {
        Contender::Hapax => RGBColor(0, 114, 178),
        Contender::FloorHash => RGBColor(160, 160, 160),
        Contender::FloorStore => RGBColor(120, 120, 120),
        Contender::Naive => RGBColor(230, 159, 0),
        Contender::DockerRegistry => RGBColor(0, 158, 115),
    }
}
