//! The view past the servers: rows by SQL, objects by the bucket's listing.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use sqlx::Row;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use uuid::Uuid;

use crate::audit::{ImageRow, OriginalRow, State};
use crate::servers::{BUCKET, PREFIX, S3_ACCESS_KEY, S3_SECRET_KEY};

/// What no committed snapshot may hold, in one statement and so of one snapshot: wrong counts, a
/// content stored twice, live images without a stored original (I4, I5), usage counters that are
/// not the sums of what they count.
const NEVER: &str = "
    SELECT 'original ' || o.id || ' (' || o.state || ') counts ' || o.reference_count
           || ' and has ' || count(i.id) AS wrong
      FROM original_images o LEFT JOIN images i ON i.original_image_id = o.id
     GROUP BY o.id HAVING count(i.id) <> o.reference_count
    UNION ALL
    SELECT count(*) || ' stored rows of ' || encode(content_hash, 'hex')
      FROM original_images WHERE state = 'stored'
     GROUP BY scope, content_hash, file_size HAVING count(*) > 1
    UNION ALL
    SELECT 'image ' || i.id || ' points at a row that is ' || coalesce(o.state, 'gone')
      FROM images i LEFT JOIN original_images o ON o.id = i.original_image_id
     WHERE i.deleted_at IS NULL AND o.state IS DISTINCT FROM 'stored'
    UNION ALL
    SELECT 'usage of ' || owner || ' is off by ' || concat_ws(', ', sum(images),
           sum(logical_bytes), sum(originals), sum(stored_bytes), sum(orphaned))
      FROM (SELECT owner, images, logical_bytes, originals, stored_bytes, orphaned
              FROM usage_counters
            UNION ALL
            SELECT tenant, -count(*), -sum(file_size), 0, 0, 0
              FROM images WHERE deleted_at IS NULL GROUP BY tenant
            UNION ALL
            SELECT scope, 0, 0, -count(*), -sum(file_size),
                   -count(*) FILTER (WHERE reference_count = 0)
              FROM original_images WHERE state = 'stored' GROUP BY scope) AS beside
     GROUP BY owner
    HAVING sum(images) <> 0 OR sum(logical_bytes) <> 0 OR sum(originals) <> 0
           OR sum(stored_bytes) <> 0 OR sum(orphaned) <> 0";

/// Open work: what the reapers still have to do.
const OPEN: &str = "
    SELECT count(*) AS open FROM original_images
     WHERE state <> 'stored' OR reference_count = 0";

const ORIGINALS: &str = "
    SELECT id::text, scope, encode(content_hash, 'hex') AS hash, file_size, s3_key, state,
           reference_count, damaged_at IS NOT NULL AS damaged, last_error
      FROM original_images";

const IMAGES: &str = "
    SELECT id::text, original_image_id::text AS original, was_original_id::text AS was_original,
           encode(content_hash, 'hex') AS hash, file_size, coalesce(filename, '') AS filename,
           deleted_at IS NOT NULL AS deleted
      FROM images";

const WEBHOOKS: &str = "SELECT event_id FROM webhook_events";

/// Rows and objects.
#[derive(Debug)]
pub(crate) struct Outside {
    database: PgPool,
}

impl Outside {
    /// Connects when it is first asked, and again whenever it has to.
    pub(crate) fn new(url: &str) -> Result<Self> {
        let options: PgConnectOptions = url.parse()?;
        let database = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(std::time::Duration::from_secs(10))
            .connect_lazy_with(options.application_name("soak"));
        Ok(Self { database })
    }

    /// What is wrong in the snapshot of now, whatever the servers are doing.
    pub(crate) async fn never(&self) -> Result<Vec<String>> {
        let rows = sqlx::query(NEVER).fetch_all(&self.database).await?;
        rows.iter().map(|row| Ok(row.try_get("wrong")?)).collect()
    }

    /// How many rows the reapers have yet to work off.
    pub(crate) async fn open_rows(&self) -> Result<i64> {
        let row = sqlx::query(OPEN).fetch_one(&self.database).await?;
        Ok(row.try_get("open")?)
    }

    /// Objects of the servers' own but the store's id.
    pub(crate) async fn own_objects(&self, s3: SocketAddr) -> Result<Vec<String>> {
        let mut keys: Vec<String> = list(s3).await?.into_keys().collect();
        let store_id = format!("{}store-id", own_folder());
        keys.retain(|key| key.starts_with(&own_folder()) && *key != store_id);
        Ok(keys)
    }

    /// Everything; objects first, so that a row that is made meanwhile is no complaint.
    pub(crate) async fn state(&self, s3: SocketAddr) -> Result<State> {
        let mut objects = list(s3).await?;
        objects.retain(|key, _| !key.starts_with(&own_folder()));
        let originals = sqlx::query(ORIGINALS).fetch_all(&self.database).await?;
        let images = sqlx::query(IMAGES).fetch_all(&self.database).await?;
        let webhooks = sqlx::query(WEBHOOKS).fetch_all(&self.database).await?;
        Ok(State {
            originals: originals.iter().map(original).collect::<Result<_>>()?,
            images: images.iter().map(image).collect::<Result<_>>()?,
            objects,
            webhooks: webhooks
                .iter()
                .map(|row| Ok(row.try_get("event_id")?))
                .collect::<Result<HashSet<_>>>()?,
        })
    }
}

fn own_folder() -> String {
    format!("{PREFIX}/.hapax/")
}

fn original(row: &PgRow) -> Result<OriginalRow> {
    Ok(OriginalRow {
        id: row.try_get::<String, _>("id")?.parse()?,
        scope: row.try_get("scope")?,
        hash: row.try_get("hash")?,
        size: row.try_get("file_size")?,
        key: row.try_get("s3_key")?,
        state: row.try_get("state")?,
        count: row.try_get("reference_count")?,
        damaged: row.try_get("damaged")?,
        last_error: row.try_get("last_error")?,
    })
}

fn image(row: &PgRow) -> Result<ImageRow> {
    let id_of = |column: &str| -> Result<Option<Uuid>> {
        let text: Option<String> = row.try_get(column)?;
        Ok(text.map(|text| text.parse()).transpose()?)
    };
    Ok(ImageRow {
        id: id_of("id")?.context("a primary key")?,
        original: id_of("original")?,
        was_original: id_of("was_original")?,
        hash: row.try_get("hash")?,
        size: row.try_get("file_size")?,
        filename: row.try_get("filename")?,
        deleted: row.try_get("deleted")?,
    })
}

/// Every object of the bucket, past the proxy.
async fn list(s3: SocketAddr) -> Result<BTreeMap<String, u64>> {
    let credentials = Credentials::new(S3_ACCESS_KEY, S3_SECRET_KEY, None, None, "soak");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://{s3}"))
        .force_path_style(true)
        .credentials_provider(credentials)
        .build();
    let client = aws_sdk_s3::Client::from_conf(config);
    let mut pages = client
        .list_objects_v2()
        .bucket(BUCKET)
        .into_paginator()
        .send();
    let mut found = BTreeMap::new();
    while let Some(page) = pages.next().await {
        for object in page?.contents() {
            let key = object.key().context("an object has a key")?.to_owned();
            let size = object.size().context("an object has a size")?;
            found.insert(key, size as u64);
        }
    }
    Ok(found)
}
