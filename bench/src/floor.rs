//! What any server must do at least: read the body, hash it, and (with a folder) make it durable.
//!
//! As lean as it can be made. It believes that a form has one file and nothing after it, hashes on the
//! thread that reads, keeps a small body in memory and gives the file system one blocking call.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::web::{Bytes, Data, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, error, web};
use anyhow::Result;
use futures::StreamExt;
use sha2::{Digest, Sha256};

/// A body up to this waits in memory, as Hapax's default does; a longer one is written in pieces of it.
const MEMORY_BYTES: usize = 1024 * 1024;

static NEXT_FILE: AtomicU64 = AtomicU64::new(0);

struct Settings {
    folder: Option<PathBuf>,
}

/// What a process of this program may be told to be.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Floor {
    /// Reads, hashes, answers
    Hash,
    /// Reads, hashes, stores durably, answers
    Store {
        /// Where the files go
        #[arg(long)]
        data: PathBuf,
    },
}

/// Serves until the process is ended.
pub(crate) fn run(floor: Floor) -> Result<()> {
    let folder = match floor {
        Floor::Hash => None,
        Floor::Store { data } => Some(data),
    };
    actix_web::rt::System::new().block_on(serve(folder))
}

async fn serve(folder: Option<PathBuf>) -> Result<()> {
    if let Some(folder) = &folder {
        std::fs::create_dir_all(folder)?;
    }
    let floor = Data::from(Arc::new(Settings { folder }));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(floor.clone())
            .route("/v1/images", web::post().to(upload))
            .route("/healthz", web::get().to(|| async { "ok" }))
    })
    .bind("127.0.0.1:0")?;
    println!("listening on http://{}", server.addrs()[0]);
    server.run().await?;
    Ok(())
}

async fn upload(
    request: HttpRequest,
    body: Payload,
    floor: Data<Settings>,
) -> actix_web::Result<HttpResponse> {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let length: u64 = header("content-length")
        .and_then(|value| value.parse().ok())
        .unwrap_or_default();
    let boundary = header("content-type").and_then(|value| value.split_once("boundary="));
    let after_file = boundary.map_or(0, |(_, boundary)| boundary.len() + 8) as u64;
    let digest = match &floor.folder {
        None => read(body, length, after_file, None).await?,
        Some(folder) => {
            let mut sink = Sink {
                folder: folder.clone(),
                file: None,
                pieces: Vec::new(),
                held: 0,
            };
            let digest = read(body, length, after_file, Some(&mut sink)).await?;
            let name = hex::encode(digest);
            web::block(move || sink.finish(&name)).await??;
            digest
        }
    };
    Ok(HttpResponse::Created().body(format!("{{\"content_hash\":\"{}\"}}", hex::encode(digest))))
}

/// Hashes what lies between the blank line after the part's headers and the closing boundary.
async fn read(
    mut body: Payload,
    length: u64,
    after_file: u64,
    mut sink: Option<&mut Sink>,
) -> actix_web::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut head = Some(Vec::new());
    let mut position = 0;
    let end = length.saturating_sub(after_file);
    while let Some(chunk) = body.next().await {
        let mut chunk: Bytes = chunk?;
        if let Some(seen) = &mut head {
            let before = seen.len();
            seen.extend_from_slice(&chunk);
            let Some(found) = seen.windows(4).position(|four| four == b"\r\n\r\n") else {
                position += chunk.len() as u64;
                continue;
            };
            let skipped = found + 4 - before;
            position += skipped as u64;
            chunk = chunk.slice(skipped..);
            head = None;
        }
        let left = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX);
        position += chunk.len() as u64;
        chunk.truncate(left);
        hash.update(&chunk);
        if let Some(sink) = sink.as_deref_mut() {
            sink.take(chunk).await?;
        }
    }
    Ok(hash.finalize().into())
}

/// A file on its way: temporary until its bytes are on the disk.
struct Sink {
    folder: PathBuf,
    file: Option<(File, PathBuf)>,
    pieces: Vec<Bytes>,
    held: usize,
}

impl Sink {
    async fn take(&mut self, piece: Bytes) -> actix_web::Result<()> {
        self.held += piece.len();
        self.pieces.push(piece);
        if self.held < MEMORY_BYTES {
            return Ok(());
        }
        let mut moved = Self {
            folder: self.folder.clone(),
            file: self.file.take(),
            pieces: std::mem::take(&mut self.pieces),
            held: 0,
        };
        self.held = 0;
        let file = web::block(move || moved.write().map(|()| moved.file)).await?;
        self.file = file.map_err(error::ErrorInternalServerError)?;
        Ok(())
    }

    fn write(&mut self) -> std::io::Result<()> {
        if self.file.is_none() {
            let number = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
            let path = self.folder.join(format!("{number}.tmp"));
            self.file = Some((File::create(&path)?, path));
        }
        if let Some((file, _)) = &mut self.file {
            for piece in self.pieces.drain(..) {
                file.write_all(&piece)?;
            }
        }
        Ok(())
    }

    fn finish(mut self, name: &str) -> std::io::Result<()> {
        self.write()?;
        if let Some((file, path)) = self.file {
            file.sync_all()?;
            std::fs::rename(path, self.folder.join(name))?;
            sync_folder(&self.folder)?;
        }
        Ok(())
    }
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}
