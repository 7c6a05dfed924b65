//! What needs as much below it as Hapax does: the naive service, the S3 server, and what fills a
//! database with millions of rows. A program of its own, so that the load generator stays small. A
//! server says `listening on http://…` as Hapax does.

mod bulk;
mod load;
mod naive;
mod polls;
mod s3;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// What it is to be; a server serves until it is ended.
#[derive(Debug, Parser)]
enum Service {
    /// Uploads with one transaction an operation; configured as Hapax is
    Naive,
    /// An S3 server in a folder
    S3 {
        /// Holds one folder per bucket
        #[arg(long)]
        data: PathBuf,
        #[arg(long)]
        access_key: String,
        #[arg(long)]
        secret_key: String,
    },
    /// Fills a migrated, empty database
    Load {
        /// Of the database
        #[arg(long)]
        url: String,
        /// How many; there will be three times as many images
        #[arg(long)]
        originals: u64,
    },
    /// Times what Hapax asks its database by itself
    Polls {
        /// Of the database
        #[arg(long)]
        url: String,
        /// How many were loaded
        #[arg(long)]
        originals: u64,
        /// How often
        #[arg(long)]
        rounds: usize,
    },
}

fn main() -> Result<()> {
    match Service::parse() {
        Service::Naive => actix_web::rt::System::new().block_on(naive::serve()),
        Service::S3 {
            data,
            access_key,
            secret_key,
        } => runtime()?.block_on(s3::serve(&data, &access_key, &secret_key)),
        Service::Load { url, originals } => runtime()?.block_on(load::load(&url, originals)),
        Service::Polls {
            url,
            originals,
            rounds,
        } => runtime()?.block_on(polls::time(&url, originals, rounds)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.enable_all().build()?)
}

fn announce(address: SocketAddr) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on http://{address}")?;
    stdout.flush()?;
    Ok(())
}
