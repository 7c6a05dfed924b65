//! The PostgreSQL clusters of the tests: one for the whole test binary, and one of its own for a case
//! that stops its database.

use std::sync::LazyLock;

use testkit::postgres;

/// Durability costs most of a small transaction's time, and nothing here outlives the run.
const SETTINGS: &[&str] = &["fsync=off", "full_page_writes=off", "max_connections=400"];

static SHARED: LazyLock<Cluster> = LazyLock::new(Cluster::start_new);

/// Whether a server can be started.
pub(crate) fn find_binaries() -> Result<(), String> {
    let found = postgres::find_binaries().map(drop);
    found.ok_or_else(|| {
        "no PostgreSQL server (initdb, pg_ctl) is installed; ./tests/run installs it".to_owned()
    })
}

/// A running cluster.
#[derive(Debug)]
pub(crate) struct Cluster(postgres::Cluster);

impl Cluster {
    /// The cluster that the whole test binary shares.
    pub(crate) fn shared() -> &'static Self {
        &SHARED
    }

    /// Makes and starts a cluster.
    pub(crate) fn start_new() -> Self {
        Self(postgres::Cluster::start_new(SETTINGS).expect("PostgreSQL starts"))
    }

    /// The URL of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        self.0.url(database)
    }

    /// Makes an empty database.
    pub(crate) fn create_database(&self, name: &str) {
        let made = self.0.create_database(name);
        made.expect("a database can be made");
    }

    /// Removes a database, whoever is connected to it.
    pub(crate) fn drop_database(&self, name: &str) {
        // A database left behind goes with the cluster.
        let _ = self.0.drop_database(name);
    }

    /// Starts it again on the port it had.
    pub(crate) fn start(&self) {
        self.0.start().expect("the cluster starts again");
    }

    /// Stops it as a power cut would.
    pub(crate) fn stop(&self) {
        self.0.stop().expect("the cluster runs");
    }
}
