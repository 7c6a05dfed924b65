//! Every statement of the ledger, on a database that is full, uses an index; and `docs/queries/` shows
//! each of them with its plan.
//!
//! The statements are not a list: the ledger's functions are called, and whatever reaches the database
//! is taken. That each function is called is checked against the source.
//!
//! `HAPAX_WRITE_QUERIES=1` writes the documents anew.

mod exercise;
mod plans;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hapax::config::DatabaseConfig;
use hapax::ledger::Ledger;
use migration::{Migrator, MigratorTrait};
use sea_orm::Statement;

use crate::harness::{Context, Outside, cases};

#[path = "../../bench/services/bulk.rs"]
mod bulk;

cases! {
    both: [every_statement_uses_an_index],
    sqlite_local: [every_function_is_called],
}

/// Enough that a planner that could read the whole table would not.
const ORIGINALS: u64 = 20_000;
/// So few that reading all of them costs no more than finding one.
const A_FEW: u64 = 16;

/// Functions that ask nothing of the tables that grow, or everything once.
const NOT_CALLED: [&str; 8] = [
    "connect",
    "ping",
    "close",
    "migrate_up",
    "migrate_down",
    "migration_status",
    // A part of the transactions that are called.
    "write",
    // Reads one row of a table that has one.
    "find_store_id",
];

/// A statement, and who asked it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) function: &'static str,
    pub(crate) statement: Statement,
}

/// What reaches the database, by the function that is being called.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    asked: Arc<Mutex<Vec<Asked>>>,
    function: Arc<Mutex<&'static str>>,
}

impl Log {
    /// From now on, what is asked is asked by this function.
    pub(crate) fn calling(&self, function: &'static str) {
        *self.function.lock().expect("no holder panics") = function;
    }

    fn take(&self, statement: &Statement) {
        let function = *self.function.lock().expect("no holder panics");
        let mut asked = self.asked.lock().expect("no holder panics");
        let known = |one: &Asked| {
            one.function == function && plans::shape(&one.statement) == plans::shape(statement)
        };
        if !asked.iter().any(known) {
            asked.push(Asked {
                function,
                statement: statement.clone(),
            });
        }
    }
}

async fn every_statement_uses_an_index(ctx: &mut Context) {
    ctx.without_end_check("the rows have no objects");
    let outside = ctx.outside().await;
    Migrator::up(&outside.database, None).await.expect("up");
    let postgres = !ctx.is_sqlite();
    fill(&outside, postgres, ORIGINALS).await;

    let config = DatabaseConfig {
        url: ctx.settings["DATABASE__URL"].clone(),
        ..DatabaseConfig::default()
    };
    let mut ledger = Ledger::connect(&config).await.expect("connected");
    let log = Log::default();
    let observer = log.clone();
    ledger.observe_statements(move |statement| observer.take(statement));
    exercise::every_function(&ledger, &log, &outside.database).await;
    ledger.close().await;

    let asked = std::mem::take(&mut *log.asked.lock().expect("no holder panics"));
    let database = match postgres {
        true => plans::as_the_ledger(&config.url).await,
        false => outside.database.clone(),
    };
    let explained = plans::explain_all(&database, &asked).await;
    // As planned by default, too: where scans are switched off, a statement without an index may hide
    // behind a walk through all of another one.
    let by_default = plans::explain_all(&outside.database, &asked).await;
    if postgres {
        // A plan is kept by its connection: one of the first minute, when there were no rows, or a few and
        // statistics of them, serves later.
        for rows in [0, A_FEW] {
            outside
                .sql("TRUNCATE images, original_images, webhook_events")
                .await;
            if rows > 0 {
                fill(&outside, postgres, rows).await;
            }
            let early = plans::explain_all(&database, &asked).await;
            let worse: Vec<_> = explained
                .iter()
                .zip(&early)
                .filter(|((one, late), (_, early))| plans::finds_less(one.function, late, early))
                .map(|((one, _), (_, early))| (one.function, &one.statement.sql, early))
                .collect();
            assert!(worse.is_empty(), "with {rows} originals:\n{worse:#?}");
        }
    }
    let scans: Vec<String> = by_default
        .iter()
        .chain(&explained)
        .filter(|(one, plan)| plans::reads_a_whole_table(one.function, &one.statement.sql, plan))
        .map(|(one, plan)| format!("{}: {}\n{plan:#?}", one.function, one.statement.sql))
        .collect();
    assert!(scans.is_empty(), "without an index:\n{}", scans.join("\n"));

    let file = documents().join(match postgres {
        true => "postgresql.md",
        false => "sqlite.md",
    });
    let text = plans::document(postgres, &explained);
    if std::env::var_os("HAPAX_WRITE_QUERIES").is_some() {
        std::fs::write(&file, text).expect("the document can be written");
        return;
    }
    let written = std::fs::read_to_string(&file).expect("the document is there");
    let (shown, run) = (plans::statements_of(&written), plans::statements_of(&text));
    let differ = shown.iter().zip(&run).find(|(shown, run)| shown != run);
    assert!(
        differ.is_none() && shown.len() == run.len(),
        "{} shows {} lines, the ledger runs {}; HAPAX_WRITE_QUERIES=1 writes it anew. The first:\n{differ:#?}",
        file.display(),
        shown.len(),
        run.len(),
    );
}

/// That many originals, three images of each, and as many deliveries.
async fn fill(outside: &Outside, postgres: bool, originals: u64) {
    let bulk = bulk::Bulk {
        postgres,
        originals,
    };
    outside.sql(&bulk.insert_originals(0, originals - 1)).await;
    outside.sql(&bulk.insert_images(0, bulk.images() - 1)).await;
    outside.sql(&receipts(postgres, originals)).await;
    // Autovacuum does that in service; SQLite plans without statistics, there as here.
    if postgres {
        outside.sql("ANALYZE").await;
    }
}

/// Webhook deliveries of the past.
fn receipts(postgres: bool, number_of_them: u64) -> String {
    let (numbers, number, empty) = match postgres {
        true => ("generate_series(1, 1000000) AS n", "n", "'{}'::jsonb"),
        false => ("images", "rowid", "'{}'"),
    };
    format!(
        "INSERT INTO webhook_events (source, event_id, result)
         SELECT 'default', 'loaded ' || {number}, {empty} FROM {numbers} LIMIT {number_of_them}"
    )
}

/// A new function of the ledger must be called in `exercise`, or its statements are never seen.
async fn every_function_is_called(ctx: &mut Context) {
    ctx.without_end_check("it looks at sources only");
    let mut missing = BTreeSet::new();
    let calls = include_str!("queries/exercise.rs");
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ledger")) {
        let text = std::fs::read_to_string(&file).expect("a source can be read");
        for (_, rest) in text
            .match_indices("pub async fn ")
            .map(|(at, found)| text.split_at(at + found.len()))
        {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            let called =
                calls.contains(&format!("\"{name}\"")) && calls.contains(&format!(".{name}("));
            if !called && !NOT_CALLED.contains(&name.as_str()) {
                missing.insert(name);
            }
        }
    }
    assert_eq!(
        missing,
        BTreeSet::new(),
        "not called in tests/it/queries/exercise.rs"
    );
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)
        .expect("the folder is there")
        .flatten()
    {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(sources(&path)),
            false => found.push(path),
        }
    }
    found
}

fn documents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/queries")
}
