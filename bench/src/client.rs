//! One connection's share of the load: what it sends next, and what it remembers for later.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::body::{BOUNDARY, Body};
use crate::wire::Connection;

/// How many different contents the duplicates of mixed traffic are.
const MIXED_CONTENTS: u64 = 100;
/// Mixed traffic deletes an image of its own once it has this many.
const MIXED_OWN: usize = 8;
/// Images that one bulk deletion names: the most that the service takes.
pub(crate) const BULK_IDS: usize = 1000;
/// Files of one request when images are prepared for bulk deletion: the default limit.
const BULK_FILES: usize = 100;
/// The contents that everybody knows begin here; new ones count from 0.
const KNOWN: u128 = 1 << 80;
/// What a read by range asks for.
pub(crate) const RANGE_BYTES: u64 = 64 * 1024;

static NEXT_CONTENT: AtomicU64 = AtomicU64::new(0);

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Every upload is new content.
    New,
    /// Each connection uploads the same content again and again.
    Duplicate,
    /// All connections upload one and the same content.
    Hot,
    /// Half uploads, of which 90 % are duplicates of 100 contents, and half deletions of own images.
    Mixed,
    /// One request deletes 1000 references, of 100 contents.
    BulkDelete,
    /// Deletes images one by one: those it was given, or uploaded before.
    Delete,
    /// Makes images of contents that are there, by their hashes: those it was given, or uploaded before.
    Reference,
    /// Reads the whole content of an image.
    ReadWhole,
    /// Reads 64 KiB from the middle of an image's content.
    ReadRange,
}

/// Which API the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Hapax's.
    Images,
    /// The container registry's: a blob push is POST, then PUT.
    Registry,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    number: u64,
    address: SocketAddr,
    dialect: Dialect,
    traffic: Traffic,
    connection: Connection,
    body: Body,
    content_type: String,
    digest: Option<String>,
    images: std::collections::VecDeque<String>,
    hashes: std::collections::VecDeque<String>,
    random: u64,
}

impl Client {
    /// Connects; `file_bytes` is the length of every file.
    pub(crate) async fn open(
        number: u64,
        address: SocketAddr,
        dialect: Dialect,
        traffic: Traffic,
        file_bytes: u64,
    ) -> Result<Self> {
        let body = match (dialect, traffic) {
            (Dialect::Registry, _) => Body::bare(file_bytes),
            (_, Traffic::BulkDelete | Traffic::Delete) => Body::form(file_bytes, BULK_FILES),
            _ => Body::form(file_bytes, 1),
        };
        Ok(Self {
            number,
            address,
            dialect,
            traffic,
            connection: Connection::open(address).await?,
            body,
            content_type: format!("Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"),
            digest: None,
            images: std::collections::VecDeque::new(),
            hashes: std::collections::VecDeque::new(),
            random: number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        })
    }

    /// Before a round, outside of its time: a fresh connection (an idle one may have been closed), and
    /// what the round needs to find. `requests` is how many it will send, where that is known.
    pub(crate) async fn prepare(&mut self, requests: Option<u64>) -> Result<()> {
        self.reconnect().await?;
        match self.traffic {
            Traffic::New | Traffic::Mixed => {}
            Traffic::Duplicate => {
                self.use_content(KNOWN + u128::from(self.number));
                self.upload().await?;
            }
            Traffic::Hot => {
                self.use_content(KNOWN);
                self.upload().await?;
            }
            Traffic::BulkDelete => {
                let wanted = BULK_IDS * usize::try_from(requests.unwrap_or(1))?;
                self.use_content(KNOWN);
                while self.images.len() < wanted {
                    let ids = self.upload().await?;
                    self.images.extend(ids);
                }
            }
            Traffic::Delete => {
                self.use_content(KNOWN);
                while (self.images.len() as u64) < requests.unwrap_or(1) {
                    let ids = self.upload().await?;
                    self.images.extend(ids);
                }
            }
            Traffic::Reference => {
                while (self.hashes.len() as u64) < requests.unwrap_or(1) {
                    self.use_content(new_content());
                    let answer = self.send_upload().await?.json()?;
                    let hash = answer["images"][0]["content_hash"].as_str();
                    self.hashes
                        .push_back(hash.context("an image has a hash")?.to_owned());
                }
            }
            Traffic::ReadWhole | Traffic::ReadRange => {
                if self.images.is_empty() {
                    self.use_content(KNOWN + u128::from(self.number));
                    let ids = self.upload().await?;
                    self.images.extend(ids);
                }
            }
        }
        Ok(())
    }

    /// Gives it images that were there before it: to delete, or their hashes to refer to.
    pub(crate) fn stock(&mut self, names: impl IntoIterator<Item = String>) {
        match self.traffic {
            Traffic::Reference => self.hashes.extend(names),
            _ => self.images.extend(names),
        }
    }

    /// Opens a new connection in place of the old one.
    pub(crate) async fn reconnect(&mut self) -> Result<()> {
        self.connection = Connection::open(self.address).await?;
        Ok(())
    }

    /// The next operation; how many units of work it was (references for a bulk deletion, else 1).
    pub(crate) async fn step(&mut self) -> Result<u64> {
        match self.traffic {
            Traffic::New => {
                self.use_content(new_content());
                self.send_upload().await.map(|_| 1)
            }
            Traffic::Duplicate | Traffic::Hot => self.send_upload().await.map(|_| 1),
            Traffic::Mixed => self.mixed().await.map(|()| 1),
            Traffic::BulkDelete => self.bulk_delete().await,
            Traffic::Delete => self.delete().await.map(|()| 1),
            Traffic::Reference => self.refer().await.map(|()| 1),
            Traffic::ReadWhole => self.read("").await.map(|()| 1),
            Traffic::ReadRange => {
                let from = self.body.len() / 2;
                let range = format!("Range: bytes={from}-{}\r\n", from + RANGE_BYTES - 1);
                self.read(&range).await.map(|()| 1)
            }
        }
    }

    fn use_content(&mut self, number: u128) {
        self.body.stamp(number);
        self.digest = None;
    }

    /// Uploads, and tells the ids of the images.
    async fn upload(&mut self) -> Result<Vec<String>> {
        let reply = self.send_upload().await?;
        if self.dialect == Dialect::Registry {
            return Ok(Vec::new());
        }
        // The floors answer with a digest alone.
        let Some(images) = reply.json()?.get("images").cloned() else {
            return Ok(Vec::new());
        };
        let images = images.as_array().context("images are a list")?.clone();
        images
            .iter()
            .map(|image| {
                Ok(image["id"]
                    .as_str()
                    .context("an image has an id")?
                    .to_owned())
            })
            .collect()
    }

    async fn send_upload(&mut self) -> Result<crate::wire::Reply> {
        match self.dialect {
            Dialect::Images => {
                let sent =
                    self.connection
                        .send("POST", "/v1/images", &self.content_type, &self.body);
                sent.await?.expect(201)
            }
            Dialect::Registry => self.push_blob().await,
        }
    }

    async fn push_blob(&mut self) -> Result<crate::wire::Reply> {
        let begun = self
            .connection
            .short("POST", "/v2/bench/blobs/uploads/", "", &[])
            .await?;
        let location = begun
            .expect(202)?
            .location
            .context("an upload has a location")?;
        let path = location
            .find("/v2/")
            .map_or(&location[..], |at| &location[at..]);
        let digest = match &self.digest {
            Some(digest) => digest.clone(),
            None => {
                let mut hash = Sha256::new();
                self.body.pieces().for_each(|piece| hash.update(piece));
                hex::encode(hash.finalize())
            }
        };
        let path = format!("{path}&digest=sha256:{digest}");
        self.digest = Some(digest);
        let headers = "Content-Type: application/octet-stream\r\n";
        self.connection
            .send("PUT", &path, headers, &self.body)
            .await?
            .expect(201)
    }

    async fn mixed(&mut self) -> Result<()> {
        if self.images.len() >= MIXED_OWN && !self.images.is_empty() {
            self.delete().await?;
            // The next upload fills up what this deletion took.
            return Ok(());
        }
        let choice = self.next_random();
        let content = match choice % 10 {
            0 => new_content(),
            _ => KNOWN + u128::from(choice / 10 % MIXED_CONTENTS),
        };
        self.use_content(content);
        let ids = self.upload().await?;
        self.images.extend(ids);
        Ok(())
    }

    async fn delete(&mut self) -> Result<()> {
        let id = self.images.pop_front().context("no image is left")?;
        let path = format!("/v1/images/{id}");
        let deleted = self.connection.short("DELETE", &path, "", &[]).await?;
        deleted.expect(200)?;
        Ok(())
    }

    async fn refer(&mut self) -> Result<()> {
        let hash = self.hashes.pop_front().context("no content is left")?;
        let body = serde_json::to_vec(&serde_json::json!({ "content_hash": hash }))?;
        let headers = "Content-Type: application/json\r\n";
        let sent = self.connection.short("POST", "/v1/images", headers, &body);
        sent.await?.expect(201)?;
        Ok(())
    }

    async fn bulk_delete(&mut self) -> Result<u64> {
        let count = self.images.len().min(BULK_IDS);
        let ids: Vec<String> = self.images.drain(..count).collect();
        let body = serde_json::to_vec(&serde_json::json!({ "ids": ids }))?;
        let headers = "Content-Type: application/json\r\n";
        let sent = self
            .connection
            .short("POST", "/v1/images/delete", headers, &body);
        let answer = sent.await?.expect(200)?.json()?;
        let results = answer["results"].as_array().context("results are a list")?;
        let deleted = results
            .iter()
            .filter(|result| result["outcome"] == "deleted")
            .count();
        ensure!(
            deleted == count,
            "{deleted} of {count} references were deleted"
        );
        Ok(deleted as u64)
    }

    async fn read(&mut self, range: &str) -> Result<()> {
        let id = self
            .images
            .front()
            .context("an image was uploaded before")?;
        let path = format!("/v1/images/{id}/content");
        let reply = self.connection.short("GET", &path, range, &[]).await?;
        let reply = reply.expect(if range.is_empty() { 200 } else { 206 })?;
        ensure!(reply.body_bytes > 0, "the content is empty");
        Ok(())
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

fn new_content() -> u128 {
    u128::from(NEXT_CONTENT.fetch_add(1, Ordering::Relaxed))
}
