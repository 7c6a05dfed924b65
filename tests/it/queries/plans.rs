//! Plans: asked of the database, judged, and written down.

use hapax::ledger::PLANNER;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement,
};

use super::Asked;

/// Functions whose task is a pass over everything, and why that is right.
const WHOLE_PASSES: [(&str, &str); 4] = [
    (
        "check_usage",
        "compares the counters with what they count: all of it, once, for `hapax verify`",
    ),
    (
        "count_originals",
        "the length of the progress bar of `hapax verify`, which reads every row afterwards",
    ),
    (
        "next_count_slice",
        "a page of `hapax verify`, which goes through all rows in the order of an index",
    ),
    (
        "miscounted_originals",
        "the counts of such a page: its rows by the index, and the images of each by theirs",
    ),
];

/// Tables that grow with every upload, or every delivery.
const GROWING: [&str; 3] = ["original_images", "images", "webhook_events"];
/// Indexes that hold rows in transit alone: reading all of one is reading what is asked for.
const SMALL_INDEXES: [&str; 3] = [
    "original_images_pending",
    "original_images_unreferenced",
    "original_images_deleting",
];

/// A connection to PostgreSQL on which statements are planned as on the ledger's.
pub(super) async fn as_the_ledger(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    options.map_sqlx_postgres_opts(|postgres| postgres.options(PLANNER));
    let database = Database::connect(options).await;
    database.expect("the database accepts connections")
}

/// Each with how the database would run it.
pub(super) async fn explain_all<'a>(
    database: &DatabaseConnection,
    asked: &'a [Asked],
) -> Vec<(&'a Asked, Vec<String>)> {
    let mut explained = Vec::new();
    for one in asked {
        explained.push((one, explain(database, &one.statement).await));
    }
    explained
}

/// How the database would run the statement, with the values it was run with: one line a step.
async fn explain(database: &DatabaseConnection, statement: &Statement) -> Vec<String> {
    let (prefix, column) = match database.get_database_backend() {
        DbBackend::Postgres => ("EXPLAIN (COSTS OFF) ", "QUERY PLAN"),
        _ => ("EXPLAIN QUERY PLAN ", "detail"),
    };
    let mut asked = statement.clone();
    asked.sql = format!("{prefix}{}", statement.sql);
    let rows = database.query_all_raw(asked).await;
    rows.unwrap_or_else(|error| panic!("{}: {error}", statement.sql))
        .iter()
        .map(|row| {
            let line: String = row.try_get("", column).expect("a plan is text");
            without_values(&line)
        })
        .collect()
}

/// Whether a step reads a table that grows from end to end.
pub(super) fn reads_a_whole_table(function: &str, sql: &str, plan: &[String]) -> bool {
    if WHOLE_PASSES.iter().any(|(name, _)| *name == function) {
        return false;
    }
    plan.iter().any(|line| {
        let on_growing = |start: &str| {
            let rest = line.split(start).nth(1).unwrap_or_default();
            let table = rest.split_whitespace().next().unwrap_or_default();
            GROWING.contains(&table)
        };
        let small = SMALL_INDEXES.iter().any(|index| line.contains(index));
        // SQLite walks an index from its end when only the first rows of it are wanted: no other
        // statement may read one that is not small.
        let is_first_rows = line.contains("USING") && sql.contains("LIMIT");
        on_growing("Seq Scan on ") || (on_growing("SCAN ") && !small && !is_first_rows)
    })
}

/// Whether fewer rows are found by an index in one plan of PostgreSQL than in another one.
pub(super) fn finds_less(function: &str, than: &[String], plan: &[String]) -> bool {
    let found = |plan: &[String]| {
        let lines = plan.iter();
        lines.filter(|line| line.contains("Index Cond:")).count()
    };
    let is_whole_pass = WHOLE_PASSES.iter().any(|(name, _)| *name == function);
    !is_whole_pass && found(plan) < found(than)
}

/// A statement on one line.
pub(super) fn shape(statement: &Statement) -> String {
    let words = statement.sql.split_whitespace().collect::<Vec<_>>();
    words.join(" ")
}

/// Plans show bound values: ids and times of this run say nothing.
fn without_values(line: &str) -> String {
    let mut parts = line.split('\'');
    let mut text = parts.next().unwrap_or_default().to_owned();
    while let (Some(value), Some(rest)) = (parts.next(), parts.next()) {
        let kept = ["pending", "stored", "deleting", "", "default"].contains(&value);
        let value = if kept { value } else { "…" };
        text = format!("{text}'{value}'{rest}");
    }
    text
}

/// The whole document.
pub(super) fn document(postgres: bool, explained: &[(&Asked, Vec<String>)]) -> String {
    let name = if postgres { "PostgreSQL" } else { "SQLite" };
    let mut text = format!(
        "# Statements and plans on {name}\n\n\
         Written by `HAPAX_WRITE_QUERIES=1 ./tests/run --test it -- queries`; see [queries](../queries.md).\n"
    );
    let mut functions: Vec<&str> = Vec::new();
    for (asked, _) in explained {
        if !functions.contains(&asked.function) {
            functions.push(asked.function);
        }
    }
    for function in functions {
        text += &format!("\n## {function}\n");
        let reason = WHOLE_PASSES.iter().find(|(name, _)| *name == function);
        if let Some((_, reason)) = reason {
            text += &format!("\nA whole pass: {reason}.\n");
        }
        for (asked, plan) in explained.iter().filter(|(one, _)| one.function == function) {
            let sql = shape(&asked.statement);
            let plan = match &plan[..] {
                [] => "inserts".to_owned(),
                lines => lines.join("\n"),
            };
            text += &format!("\n```sql\n{sql}\n```\n\n```text\n{plan}\n```\n");
        }
    }
    text
}

/// The statements of a document, with their headings: what must not get old.
pub(super) fn statements_of(document: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let mut is_sql = false;
    for line in document.lines() {
        match line {
            "```sql" => is_sql = true,
            "```" => is_sql = false,
            _ if is_sql || line.starts_with("## ") => statements.push(line),
            _ => {}
        }
    }
    statements
}
