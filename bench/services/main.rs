//! The servers that need as much below them as Hapax does: the naive service, and the S3 server. A
//! program of their own, so that the load generator stays small. It says `listening on http://…` as
//! Hapax does.

mod naive;
mod s3;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Serves until it is ended.
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
}

fn main() -> Result<()> {
    match Service::parse() {
        Service::Naive => actix_web::rt::System::new().block_on(naive::serve()),
        Service::S3 {
            data,
            access_key,
            secret_key,
        } => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(s3::serve(&data, &access_key, &secret_key)),
    }
}

fn announce(address: SocketAddr) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on http://{address}")?;
    stdout.flush()?;
    Ok(())
}
