//! A throw-away PostgreSQL cluster with its default, durable settings.

use anyhow::{Context, Result};
use testkit::postgres;

/// Roomier than a small installation, and as durable as every one.
const SETTINGS: &[&str] = &["max_connections=200", "shared_buffers=256MB"];

/// A running cluster; stopped and removed when dropped.
#[derive(Debug)]
pub(crate) struct Cluster(postgres::Cluster);

impl Cluster {
    /// Makes and starts a cluster; `None` where PostgreSQL is not installed.
    pub(crate) fn start() -> Result<Option<Self>> {
        if postgres::find_binaries().is_none() {
            return Ok(None);
        }
        Ok(Some(Self(postgres::Cluster::start_new(SETTINGS)?)))
    }

    /// The URL of a new, empty database.
    pub(crate) fn new_database(&self, name: &str) -> Result<String> {
        self.0.drop_database(name)?;
        self.0.create_database(name)?;
        Ok(self.url(name))
    }

    /// The URL of a database.
    pub(crate) fn url(&self, name: &str) -> String {
        self.0.url(name)
    }

    /// How many bytes a database takes.
    pub(crate) fn size(&self, name: &str) -> Result<u64> {
        let rows = self
            .0
            .query(&format!("SELECT pg_database_size('{name}')"))?;
        rows.trim().parse().context("no such database")
    }

    /// Removes a database, whoever is connected to it.
    pub(crate) fn drop_database(&self, name: &str) -> Result<()> {
        Ok(self.0.drop_database(name)?)
    }

    /// Transactions committed in a database. Backends report theirs at most once a second: wait that
    /// long before asking.
    pub(crate) fn commits(&self, name: &str) -> Result<u64> {
        let sql = format!("SELECT xact_commit FROM pg_stat_database WHERE datname = '{name}'");
        let rows = self.0.query(&sql)?;
        rows.trim().parse().context("no such database")
    }
}
