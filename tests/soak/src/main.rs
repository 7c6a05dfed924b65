//! Hapax under load while everything below it fails: `cargo run --release -p soak`, and nothing else
//! to prepare but a PostgreSQL server's programs.
//!
//! In reading order: [`client`] sends and writes down in the [`journal`]; [`chaos`] breaks the
//! [`fleet`], [`faults`] the way through the [`proxy`]; [`finish`] judges, by [`history`] and
//! [`audit`], what is seen from [`outside`]. Nothing here knows the product's code.

#![allow(missing_docs, reason = "a program: its items are nobody's interface")]

mod api;
mod audit;
mod chaos;
mod client;
mod content;
mod faults;
mod findings;
mod finish;
mod fleet;
mod history;
mod journal;
mod outside;
mod process;
mod proxy;
mod report;
mod servers;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use rand::RngExt;

use api::{Api, Nodes};
use client::{Client, World};
use faults::Faults;
use findings::{Findings, Kind};
use finish::Judged;
use fleet::{Fleet, Programs};
use journal::Journal;
use outside::Outside;
use proxy::Proxy;
use report::{Report, Sources};

const SERVERS: usize = 3;
/// Between two looks at all rows.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(8);
/// For everything before and after the load: starts, rest, reading back. Past it the run has failed.
const OVERTIME: Duration = Duration::from_secs(25 * 60);
/// How long clients may take to find out what became of their last operations.
const RESOLVE_LIMIT: Duration = Duration::from_secs(120);

/// Three servers on one PostgreSQL and one S3 server, all of which fail, and clients that keep book.
#[derive(Debug, Parser)]
#[command(name = "soak", args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the soak starts itself as
    #[command(hide = true)]
    S3 { folder: PathBuf },
}

#[derive(Debug, Args)]
struct Run {
    /// How long to go on; what comes before and after is not counted
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Where all decisions come from; drawn and told where none is given
    #[arg(long)]
    seed: Option<u64>,
    /// Clients at the same time
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// Operations a second that all clients together do at most
    #[arg(long, default_value_t = 150.0)]
    rate: f64,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the run's folder is made; removed after a run without findings
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// The program under test; built where none is given
    #[arg(long, value_name = "FILE")]
    hapax: Option<PathBuf>,
    /// Rules of the protocol that the servers leave out, to see that it is noticed: `R8a,R6`; needs a
    /// program built with the feature `seams`
    #[arg(long, value_name = "RULES", requires = "hapax")]
    without: Option<String>,
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let done = match line.command {
        Some(Command::S3 { folder }) => serve_s3(&folder).map(|()| true),
        None => soak(&line.run),
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

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

fn serve_s3(folder: &Path) -> Result<()> {
    runtime()?.block_on(async {
        let service = testkit::s3::service(folder, servers::S3_ACCESS_KEY, servers::S3_SECRET_KEY)?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "listening on http://{}", listener.local_addr()?)?;
        stdout.flush()?;
        Ok(testkit::s3::serve(listener, service).await?)
    })
}

/// Whether nothing was found.
fn soak(arguments: &Run) -> Result<bool> {
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random());
    eprintln!(
        "soak: seed {seed}, {} s, {} clients",
        arguments.seconds, arguments.clients
    );
    let programs = Programs {
        hapax: program_under_test(arguments)?,
        own: std::env::current_exe()?,
        without: arguments.without.clone(),
    };
    let parent = arguments.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new()
        .prefix("hapax-soak-")
        .tempdir_in(parent)?;
    end_in_any_case(Duration::from_secs(arguments.seconds) + OVERTIME);
    let runtime = runtime()?;
    let report = runtime.block_on(run(arguments, seed, programs, folder.path()));
    let is_clean = report
        .as_ref()
        .is_ok_and(|report| report.findings.is_empty());
    if !is_clean {
        let kept = folder.keep();
        eprintln!("soak: logs, journal and bucket are in {}", kept.display());
    }
    let report = report?;
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    println!("{}", report.line());
    Ok(is_clean)
}

/// Whatever hangs: the kernel ends the servers with this process, and the cluster's watchdog the
/// cluster.
fn end_in_any_case(limit: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        eprintln!("soak: FAILED: not done after {limit:?}");
        std::process::exit(1);
    });
}

/// The program of the same profile as this one.
fn program_under_test(arguments: &Run) -> Result<PathBuf> {
    if let Some(program) = &arguments.hapax {
        return Ok(std::path::absolute(program)?);
    }
    let mut build = std::process::Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    // Both by name: with the same set of packages, cargo keeps what it has built.
    build.args(["build", "--quiet", "--locked", "-p", "hapax", "-p", "soak"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let built = build.current_dir(workspace).status()?;
    ensure!(built.success(), "the program under test cannot be built");
    let own = std::env::current_exe()?;
    Ok(own.with_file_name("hapax"))
}

async fn run(arguments: &Run, seed: u64, programs: Programs, folder: &Path) -> Result<Report> {
    let findings = Arc::new(Findings::default());
    let faults = Arc::new(Faults::new(seed ^ 1));
    let proxy = Arc::new(Proxy::new(faults.clone())?);
    let nodes = Arc::new(Nodes::new(SERVERS));
    let fleet = Fleet::start(
        programs,
        folder,
        proxy.clone(),
        nodes.clone(),
        findings.clone(),
    );
    let mut fleet = fleet.await.context("the start")?;
    let journal = Journal::create(&folder.join("journal.jsonl"))?;
    let world = World::new(Api::new(nodes)?, journal, findings.clone(), seed);
    let world = Arc::new(world);
    let outside = Arc::new(Outside::new(&fleet.database_url())?);
    let snapshots = Arc::new(AtomicU64::new(0));

    let interval = Duration::from_secs_f64(f64::from(arguments.clients) / arguments.rate.max(0.1));
    let clients: Vec<_> = (0..usize::from(arguments.clients))
        .map(|number| tokio::spawn(Client::new(world.clone(), number, seed).run(interval)))
        .collect();
    let watching = tokio::spawn(watch(outside.clone(), world.clone(), snapshots.clone()));
    faults.enable(true);
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    chaos::run(&mut fleet, &faults, seed ^ 2, end).await?;
    world.stop();
    resolve(&mut fleet, &world, clients).await?;
    watching.abort();

    eprintln!("soak: the load has ended; waiting for rest");
    let judged: Judged = finish::judge(&mut fleet, &world, &proxy, &outside, folder).await?;
    let sources = Sources {
        seed,
        seconds: arguments.seconds,
        clients: usize::from(arguments.clients),
        record: &world.journal.snapshot(),
        fleet: &fleet.figures,
        faults: &faults.counts(),
        late: proxy.late(),
        snapshots: snapshots.load(Ordering::Relaxed),
        judged: &judged,
        findings: findings.told(),
    };
    Ok(Report::of(sources))
}

/// Waits until every client knows what became of its last operation.
async fn resolve(
    fleet: &mut Fleet,
    world: &Arc<World>,
    clients: Vec<tokio::task::JoinHandle<()>>,
) -> Result<()> {
    let deadline = Instant::now() + RESOLVE_LIMIT;
    while clients.iter().any(|client| !client.is_finished()) {
        fleet.supervise()?;
        if Instant::now() > deadline {
            let text = "clients cannot find out what became of their operations";
            world.findings.add(Kind::Wrong, text);
            world.give_up();
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for client in clients {
        client.await.context("a client panicked")?;
    }
    Ok(())
}

/// Looks at all rows again and again, in one snapshot each time, and says how it goes.
async fn watch(outside: Arc<Outside>, world: Arc<World>, snapshots: Arc<AtomicU64>) {
    let mut before = 0;
    loop {
        tokio::time::sleep(SNAPSHOT_INTERVAL).await;
        // The database is down now and then.
        if let Ok(wrong) = outside.never().await {
            snapshots.fetch_add(1, Ordering::Relaxed);
            for text in wrong {
                world
                    .findings
                    .add(Kind::Miscounted, format!("while it ran: {text}"));
            }
        }
        let acknowledged = world.journal.acknowledged();
        eprintln!(
            "soak: {acknowledged} acknowledged, {:.0} a second",
            (acknowledged - before) as f64 / SNAPSHOT_INTERVAL.as_secs_f64()
        );
        before = acknowledged;
    }
}
