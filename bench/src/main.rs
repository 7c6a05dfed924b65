//! Hapax measured: `cargo run --release -p bench`, and nothing else to prepare.
//!
//! In reading order: [`workload`] says what is measured, [`contender`] starts who is measured,
//! [`client`] and [`load`] send the load, [`measure`] takes turns and reads counters, [`summary`],
//! [`bars`], [`report`] and [`plot`] tell. The baselines are [`floor`] and the program in `services/`.

#![allow(missing_docs, reason = "a program: its items are nobody's interface")]

mod bars;
mod body;
mod client;
mod cluster;
mod contender;
mod extras;
mod floor;
mod load;
mod loaded;
mod machine;
mod measure;
mod plot;
mod process;
mod record;
mod report;
mod scale;
mod summary;
mod wire;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use cluster::Cluster;
use contender::{Backend, Contender, Surroundings};
use extras::Extras;
use machine::Machine;
use report::Report;
use scale::Scaled;
use workload::{ALL, Scale, Workload};

/// Measures Hapax against what its work costs at the least, a naive service, and a peer.
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the benchmark starts itself as
    #[command(hide = true)]
    Floor {
        #[command(subcommand)]
        floor: floor::Floor,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Show in a minute that everything works, and judge no time
    #[arg(long)]
    smoke: bool,
    /// Only workloads whose name begins so; may be repeated
    #[arg(long, value_name = "WORKLOAD")]
    only: Vec<String>,
    /// Rounds of every workload
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Seconds of a round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds for which large bodies go on coming while the memory is looked at
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0)]
    soak: f64,
    /// Where data folders are made; must be on a real disk, or fsync costs nothing
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write tables, pictures and figures into the repository's docs/
    #[arg(long)]
    record: bool,
    /// Measure the programs as they were built last
    #[arg(long)]
    no_build: bool,
    /// Also fill databases with so many originals and three times as many images, and measure what
    /// that costs (10 million take 15 GB for each database, one after the other)
    #[arg(long, value_name = "ORIGINALS", value_parser = clap::value_parser!(u64).range(50_000..))]
    scale: Option<u64>,
    /// Name the workloads and end
    #[arg(long)]
    list: bool,
    /// `cargo bench` passes it
    #[arg(long, hide = true)]
    bench: bool,
}

/// The profile of what is measured beside the product.
const OPTIMISED: &str = "optimised";
/// What `--only` calls the databases of `--scale`.
const SCALES: [(&str, Backend); 2] = [
    ("scale-sqlite", Backend::SqliteLocal),
    ("scale-postgres", Backend::PostgresS3),
];
/// How many originals a smoke test fills a database with.
const SMOKE_ORIGINALS: u64 = 2000;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let done = match line.command {
        Some(Command::Floor { floor }) => floor::run(floor).map(|()| true),
        None => run(&line.run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The load generator has one thread: the servers are to have the rest of the machine.
fn run(arguments: &Run) -> Result<bool> {
    if arguments.list {
        ALL.iter()
            .for_each(|workload| println!("{:<18} {}", workload.name, workload.title));
        extras::NAMES.iter().for_each(|name| println!("{name}"));
        SCALES.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(true);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(measure_all(arguments)))
}

async fn measure_all(arguments: &Run) -> Result<bool> {
    ensure!(
        arguments.smoke || !cfg!(debug_assertions),
        "only a smoke test makes sense in a debug build: cargo run --release -p bench"
    );
    let programs = programs_folder()?;
    if !arguments.no_build {
        build()?;
    }
    let data = arguments
        .data
        .clone()
        .unwrap_or_else(|| programs.join("../bench-data"));
    std::fs::create_dir_all(&data)?;
    let machine = Machine::describe(&data);
    let scale = scale_of(arguments);
    let wanted = |name: &str| {
        arguments.only.is_empty() || arguments.only.iter().any(|start| name.starts_with(start))
    };
    let workloads: Vec<&Workload> = ALL
        .iter()
        .filter(|workload| wanted(workload.name))
        .collect();
    let any_extra = extras::NAMES.iter().any(|name| wanted(name));
    let full: Vec<(&str, Backend, u64)> = arguments
        .scale
        .or(arguments.smoke.then_some(SMOKE_ORIGINALS))
        .into_iter()
        .flat_map(|originals| SCALES.map(|(name, backend)| (name, backend, originals)))
        .filter(|(name, ..)| wanted(name))
        .collect();
    ensure!(
        !workloads.is_empty() || any_extra || !full.is_empty(),
        "no such workload: --list names them"
    );
    let mut left_out = Vec::new();
    let on_postgres = |workload: &&Workload| workload.backend == Backend::PostgresS3;
    let fills_postgres = full.iter().any(|(_, on, _)| *on == Backend::PostgresS3);
    let cluster = match fills_postgres || workloads.iter().any(on_postgres) {
        true => start_cluster(&mut left_out)?,
        false => None,
    };
    if contender::find_registry().is_none() {
        left_out.push("the peer: `docker-registry` is not installed (Debian's package)".to_owned());
    }
    let hapax = programs.join("hapax");
    let services = match cfg!(debug_assertions) {
        true => programs.join("bench-services"),
        false => programs.join("..").join(OPTIMISED).join("bench-services"),
    };
    if !services.is_file() {
        left_out.push("the naive service: `bench-services` is not built".to_owned());
    }
    left_out
        .iter()
        .for_each(|reason| eprintln!("left out: {reason}"));
    let surroundings = Surroundings {
        data: data.canonicalize()?,
        hapax,
        services,
        cluster,
    };
    let (mut lines, mut emptied) = (Vec::new(), Vec::new());
    for workload in workloads {
        let contenders = measure::available(&surroundings, workload);
        if contenders.is_empty() {
            continue;
        }
        let line =
            measure::measure(&surroundings, workload, &contenders, scale, &mut emptied).await?;
        show_progress(&line);
        lines.push(line);
    }
    let extras = Extras::measure(&surroundings, scale, wanted).await?;
    let scaled = measure_scale(&surroundings, &full, scale).await?;
    let bars = if scale.smoke {
        Vec::new()
    } else {
        let mut bars = bars::judge(&lines, &extras);
        bars.extend(scaled.iter().flat_map(Scaled::bars));
        bars
    };
    let command = std::iter::once("cargo run --release -p bench --".to_owned())
        .chain(std::env::args().skip(1))
        .collect::<Vec<_>>()
        .join(" ");
    let report = Report {
        machine,
        command,
        scale,
        left_out,
        lines,
        extras,
        scaled,
        bars,
    };
    tell(&report, arguments)
}

fn scale_of(arguments: &Run) -> Scale {
    match arguments.smoke {
        true => Scale {
            rounds: 1,
            seconds: 0.3,
            warm_up_seconds: 0.1,
            soak_seconds: 0.0,
            smoke: true,
        },
        false => Scale {
            rounds: usize::from(arguments.rounds),
            seconds: arguments.seconds,
            warm_up_seconds: 1.0,
            soak_seconds: arguments.soak,
            smoke: false,
        },
    }
}

fn tell(report: &Report, arguments: &Run) -> Result<bool> {
    println!("{}", report.markdown());
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_vec_pretty(report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if arguments.record {
        record::record(report, &workspace().join("docs"))?;
    }
    let failures = report.failures();
    failures
        .iter()
        .for_each(|failure| eprintln!("failed: {failure}"));
    Ok(failures.is_empty())
}

fn start_cluster(left_out: &mut Vec<String>) -> Result<Option<Cluster>> {
    let cluster = Cluster::start().context("PostgreSQL does not start")?;
    if cluster.is_none() {
        left_out.push("PostgreSQL + S3: no PostgreSQL server is installed".to_owned());
    }
    Ok(cluster)
}

/// Full databases, one after the other: both at once may not fit.
async fn measure_scale(
    surroundings: &Surroundings,
    full: &[(&str, Backend, u64)],
    scale: Scale,
) -> Result<Vec<Scaled>> {
    let mut scaled = Vec::new();
    for &(name, backend, originals) in full {
        let there = backend == Backend::SqliteLocal || surroundings.cluster.is_some();
        if !there || !surroundings.services.is_file() {
            continue;
        }
        eprintln!("{name:<18} {originals} originals");
        let measured = scale::measure(surroundings, backend, originals, scale).await;
        scaled.push(measured.with_context(|| format!("{backend:?} with {originals} originals"))?);
    }
    Ok(scaled)
}

fn show_progress(line: &measure::Line) {
    for measured in &line.measured {
        let median = measured
            .spread(summary::THROUGHPUT)
            .map_or(0.0, |spread| spread.median);
        let own = summary::Spread::of(measured.rounds.iter().map(|round| round.load_generator_cpu));
        let busy = own.map_or(0.0, |share| share.median * 100.0);
        let name = measured.contender.name();
        eprintln!(
            "{:<18} {name:<16} {median:>10.1}/s   load generator {busy:.0} %",
            line.workload.name
        );
    }
    if line
        .of(Contender::Hapax)
        .is_some_and(|hapax| hapax.errors() > 0)
    {
        eprintln!("{:<18} Hapax answered with errors", line.workload.name);
    }
}

/// The repository this program was built in.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where cargo puts the programs: this one is there.
fn programs_folder() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("a program is in a folder")?;
    // Under `cargo bench` it is one deeper.
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    Ok(folder.to_owned())
}

/// Builds the product as it is released, and what is measured beside it optimised as much but linked
/// faster; in a debug build, which only shows that everything works, both as cargo does by itself.
fn build() -> Result<()> {
    let product: &[&str] = match cfg!(debug_assertions) {
        true => &["-p", "hapax", "-p", "bench-services"],
        false => &["--release", "-p", "hapax"],
    };
    cargo(product)?;
    match cfg!(debug_assertions) {
        true => Ok(()),
        false => cargo(&["--profile", OPTIMISED, "-p", "bench-services"]),
    }
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = std::process::Command::new(cargo)
        .args(["build", "--quiet", "--locked"])
        .args(arguments)
        .current_dir(workspace())
        .status()?;
    ensure!(built.success(), "cargo build {arguments:?} failed");
    Ok(())
}
