//! What a case is given: a fresh database, an empty store, a folder, and servers on them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::{Api, text_of};
use super::gate::{Action, Gate, Hold, Operation};
use super::outside::{Objects, Outside, files_below};
use super::postgres::Cluster;
use super::relay::Relay;
use super::s3::S3Server;
#[cfg(feature = "seams")]
use super::seams::SeamControl;
use super::server::{self, Output, Running, Server, Settings};
use super::{Backend, Case};

/// Every case runs with these unless it says otherwise: quick reapers, short leases.
const SETTINGS: &[(&str, &str)] = &[
    ("SERVER__BIND", "127.0.0.1:0"),
    ("SERVER__WORKERS", "2"),
    ("DATABASE__MAX_CONNECTIONS", "8"),
    ("CLEANUP__INTERVAL", "200ms"),
    ("UPLOAD__MAX_BYTES", "64 MiB"),
    ("UPLOAD__LEASE", "8s"),
    ("UPLOAD__PUT_DEADLINE", "10s"),
    ("STORAGE__S3__OPERATION_TIMEOUT", "5s"),
    ("STORAGE__S3__CONNECT_TIMEOUT", "2s"),
    ("STORAGE__S3__MIN_THROUGHPUT", "64 MiB"),
];

/// The prefix of keys in the bucket: not the default, so that a forgotten prefix shows.
const PREFIX: &str = "tests/hapax";

/// One case's world.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) backend: Backend,
    pub(crate) settings: Settings,
    /// Grace of unreferenced originals; the end check goes by it.
    grace: Duration,
    folder: TempDir,
    servers: Vec<Server>,
    database: String,
    bucket: String,
    own_cluster: Option<Cluster>,
    store_relay: Option<Relay>,
    outside: Option<Outside>,
    without_end_check: Option<&'static str>,
}

impl Context {
    /// Makes a database and a store; starts nothing.
    pub(crate) async fn new(case: Case) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("hapax-test-")
            .tempdir()
            .expect("a temporary folder can be made");
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let mut context = Self {
            backend: case.backend,
            settings: Settings::new(),
            grace: Duration::ZERO,
            folder,
            servers: Vec::new(),
            database: format!("t{unique}"),
            bucket: format!("t-{unique}"),
            own_cluster: None,
            store_relay: None,
            outside: None,
            without_end_check: None,
        };
        for (name, value) in SETTINGS {
            context.set(name, *value);
        }
        #[cfg(feature = "seams")]
        if let Ok(rules) = std::env::var("HAPAX_SEAMS_WITHOUT") {
            // The mutation check: every server and command of every case leaves these rules out.
            context.set("SEAMS_WITHOUT", &rules);
        }
        context.set("UPLOAD__SPOOL_PATH", &context.path("spool").display());
        match context.backend {
            Backend::SqliteLocal => {
                let file = context.path("hapax.db");
                context.set("DATABASE__URL", &format!("sqlite://{}", file.display()));
                context.set("STORAGE__LOCAL__PATH", &context.path("objects").display());
            }
            Backend::PostgresS3 => {
                Cluster::shared().create_database(&context.database);
                context.set("DATABASE__URL", &Cluster::shared().url(&context.database));
                context.use_bucket().await;
            }
        }
        context
    }

    async fn use_bucket(&mut self) {
        let server = S3Server::shared();
        let made = server.observer().create_bucket().bucket(&self.bucket);
        made.send().await.expect("a bucket can be made");
        let bucket = self.bucket.clone();
        let values = [
            ("BACKEND", "s3".to_owned()),
            ("S3__BUCKET", bucket),
            ("S3__PREFIX", PREFIX.to_owned()),
            ("S3__ENDPOINT", format!("http://{}", server.gate_address)),
            ("S3__REGION", server.region.clone()),
            ("S3__PATH_STYLE", "true".to_owned()),
            ("S3__ACCESS_KEY_ID", server.access_key.clone()),
            ("S3__SECRET_ACCESS_KEY", server.secret_key.clone()),
        ];
        for (name, value) in values {
            self.set(&format!("STORAGE__{name}"), &value);
        }
    }

    /// Sets `HAPAX__{name}` for servers and commands started from now on.
    pub(crate) fn set(&mut self, name: &str, value: &(impl ToString + ?Sized)) {
        self.settings.insert(name.to_owned(), value.to_string());
    }

    /// Listens to what servers and commands started from now on are about to do.
    #[cfg(feature = "seams")]
    pub(crate) fn seams(&mut self) -> SeamControl {
        let control = SeamControl::bind(self.folder.path());
        self.set("SEAMS", &control.socket().display());
        control
    }

    /// Keeps unreferenced originals for so long.
    pub(crate) fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
        self.set("CLEANUP__GRACE_PERIOD", &format!("{}ms", grace.as_millis()));
        self.outside = None;
    }

    /// Whether rows are in SQLite.
    pub(crate) fn is_sqlite(&self) -> bool {
        self.backend == Backend::SqliteLocal
    }

    /// What every original's key begins with.
    pub(crate) fn key_prefix(&self) -> String {
        match self.backend {
            Backend::SqliteLocal => String::new(),
            Backend::PostgresS3 => format!("{PREFIX}/"),
        }
    }

    /// A file of this case's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of the case, where its servers run.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts one more server on the same database and store.
    pub(crate) async fn start(&mut self) -> Api {
        self.try_start()
            .unwrap_or_else(|output| panic!("hapax serve ended at once: {output:#?}"))
    }

    /// Starts one more server, or gives what it said when it ended at once.
    pub(crate) fn try_start(&mut self) -> Result<Api, Output> {
        let log = self.path(&format!("server-{}.log", self.servers.len()));
        let server = Server::start(&self.settings, self.folder.path(), log)?;
        let api = Api::new(&server.base);
        self.servers.push(server);
        Ok(api)
    }

    /// Starts one more server while this thread goes on serving the case's other tasks.
    pub(crate) async fn start_beside(&mut self) -> Api {
        let log = self.path(&format!("server-{}.log", self.servers.len()));
        let (settings, folder) = (self.settings.clone(), self.folder().to_owned());
        let starting = move || Server::start(&settings, &folder, log);
        let started = tokio::task::spawn_blocking(starting).await;
        let server = started.expect("it does not panic").expect("it starts");
        let api = Api::new(&server.base);
        self.servers.push(server);
        api
    }

    /// Starts several servers at the same time.
    pub(crate) fn start_several(&mut self, count: usize) -> Vec<Api> {
        let starts: Vec<_> = (0..count)
            .map(|n| {
                let log = self.path(&format!("server-{}.log", self.servers.len() + n));
                let (settings, folder) = (self.settings.clone(), self.folder().to_owned());
                std::thread::spawn(move || Server::start(&settings, &folder, log))
            })
            .collect();
        for start in starts {
            let started = start.join().expect("it does not panic");
            self.servers.push(started.expect("every server starts"));
        }
        let started = &self.servers[self.servers.len() - count..];
        started
            .iter()
            .map(|server| Api::new(&server.base))
            .collect()
    }

    /// The server that was started last.
    pub(crate) fn server(&mut self) -> &mut Server {
        self.servers.last_mut().expect("a server was started")
    }

    /// Every server, in the order of their starts.
    pub(crate) fn servers(&mut self) -> &mut [Server] {
        &mut self.servers
    }

    /// Runs a command on the same configuration, to its end.
    pub(crate) fn hapax(&self, arguments: &[&str]) -> Output {
        server::run(&self.settings, self.folder.path(), arguments)
    }

    /// Starts a command on the same configuration.
    pub(crate) fn begin_hapax(&self, arguments: &[&str]) -> Running {
        Running::start(&self.settings, self.folder.path(), arguments)
    }

    /// Runs a command while this thread goes on serving the case's other tasks.
    pub(crate) async fn hapax_beside(&self, arguments: &[&str]) -> Output {
        let settings = self.settings.clone();
        let folder = self.folder.path().to_owned();
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let command = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            server::run(&settings, &folder, &arguments)
        };
        tokio::task::spawn_blocking(command)
            .await
            .expect("the command runs")
    }

    /// Makes an API key; its secret.
    pub(crate) fn key(&self, tenant: &str, scopes: &str) -> String {
        let scopes: Vec<&str> = scopes.split(',').collect();
        self.new_key(tenant, &scopes, &[]).1
    }

    /// Makes an API key with further options; its id and its secret.
    pub(crate) fn new_key(&self, tenant: &str, scopes: &[&str], more: &[&str]) -> (String, String) {
        let mut arguments = vec!["keys", "create", "--tenant", tenant, "--json"];
        for scope in scopes {
            arguments.extend(["--scope", scope]);
        }
        arguments.extend(more);
        let key = self.hapax(&arguments).exits_with(0).json();
        (text_of(&key["id"]), text_of(&key["secret"]))
    }

    /// The view from outside.
    pub(crate) async fn outside(&mut self) -> Outside {
        if self.outside.is_none() {
            let url = &self.settings["DATABASE__URL"];
            let objects = self.objects();
            self.outside = Some(Outside::connect(url, objects, self.grace).await);
        }
        self.outside.clone().expect("it was connected above")
    }

    fn objects(&self) -> Objects {
        match self.backend {
            Backend::SqliteLocal => Objects::Folder(self.path("objects")),
            Backend::PostgresS3 => Objects::Bucket {
                name: self.bucket.clone(),
                prefix: PREFIX.to_owned(),
            },
        }
    }

    /// Puts the database on a cluster that no other case uses; before the first start.
    pub(crate) async fn use_own_cluster(&mut self) {
        let cluster = Cluster::start_new();
        cluster.create_database(&self.database);
        self.set("DATABASE__URL", &cluster.url(&self.database));
        self.own_cluster = Some(cluster);
    }

    /// The cluster of `use_own_cluster`.
    pub(crate) fn own_cluster(&self) -> &Cluster {
        self.own_cluster
            .as_ref()
            .expect("`use_own_cluster` came before")
    }

    /// Puts a relay before the S3 server, so that it can be taken away; before the first start.
    pub(crate) fn use_store_relay(&mut self) {
        let endpoint = &self.settings["STORAGE__S3__ENDPOINT"];
        let target = endpoint.trim_start_matches("http://").parse();
        let relay = Relay::to(target.expect("an address and a port"));
        let endpoint = format!("http://{}", relay.address);
        self.set("STORAGE__S3__ENDPOINT", &endpoint);
        self.store_relay = Some(relay);
    }

    /// The relay of `use_store_relay`.
    pub(crate) fn store_relay(&mut self) -> &mut Relay {
        self.store_relay
            .as_mut()
            .expect("`use_store_relay` came before")
    }

    /// Calls of one kind that reached the S3 server's bucket so far.
    pub(crate) fn s3_calls(&self, operation: Operation) -> u64 {
        let calls = S3Server::shared().gate.calls(&self.bucket);
        calls.get(&operation).copied().unwrap_or(0)
    }

    /// All calls that reached the S3 server's bucket so far.
    pub(crate) fn all_s3_calls(&self) -> u64 {
        S3Server::shared().gate.calls(&self.bucket).values().sum()
    }

    /// Treats the next `times` S3 calls of one kind by `action`.
    pub(crate) fn arm(&self, operation: Operation, times: usize, action: Action) -> Hold {
        self.gate().arm(&self.bucket, operation, times, action)
    }

    /// As [`Context::arm`] for the next call, from another task.
    #[cfg(feature = "seams")]
    pub(crate) fn armourer(&self) -> impl Fn(Operation, Action) -> Hold + Send + 'static {
        let bucket = self.bucket.clone();
        move |operation, action| S3Server::shared().gate.arm(&bucket, operation, 1, action)
    }

    /// S3 calls go through again.
    pub(crate) fn disarm(&self) {
        self.gate().disarm(&self.bucket);
    }

    fn gate(&self) -> &Gate {
        assert_eq!(self.backend, Backend::PostgresS3, "only S3 has a gate");
        &S3Server::shared().gate
    }

    /// Leaves the end check out, for a case that must end in a state it would refuse.
    pub(crate) fn without_end_check(&mut self, why: &'static str) {
        self.without_end_check = Some(why);
    }

    /// The end of every case: rest, invariants, every live image read back, nothing in the spool.
    pub(crate) async fn finish(&mut self) {
        if self.without_end_check.is_some() {
            return;
        }
        if !self.servers.iter_mut().any(Server::is_running) {
            self.start().await;
        }
        let outside = self.outside().await;
        outside.rest().await;
        let mut running = self.servers.iter_mut();
        let server = running.find_map(|server| server.is_running().then_some(&*server));
        let api = Api::new(&server.expect("one runs").base);
        let keys = self
            .settings
            .get("AUTH__MODE")
            .is_some_and(|mode| mode == "keys");
        let mut tenants: Vec<String> = outside
            .images()
            .await
            .into_iter()
            .map(|i| i.tenant)
            .collect();
        tenants.sort_unstable();
        tenants.dedup();
        for tenant in tenants {
            let api = match keys {
                true => api.with_token(&self.key(&tenant, "read")),
                false => api.clone(),
            };
            outside.read_back(&api, &tenant).await;
        }
        self.spool_is_empty().await;
    }

    /// Waits until no body is left in the spool, or fails.
    pub(crate) async fn spool_is_empty(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut left = files_below(&self.path("spool"));
            left.extend(files_below(&self.path("objects/.hapax")));
            left.retain(|name| name != "store-id");
            for server in self
                .servers
                .iter_mut()
                .filter_map(|s| s.is_running().then_some(s))
            {
                let unlinked = server.unlinked_files().into_iter();
                left.extend(unlinked.map(|path| path.display().to_string()));
            }
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left in the spool: {left:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The last lines of the last servers' logs.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        // A case that kills many has little to say of the first.
        for server in self.servers.iter().rev().take(4).rev() {
            let log = std::fs::read_to_string(&server.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            text += &format!("--- {} ---\n{tail}\n", server.log.display());
        }
        text
    }

    /// Stops the servers and removes what was made outside of the case's folder.
    pub(crate) async fn clean_up(mut self) {
        self.servers.clear();
        if let Some(outside) = self.outside.take() {
            let _ = outside.database.close().await;
        }
        if self.backend == Backend::SqliteLocal {
            return;
        }
        if self.own_cluster.is_none() {
            Cluster::shared().drop_database(&self.database);
        }
        let client = S3Server::shared().observer();
        let mut pages = client
            .list_objects_v2()
            .bucket(&self.bucket)
            .into_paginator()
            .send();
        while let Some(Ok(page)) = pages.next().await {
            for object in page.contents() {
                let key = object.key().unwrap_or_default();
                let _ = client
                    .delete_object()
                    .bucket(&self.bucket)
                    .key(key)
                    .send()
                    .await;
            }
        }
        let _ = client.delete_bucket().bucket(&self.bucket).send().await;
    }
}
