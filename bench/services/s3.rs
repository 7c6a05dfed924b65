//! The S3 server below a measured service.

use std::path::Path;

use anyhow::Result;
use tokio::net::TcpListener;

use super::announce;

pub(super) async fn serve(folder: &Path, access_key: &str, secret_key: &str) -> Result<()> {
    let service = testkit::s3::service(folder, access_key, secret_key)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?)?;
    Ok(testkit::s3::serve(listener, service).await?)
}
