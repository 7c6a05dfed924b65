//! What a full database costs: Hapax on an empty one and on one with millions of rows, in turns; and
//! the questions that must not get slower, on the full one.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::bars::Bar;
use crate::client::Traffic;
use crate::contender::{Backend, Contender, Started, Surroundings};
use crate::load::{self, Until};
use crate::loaded;
use crate::summary::Spread;
use crate::wire::Connection;
use crate::workload::Scale;

/// Connections of the comparison.
const CONNECTIONS: u64 = 16;
/// How often each question is asked.
const QUESTIONS: usize = 50;

/// What is compared.
const OPERATIONS: [(&str, Traffic, u64); 3] = [
    ("duplicate, 100 KiB", Traffic::Duplicate, 100 * 1024),
    ("reference to any content", Traffic::Reference, 1024),
    ("delete of any image", Traffic::Delete, 1024),
];

/// One full database.
#[derive(Debug, Serialize)]
pub(crate) struct Scaled {
    pub(crate) backend: Backend,
    pub(crate) originals: u64,
    pub(crate) images: u64,
    pub(crate) database_gib: f64,
    pub(crate) load_seconds: f64,
    pub(crate) operations: Vec<Compared>,
    pub(crate) questions: Vec<Question>,
}

/// The median latency of an operation on both databases.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    pub(crate) what: &'static str,
    pub(crate) empty_p50_ms: Spread,
    pub(crate) full_p50_ms: Spread,
    /// Full to empty, round by round.
    pub(crate) ratio: Spread,
}

/// The latency of a question to the full database.
#[derive(Debug, Serialize)]
pub(crate) struct Question {
    pub(crate) what: String,
    pub(crate) p50_ms: f64,
    pub(crate) most_ms: f64,
}

#[derive(Deserialize)]
struct Polls {
    milliseconds: std::collections::BTreeMap<String, Vec<f64>>,
    deep_cursor: String,
}

/// Fills a database and measures it beside an empty one; removes both.
pub(crate) async fn measure(
    surroundings: &Surroundings,
    backend: Backend,
    originals: u64,
    scale: Scale,
) -> Result<Scaled> {
    let empty = surroundings
        .start_as(Contender::Hapax, backend, "bench_empty")
        .await?;
    // The first start makes the schema, and ties database and store together.
    let full = surroundings
        .start_as(Contender::Hapax, backend, "bench_full")
        .await?;
    let began = Instant::now();
    let count = originals.to_string();
    let full = surroundings
        .restart(full, async |url: &str| {
            let load = ["load", "--url", url, "--originals", &count];
            run(surroundings, &load).await.map(drop)
        })
        .await?;
    let load_seconds = began.elapsed().as_secs_f64();
    let database_gib = database_bytes(surroundings, &full)? as f64 / (1u64 << 30) as f64;
    let questions = ask(surroundings, &full, originals, scale).await?;
    let mut servers = [empty, full];
    let mut operations = Vec::new();
    let mut used = 0;
    for (what, traffic, file_bytes) in OPERATIONS {
        let count = connections(scale);
        for server in &mut servers {
            server.clients.clear();
            server.connect(count, traffic, file_bytes).await?;
        }
        operations.push(compare(&mut servers, what, traffic, originals, &mut used, scale).await?);
    }
    for server in servers {
        let database = server.database.clone();
        server.stop().await?;
        if let (Some(cluster), Some(name)) = (&surroundings.cluster, database) {
            cluster.drop_database(&name)?;
        }
    }
    Ok(Scaled {
        backend,
        originals,
        images: originals * 3,
        database_gib,
        load_seconds,
        operations,
        questions,
    })
}

fn connections(scale: Scale) -> u64 {
    if scale.smoke { 2 } else { CONNECTIONS }
}

fn requests(scale: Scale) -> u64 {
    if scale.smoke { 5 } else { 100 }
}

/// Both servers in turns; the one on the full database is given rows from all over it.
async fn compare(
    servers: &mut [Started; 2],
    what: &'static str,
    traffic: Traffic,
    originals: u64,
    used: &mut u64,
    scale: Scale,
) -> Result<Compared> {
    let until = Until::Requests(requests(scale));
    let (mut empty, mut full) = (Vec::new(), Vec::new());
    // The first round warms up and does not count.
    for round in 0..=scale.rounds {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let server = &mut servers[which];
            if which == 1 {
                for client in &mut server.clients {
                    let numbers = *used..*used + requests(scale);
                    *used = numbers.end;
                    let numbers = numbers.map(|index| loaded::scattered(index, originals));
                    match traffic {
                        Traffic::Delete => client.stock(numbers.map(loaded::id)),
                        Traffic::Reference => client.stock(numbers.map(loaded::content_hash)),
                        _ => {}
                    }
                }
            }
            load::prepare(&mut server.clients, until).await?;
            let observed = load::drive(&mut server.clients, until).await;
            ensure!(observed.errors == 0, "{what}: {:?}", observed.first_error);
            if round > 0 {
                [&mut empty, &mut full][which].push(observed.percentile(0.5));
            }
        }
    }
    let ratio = full.iter().zip(&empty).map(|(full, empty)| full / empty);
    let ratio = Spread::of(ratio).context("there was a round")?;
    Ok(Compared {
        what,
        empty_p50_ms: Spread::of(empty).context("there was a round")?,
        full_p50_ms: Spread::of(full).context("there was a round")?,
        ratio,
    })
}

async fn ask(
    surroundings: &Surroundings,
    full: &Started,
    originals: u64,
    scale: Scale,
) -> Result<Vec<Question>> {
    let (url, count) = (surroundings.database_url(full), originals.to_string());
    let rounds = if scale.smoke { 2 } else { QUESTIONS };
    let times = rounds.to_string();
    let polls = [
        "polls",
        "--url",
        &url,
        "--originals",
        &count,
        "--rounds",
        &times,
    ];
    let polls: Polls = serde_json::from_str(run(surroundings, &polls).await?.trim())?;
    let mut questions: Vec<Question> = polls
        .milliseconds
        .into_iter()
        .map(|(what, times)| question(what, times))
        .collect();
    let mut connection = Connection::open(full.process.address).await?;
    let deep = polls.deep_cursor;
    for (what, path) in [
        ("list, first page of 100", "/v1/images?limit=100".to_owned()),
        (
            "list, page in the middle",
            format!("/v1/images?limit=100&cursor={deep}"),
        ),
        (
            "list with deleted images, page in the middle",
            format!("/v1/images?limit=100&include_deleted=true&cursor={deep}"),
        ),
        ("stats", "/v1/stats".to_owned()),
    ] {
        let mut times = Vec::new();
        for _ in 0..rounds {
            let began = Instant::now();
            let reply = connection.short("GET", &path, "", &[]).await?.expect(200)?;
            times.push(began.elapsed().as_secs_f64() * 1000.0);
            ensure!(reply.body_bytes > 100, "{path} says nothing");
        }
        questions.push(question(what.to_owned(), times));
    }
    Ok(questions)
}

fn question(what: String, mut times: Vec<f64>) -> Question {
    times.sort_by(f64::total_cmp);
    Question {
        what,
        p50_ms: times.get(times.len() / 2).copied().unwrap_or_default(),
        most_ms: times.last().copied().unwrap_or_default(),
    }
}

/// Runs the program that needs a database driver to its end; what it says.
async fn run(surroundings: &Surroundings, arguments: &[&str]) -> Result<String> {
    let output = Command::new(&surroundings.services)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("bench-services does not start")?;
    ensure!(output.status.success(), "{arguments:?} failed");
    Ok(String::from_utf8(output.stdout)?)
}

fn database_bytes(surroundings: &Surroundings, started: &Started) -> Result<u64> {
    match (&surroundings.cluster, &started.database) {
        (Some(cluster), Some(name)) => cluster.size(name),
        _ => {
            let file = started.folder.path().join("hapax-data/hapax.db");
            Ok(std::fs::metadata(file)?.len())
        }
    }
}

impl Scaled {
    /// A heading and two tables' rows.
    pub(crate) fn title(&self) -> String {
        let backend = match self.backend {
            Backend::SqliteLocal => "SQLite",
            Backend::PostgresS3 => "PostgreSQL",
        };
        let million = 1e6;
        format!(
            "{backend} with {:.1} million originals and {:.1} million images ({:.1} GiB, loaded in {:.0} s)",
            self.originals as f64 / million,
            self.images as f64 / million,
            self.database_gib,
            self.load_seconds
        )
    }

    /// The bars that this database is for.
    pub(crate) fn bars(&self) -> Vec<Bar> {
        let name = self.title();
        // A reference is shown beside them, and in no bar.
        let slowest = self
            .operations
            .iter()
            .filter(|operation| !operation.what.starts_with("reference"))
            .max_by(|one, other| one.ratio.median.total_cmp(&other.ratio.median));
        let longest = self
            .questions
            .iter()
            .max_by(|one, other| one.p50_ms.total_cmp(&other.p50_ms));
        let mut bars = Vec::new();
        let mut add = |bar, measured: Option<(String, bool)>| {
            let (measured, met) = measured.unzip();
            bars.push(Bar {
                what: name.clone(),
                bar,
                measured,
                met,
            });
        };
        add(
            "duplicate, delete: p50 ≤ 1.3 × the empty database's",
            slowest.map(|slowest| {
                let Spread { median, min, max } = slowest.ratio;
                let text = format!("at most {median:.2} ({min:.2}–{max:.2}): {}", slowest.what);
                (text, median <= 1.3)
            }),
        );
        add(
            "clean-up poll, list page, stats ≤ 20 ms",
            longest.map(|longest| {
                let text = format!("at most {:.1} ms: {}", longest.p50_ms, longest.what);
                (text, longest.p50_ms <= 20.0)
            }),
        );
        bars
    }
}
