//! The view from outside the server: its tables by SQL, its objects by listing or by walking the
//! folder. The check that every case ends with is here.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::Utc;
use entity::original_images::OriginalState;
use entity::{OriginalId, images, original_images, usage_counters};
#[cfg(feature = "seams")]
use sea_orm::DbBackend;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, EntityTrait, Statement,
};

use super::client::Api;
use super::images::sha256_hex;
use super::s3::S3Server;
use super::usage::wrong_counters;

/// How long the reapers may take to come to rest. Where a rule is left out, what is wrong stays wrong.
fn rest_limit() -> Duration {
    match std::env::var_os("HAPAX_SEAMS_WITHOUT") {
        None => Duration::from_secs(40),
        Some(_) => Duration::from_secs(20),
    }
}

/// Where the legacy images of the tests say they are.
pub(crate) const LEGACY_URL: &str = "https://legacy.example/photo.jpg";

/// Where the objects are.
#[derive(Debug, Clone)]
pub(crate) enum Objects {
    /// A folder.
    Folder(PathBuf),
    /// A bucket, and the prefix of Hapax's keys in it.
    Bucket { name: String, prefix: String },
}

/// Rows and objects, seen past the server.
#[derive(Debug, Clone)]
pub(crate) struct Outside {
    pub(crate) database: DatabaseConnection,
    objects: Objects,
    grace: Duration,
}

impl Outside {
    /// Connects to the server's own database.
    pub(crate) async fn connect(url: &str, objects: Objects, grace: Duration) -> Self {
        let url = match url.starts_with("sqlite:") {
            true => format!("{url}?mode=rwc"),
            false => url.to_owned(),
        };
        let mut options = ConnectOptions::new(url);
        options.max_connections(2).sqlx_logging(false);
        let database = Database::connect(options).await;
        Self {
            database: database.expect("the database accepts connections"),
            objects,
            grace,
        }
    }

    /// Runs one statement; affected rows.
    pub(crate) async fn sql(&self, statement: &str) -> u64 {
        let result = self.database.execute_unprepared(statement).await;
        result
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
            .rows_affected()
    }

    /// Every original's row.
    pub(crate) async fn originals(&self) -> Vec<original_images::Model> {
        let rows = original_images::Entity::find().all(&self.database).await;
        rows.expect("the table can be read")
    }

    /// Every image's row.
    pub(crate) async fn images(&self) -> Vec<images::Model> {
        let rows = images::Entity::find().all(&self.database).await;
        rows.expect("the table can be read")
    }

    /// The one original of a content that is stored, if any.
    pub(crate) async fn stored(&self, hash: &str) -> Option<original_images::Model> {
        let rows = self.originals().await.into_iter();
        let mut stored = rows.filter(|row| {
            row.state == OriginalState::Stored && row.content_hash.to_string() == hash
        });
        let found = stored.next();
        assert!(stored.next().is_none(), "two stored rows of {hash}");
        found
    }

    /// Objects by key, with their lengths. Hapax's own objects (store id, probes) are left out.
    pub(crate) async fn objects(&self) -> BTreeMap<String, u64> {
        match &self.objects {
            Objects::Folder(folder) => {
                let mut found = BTreeMap::new();
                walk(folder, folder, &mut found);
                found.retain(|path, _| !path.starts_with(".hapax/"));
                let keyed = found.into_iter().map(|(path, size)| (key_at(path), size));
                keyed.collect()
            }
            Objects::Bucket { name, prefix } => list(name, prefix).await,
        }
    }

    /// How many objects there are.
    pub(crate) async fn object_count(&self) -> usize {
        self.objects().await.len()
    }

    /// Waits until nothing is left to do and nothing is wrong, or tells what is.
    pub(crate) async fn rest(&self) {
        let limit = rest_limit();
        let deadline = Instant::now() + limit;
        loop {
            let wrong = self.wrong().await;
            if wrong.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "after {limit:?} there is still: {wrong:#?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Puts an object into the store behind the server's back.
    pub(crate) async fn plant_object(&self, key: &str, bytes: &[u8]) {
        match &self.objects {
            Objects::Folder(folder) => {
                let path = folder.join(path_of(key));
                let parent = path.parent().expect("a key has a folder");
                std::fs::create_dir_all(parent).expect("the folder can be made");
                std::fs::write(path, bytes).expect("the file can be written");
            }
            Objects::Bucket { name, .. } => {
                let client = S3Server::shared().observer();
                let put = client.put_object().bucket(name).key(key);
                put.body(bytes.to_vec().into())
                    .send()
                    .await
                    .expect("it is stored");
            }
        }
    }

    /// Reads an object behind the server's back.
    pub(crate) async fn read_object(&self, key: &str) -> Vec<u8> {
        match &self.objects {
            Objects::Folder(folder) => {
                std::fs::read(folder.join(path_of(key))).expect("it is there")
            }
            Objects::Bucket { name, .. } => {
                let client = S3Server::shared().observer();
                let object = client.get_object().bucket(name).key(key).send().await;
                let body = object.expect("the object is there").body.collect().await;
                body.expect("it can be read").to_vec()
            }
        }
    }

    /// Takes an object out of the store behind the server's back.
    pub(crate) async fn take_object(&self, key: &str) {
        match &self.objects {
            Objects::Folder(folder) => {
                std::fs::remove_file(folder.join(path_of(key))).expect("the object is there");
            }
            Objects::Bucket { name, .. } => {
                let client = S3Server::shared().observer();
                let delete = client.delete_object().bucket(name).key(key);
                delete.send().await.expect("it is deleted");
            }
        }
    }

    /// What a reaper had taken when it, or its database, was killed is put off by minutes; from now on it
    /// is due.
    pub(crate) async fn end_holds(&self) {
        self.sql("UPDATE original_images SET next_try = updated_at WHERE state = 'deleting'")
            .await;
    }

    /// Two hours pass for everything that waits: leases and put deadlines are over, what was put off
    /// is due. Rows, not clocks, are moved, and rules R7 and R8 compare only those two. No PUT may be
    /// on its way.
    #[cfg(feature = "seams")]
    pub(crate) async fn let_time_pass(&self) {
        self.move_back(&["lease_until", "put_deadline", "next_try"])
            .await;
    }

    /// Two hours pass for leases alone.
    #[cfg(feature = "seams")]
    pub(crate) async fn let_leases_run_out(&self) {
        self.move_back(&["lease_until"]).await;
    }

    #[cfg(feature = "seams")]
    async fn move_back(&self, columns: &[&str]) {
        let earlier = |column: &&str| match self.database.get_database_backend() {
            DbBackend::Sqlite => {
                format!("{column} = strftime('%Y-%m-%dT%H:%M:%f+00:00', {column}, '-2 hours')")
            }
            _ => format!("{column} = {column} - interval '2 hours'"),
        };
        let changes: Vec<String> = columns.iter().map(earlier).collect();
        self.sql(&format!(
            "UPDATE original_images SET {} WHERE state <> 'stored'",
            changes.join(", ")
        ))
        .await;
    }

    /// What may never be, not even between two calls of a server: a wrong count (I4), or an object
    /// without a row (I2).
    #[cfg(feature = "seams")]
    pub(crate) async fn unsound(&self) -> Vec<String> {
        let mut objects = self.objects().await;
        let miscounted = Statement::from_string(
            self.database.get_database_backend(),
            "SELECT s3_key FROM original_images WHERE reference_count <> (
                SELECT count(*) FROM images WHERE original_image_id = original_images.id)",
        );
        let rows = self.database.query_all_raw(miscounted).await;
        let rows = rows.expect("the tables can be read").into_iter();
        let mut unsound: Vec<String> = rows
            .map(|row| {
                let key: String = row.try_get_by_index(0).expect("a key");
                format!("{key} is miscounted")
            })
            .collect();
        for row in self.originals().await {
            objects.remove(&row.s3_key);
        }
        unsound.extend(objects.keys().map(|key| format!("object {key} has no row")));
        unsound
    }

    /// Everything that may not be at rest: open work, and broken invariants.
    pub(crate) async fn wrong(&self) -> Vec<String> {
        // Objects first: a row made in between has its object, an object made in between no complaint.
        let mut objects = self.objects().await;
        let originals = self.originals().await;
        let images = self.images().await;
        let counters = usage_counters::Entity::find().all(&self.database).await;
        let counters = counters.expect("the table can be read");
        let mut live: HashMap<OriginalId, i64> = HashMap::new();
        let mut wrong = wrong_counters(&originals, &images, &counters);
        for image in images.iter().filter(|image| image.deleted_at.is_none()) {
            match image.original_image_id {
                Some(original) => *live.entry(original).or_default() += 1,
                None if image.legacy => {}
                None => wrong.push(format!("image {} is live without an original", image.id)),
            }
        }
        let mut contents = HashMap::new();
        for row in &originals {
            if row.state != OriginalState::Stored {
                let attempts = (row.attempts, &row.last_error);
                wrong.push(format!("{} is {:?} {attempts:?}", row.s3_key, row.state));
                continue;
            }
            let references = live.remove(&row.id).unwrap_or(0);
            if row.reference_count != references {
                let counted = row.reference_count;
                wrong.push(format!(
                    "{}: counts {counted}, has {references}",
                    row.s3_key
                ));
            }
            if row
                .zero_since
                .is_some_and(|since| since + self.grace < Utc::now())
            {
                wrong.push(format!("{} is unreferenced and past its grace", row.s3_key));
            }
            match objects.remove(&row.s3_key) {
                Some(size) if size as i64 == row.file_size => {}
                found => wrong.push(format!("{}: its object is {found:?}", row.s3_key)),
            }
            let content = (&row.scope, row.content_hash, row.file_size);
            if let Some(other) = contents.insert(content, &row.s3_key) {
                wrong.push(format!("{} and {other} hold the same content", row.s3_key));
            }
        }
        wrong.extend(
            live.keys()
                .map(|id| format!("images point at {id}, which is not stored")),
        );
        wrong.extend(
            objects
                .keys()
                .map(|key| format!("object {key} has no stored row")),
        );
        wrong
    }

    /// Reads every live image of a tenant back and hashes it again.
    pub(crate) async fn read_back(&self, api: &Api, tenant: &str) {
        let images = self.images().await.into_iter();
        for image in images.filter(|image| image.tenant == tenant) {
            if image.deleted_at.is_some() || image.legacy {
                continue;
            }
            let reply = api.content(&image.id.to_string()).await.expect(200);
            let hash = image.content_hash.map(|hash| hash.to_string());
            assert_eq!(Some(sha256_hex(&reply.body)), hash, "image {}", image.id);
        }
    }
}

/// Where a local store in the context's folder keeps an object.
pub(crate) fn object_file(key: &str) -> String {
    format!("objects/{}", path_of(key))
}

/// Where the local store keeps an object, below its folder.
fn path_of(key: &str) -> String {
    if key.starts_with(".hapax/") {
        return key.to_owned();
    }
    let (directory, generation) = key.rsplit_once('/').expect("a key has a generation");
    format!("originals/{directory}.{generation}")
}

/// The key of what lies there; anything but an object is its own name, which no row has.
fn key_at(path: String) -> String {
    let key = path
        .strip_prefix("originals/")
        .and_then(|name| name.rsplit_once('.'))
        .map(|(directory, generation)| format!("{directory}/{generation}"));
    key.unwrap_or(path)
}

fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, u64>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // A file may go while the folder is read.
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        if metadata.is_dir() {
            walk(root, &path, found);
        } else {
            let key = path.strip_prefix(root).expect("it is below the root");
            found.insert(key.to_string_lossy().into_owned(), metadata.len());
        }
    }
}

/// Every file below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found.into_keys().collect()
}

async fn list(bucket: &str, prefix: &str) -> BTreeMap<String, u64> {
    let client = S3Server::shared().observer();
    let mut pages = client
        .list_objects_v2()
        .bucket(bucket)
        .prefix(format!("{prefix}/"))
        .into_paginator()
        .send();
    let mut found = BTreeMap::new();
    while let Some(page) = pages.next().await {
        for object in page.expect("the bucket can be listed").contents() {
            let key = object.key().unwrap_or_default().to_owned();
            found.insert(key, object.size().unwrap_or(-1) as u64);
        }
    }
    let own = format!("{prefix}/.hapax/");
    found.retain(|key, _| !key.starts_with(&own));
    found
}

/// The one number that a query gives.
pub(crate) async fn count_of(outside: &Outside, sql: &str) -> i64 {
    let backend = outside.database.get_database_backend();
    let query = Statement::from_string(backend, sql);
    let row = outside.database.query_one_raw(query).await;
    let row = row.expect("the query is right").expect("it gives a row");
    row.try_get_by_index(0).expect("a number")
}
