//! Fills a migrated database with rows, as fast as it takes them, and leaves it as service would have:
//! every index there, the counters right, PostgreSQL vacuumed and analysed.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hapax::config::DatabaseConfig;
use hapax::ledger::Ledger;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement,
};

use super::bulk::Bulk;

/// Rows of one statement, and so of one transaction.
const CHUNK: u64 = 1_000_000;

/// Loads so many originals and three times as many images into a database without any.
pub(super) async fn load(url: &str, originals: u64) -> Result<()> {
    let began = Instant::now();
    let say = |what: &str| eprintln!("  {what} after {:.0} s", began.elapsed().as_secs_f64());
    let database = connect(url).await?;
    let postgres = database.get_database_backend() == DbBackend::Postgres;
    let bulk = Bulk {
        postgres,
        originals,
    };
    let set_aside = set_indexes_aside(&database).await?;
    for from in (0..originals).step_by(CHUNK as usize) {
        let through = (from + CHUNK).min(originals) - 1;
        run(&database, &bulk.insert_originals(from, through)).await?;
    }
    say("originals");
    for from in (0..bulk.images()).step_by(CHUNK as usize) {
        let through = (from + CHUNK).min(bulk.images()) - 1;
        run(&database, &bulk.insert_images(from, through)).await?;
    }
    say("images");
    for statement in &set_aside {
        run(&database, statement).await?;
    }
    say("indexes");
    count(url).await?;
    say("counters");
    match postgres {
        true => run(&database, "VACUUM (ANALYZE)").await?,
        // Hapax never analyses an SQLite database: neither is this one.
        false => run(&database, "PRAGMA wal_checkpoint(TRUNCATE)").await?,
    }
    database.close().await?;
    say("all there");
    Ok(())
}

async fn run(database: &DatabaseConnection, sql: &str) -> Result<()> {
    let done = database.execute_unprepared(sql).await;
    done.with_context(|| sql.chars().take(200).collect::<String>())?;
    Ok(())
}

/// One connection without time-outs, durability or foreign keys: whoever loads checks afterwards.
async fn connect(url: &str) -> Result<DatabaseConnection> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    options.map_sqlx_sqlite_opts(|sqlite: SqliteConnectOptions| {
        sqlite
            .foreign_keys(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Off)
            .pragma("cache_size", "-2000000")
    });
    let database = Database::connect(options).await?;
    if database.get_database_backend() == DbBackend::Postgres {
        for setting in [
            "session_replication_role = replica",
            "synchronous_commit = off",
            "maintenance_work_mem = '1GB'",
        ] {
            run(&database, &format!("SET {setting}")).await?;
        }
    }
    Ok(database)
}

/// Drops the indexes that can be made again faster than they grow; what makes them again.
async fn set_indexes_aside(database: &DatabaseConnection) -> Result<Vec<String>> {
    let (indexes, drop) = match database.get_database_backend() {
        DbBackend::Postgres => (
            "SELECT 'INDEX ' || indexname AS name, indexdef AS definition FROM pg_indexes
             WHERE tablename IN ('images', 'original_images') AND schemaname = current_schema()
                AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = indexname)
             UNION ALL
             SELECT 'CONSTRAINT ' || conname,
                'ALTER TABLE original_images ADD CONSTRAINT ' || conname || ' ' || pg_get_constraintdef(oid)
             FROM pg_constraint WHERE contype = 'u' AND conrelid = 'original_images'::regclass",
            "ALTER TABLE original_images DROP ",
        ),
        _ => (
            "SELECT 'INDEX ' || name AS name, sql AS definition FROM sqlite_master
             WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN ('images', 'original_images')",
            "",
        ),
    };
    let statement = Statement::from_string(database.get_database_backend(), indexes);
    let mut definitions = Vec::new();
    for row in database.query_all_raw(statement).await? {
        let name: String = row.try_get("", "name")?;
        definitions.push(row.try_get("", "definition")?);
        match name.starts_with("INDEX") {
            true => run(database, &format!("DROP {name}")).await?,
            false => run(database, &format!("{drop}{name}")).await?,
        }
    }
    ensure!(!definitions.is_empty(), "the database is not migrated");
    Ok(definitions)
}

/// As `hapax verify --repair` counts, and then checks.
async fn count(url: &str) -> Result<()> {
    let config = DatabaseConfig {
        url: url.to_owned(),
        ..DatabaseConfig::default()
    };
    let ledger = Ledger::connect(&config).await?;
    for difference in ledger.check_usage().await? {
        ensure!(
            ledger.repair_usage(&difference).await?,
            "somebody else repairs"
        );
    }
    ledger.close().await;
    Ok(())
}
