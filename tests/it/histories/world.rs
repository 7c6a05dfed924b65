//! The real thing under a history: the server's own pipeline in this process, on a real database and
//! a real store, and what happens to it from outside.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use entity::{ContentDigest, ImageId, OriginalId};
use hapax::actors::blob::BlobActor;
use hapax::app::{AppError, Instance};
use hapax::config::Config;
use hapax::ledger::Ledger;
use hapax::reap::{CleanupReport, cleanup};
use hapax::service::Service;
use hapax::store::BlobStore;
use hapax::upload::{BodyEvent, StoredUpload, TenantId, UploadError, UploadRequest};
use sha2::{Digest, Sha256};

use actix::Actor;
use sea_orm::{ConnectionTrait, Statement};

use super::pausing::{LatePut, Pauses, PausingStore};
use super::step::{CONTENTS, Harm};
use crate::harness::{Backend, Case, Context, Outside, seeded_bytes};

/// Longer than any history takes: leases and deadlines end when a step says so.
const SETTINGS: &[(&str, &str)] = &[
    ("CLEANUP__INTERVAL", "10ms"),
    ("UPLOAD__LEASE", "10m"),
    ("UPLOAD__PUT_DEADLINE", "20m"),
    ("UPLOAD__MEMORY_THRESHOLD", "4 KiB"),
];
/// By all clocks in the past, in a form that both databases read.
const LONG_AGO: &str = "2001-01-01T00:00:00.000+00:00";
/// How long the sessions of a process that died, or its calls, may go on at a server.
const AFTERMATH: Duration = Duration::from_secs(10);
/// A call that a dead client had sent whole is carried out at the S3 server within this.
const S3_SETTLES: Duration = Duration::from_millis(200);

/// A database, a store, and a server that comes and goes.
pub(super) struct World {
    pub(super) context: Context,
    pub(super) outside: Outside,
    pub(super) contents: Vec<(Bytes, ContentDigest)>,
    /// Objects that a step damaged.
    pub(super) harmed: HashMap<String, Harm>,
    pub(super) pauses: Arc<Pauses>,
    /// How often each event was given another id.
    retired: HashMap<u8, u32>,
    config: Config,
    store: Arc<dyn BlobStore>,
    instance: Option<Instance>,
    /// Whether a call of a dead process may still be on its way at the S3 server.
    unsettled: bool,
}

impl World {
    /// A fresh one, started.
    pub(super) async fn new(backend: Backend, grace: bool) -> Self {
        let mut context = Context::new(Case::unnamed(backend)).await;
        for (name, value) in SETTINGS {
            context.set(name, *value);
        }
        if grace {
            context.set_grace(Duration::from_secs(3600));
        }
        let environment = context.settings.iter();
        let environment =
            environment.map(|(name, value)| (format!("HAPAX__{name}").into(), value.into()));
        let config = Config::from_sources(None, environment).expect("the settings are right");
        let outside = context.outside().await;
        let store = hapax::store::open(&config.storage)
            .await
            .expect("the store opens");
        let contents = (0..CONTENTS).map(|n| {
            // In memory, at the threshold, and on disk.
            let bytes = seeded_bytes(n as u64 + 1, [1, 700, 4096, 30_000][n % 4]);
            let digest = ContentDigest::from(<[u8; 32]>::from(Sha256::digest(&bytes)));
            (Bytes::from(bytes), digest)
        });
        let mut world = Self {
            contents: contents.collect(),
            context,
            outside,
            harmed: HashMap::new(),
            retired: HashMap::new(),
            pauses: Arc::default(),
            config,
            store,
            instance: None,
            unsettled: false,
        };
        world.start().await;
        world
    }

    pub(super) fn service(&self) -> Service {
        self.instance.as_ref().expect("it runs").service()
    }

    /// Another history's command that is just being started holds copies of this process's open
    /// files for a moment, and with them the dead server's lock.
    async fn start(&mut self) {
        let deadline = Instant::now() + AFTERMATH;
        loop {
            let pauses = Arc::clone(&self.pauses);
            let started = Instance::start_with(&self.config, |inner| {
                Arc::new(PausingStore { inner, pauses })
            });
            match started.await {
                Err(AppError::AlreadyServing { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                started => {
                    self.instance = Some(started.expect("it starts"));
                    return;
                }
            }
        }
    }

    /// The process dies, and its clients see that; another one takes its place.
    pub(super) async fn crash(&mut self, clients: impl Sized) {
        self.instance.take().expect("it runs").crash();
        drop(clients);
        self.pauses.disarm();
        self.unsettled = true;
        self.sessions_are_over().await;
        self.start().await;
    }

    /// A COMMIT that had been sent may still be carried out; after this nothing is.
    async fn sessions_are_over(&self) {
        if self.context.is_sqlite() {
            // Queues behind whatever a dying connection still holds.
            self.outside.sql("BEGIN IMMEDIATE; ROLLBACK").await;
            return;
        }
        let sessions = "SELECT count(*) AS open FROM pg_stat_activity \
                        WHERE datname = current_database() AND application_name = 'hapax'";
        let deadline = Instant::now() + AFTERMATH;
        loop {
            let database = &self.outside.database;
            let statement = Statement::from_string(database.get_database_backend(), sessions);
            let row = database.query_one_raw(statement).await;
            let row = row.expect("it answers").expect("a count is a row");
            if row.try_get::<i64>("", "open").expect("a number") == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "sessions of a dead process");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends files as one request; without an end, the body is truncated.
    pub(super) async fn upload(
        service: Service,
        files: Vec<(usize, Bytes)>,
        key: Option<u8>,
        complete: bool,
    ) -> Result<StoredUpload, UploadError> {
        let request = UploadRequest {
            tenant: TenantId::default(),
            idempotency_key: key.map(|key| format!("key-{key}")),
            declared_digest: None,
            declared_bytes: None,
            expected_bytes: None,
            content_length: None,
        };
        let (events, answer) = service.upload(request);
        let feed = async move {
            let mut all = Vec::new();
            for (index, bytes) in files {
                let filename = Some(index.to_string());
                all.push(BodyEvent::FileStarted { filename });
                all.extend(
                    bytes
                        .chunks(1500)
                        .map(|chunk| BodyEvent::Chunk(Bytes::copy_from_slice(chunk))),
                );
                all.push(BodyEvent::FileEnded);
            }
            match complete {
                true => all.push(BodyEvent::Complete),
                // Within the last file, or before the end of the body.
                false => drop(all.pop()),
            }
            for event in all {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        };
        futures::join!(answer, feed).0
    }

    /// What an event's deliveries are named.
    pub(super) fn event_id(&self, event: u8) -> String {
        format!("event-{event}-{}", self.retired.get(&event).unwrap_or(&0))
    }

    /// Nobody knows whether the event was taken in: its next delivery is another event.
    pub(super) fn retire_event(&mut self, event: u8) {
        *self.retired.entry(event).or_default() += 1;
    }

    /// Files as `upload` takes them, named by their place in the request.
    pub(super) fn files(&self, contents: &[usize]) -> Vec<(usize, Bytes)> {
        let bytes = contents
            .iter()
            .map(|content| self.contents[*content].0.clone());
        bytes.enumerate().collect()
    }

    /// Which content this is.
    pub(super) fn content_of(&self, digest: Option<ContentDigest>) -> Option<usize> {
        let digest = digest?;
        self.contents.iter().position(|(_, known)| *known == digest)
    }

    /// Damages a content's object, if it has a sound one.
    pub(super) async fn harm(&mut self, content: usize, harm: Harm) {
        let (bytes, digest) = self.contents[content].clone();
        let Some(row) = self.outside.stored(&digest.to_string()).await else {
            return;
        };
        // A reaper may be at an object that nobody refers to.
        if self.harmed.contains_key(&row.s3_key) || row.reference_count == 0 {
            return;
        }
        self.outside.take_object(&row.s3_key).await;
        match harm {
            Harm::Missing => {}
            Harm::Short => {
                let short = &bytes[..bytes.len() - 1];
                self.outside.plant_object(&row.s3_key, short).await;
            }
            Harm::OtherBytes => {
                let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
                self.outside.plant_object(&row.s3_key, &other).await;
            }
        }
        self.harmed.insert(row.s3_key, harm);
    }

    /// `hapax cleanup --older-than 0s`, beside the server.
    pub(super) async fn cleanup(&self) -> Result<CleanupReport, String> {
        let ledger = Ledger::connect(&self.config.database).await;
        let ledger = ledger.map_err(|error| error.to_string())?;
        let blobs = BlobActor::new(self.store.clone(), 1).start();
        let report = cleanup(&ledger, &self.store, &blobs, Duration::ZERO, 100, false).await;
        ledger.close().await;
        report.map_err(|error| error.to_string())
    }

    /// `hapax verify --deep --repair`, beside the server; its exit code and what it said.
    pub(super) async fn verify(&self) -> (Option<i32>, String) {
        let output = self.context.hapax_beside(&["verify", "--deep", "--repair"]);
        let output = output.await;
        (output.code, output.stdout + &output.stderr)
    }

    /// Every lease is over.
    pub(super) async fn end_leases(&self) {
        let statement = format!(
            "UPDATE original_images SET lease_until = '{LONG_AGO}' WHERE state = 'pending'"
        );
        self.outside.sql(&statement).await;
    }

    /// What was on its way arrives. Its row must be there still (rule R8).
    pub(super) async fn land_late_puts(&mut self) -> Result<(), String> {
        for late in self.pauses.take_late() {
            let rows = self.outside.originals().await;
            if !rows.iter().any(|row| row.s3_key == late.key) {
                let LatePut { key, .. } = late;
                return Err(format!(
                    "{key} is awaited by no row, and its PUT may still land"
                ));
            }
            let landed = late.land(&*self.store).await;
            landed.map_err(|error| format!("a late PUT: {error}"))?;
        }
        Ok(())
    }

    /// Nothing is on its way any more, and every deadline is over.
    pub(super) async fn pass_time(&mut self) -> Result<(), String> {
        self.land_late_puts().await?;
        if std::mem::take(&mut self.unsettled) && !self.context.is_sqlite() {
            tokio::time::sleep(S3_SETTLES).await;
        }
        self.end_leases().await;
        for (column, states) in [
            ("put_deadline", "'pending', 'deleting'"),
            ("next_try", "'deleting'"),
        ] {
            let statement = format!(
                "UPDATE original_images SET {column} = '{LONG_AGO}' WHERE state IN ({states})"
            );
            self.outside.sql(&statement).await;
        }
        Ok(())
    }

    /// Stops the server in order, and removes everything.
    pub(super) async fn finish(mut self) -> Result<(), String> {
        let instance = self.instance.take().expect("it runs");
        let drained = instance.drain(Duration::from_secs(30)).await;
        instance.crash();
        self.context.clean_up().await;
        drained.map_err(|error| error.to_string())
    }

    /// As [`World::finish`], after a violation.
    pub(super) async fn abandon(mut self) {
        if let Some(instance) = self.instance.take() {
            instance.crash();
        }
        self.context.clean_up().await;
    }
}

/// An image that never was.
pub(super) fn stranger() -> ImageId {
    ImageId(uuid::Uuid::from_u128(0x5eed))
}

/// An original that never was.
pub(super) fn strange_original() -> OriginalId {
    OriginalId(uuid::Uuid::from_u128(0x5eed))
}
