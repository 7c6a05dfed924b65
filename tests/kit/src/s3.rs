//! `s3s-fs` behind real HTTP and real signatures.

use std::io;
use std::path::Path;

use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;

/// The service of a folder that holds one folder per bucket, with a single key.
///
/// # Errors
/// The folder is not there.
pub fn service(folder: &Path, access_key: &str, secret_key: &str) -> io::Result<S3Service> {
    let files = s3s_fs::FileSystem::new(folder).map_err(|error| {
        io::Error::other(format!("cannot serve {}: {error:?}", folder.display()))
    })?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
    Ok(builder.build())
}

/// Serves until the runtime ends.
///
/// # Errors
/// No connection can be accepted any more.
pub async fn serve(listener: TcpListener, service: S3Service) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let service = service.clone();
        tokio::spawn(async move {
            // A client that goes away is its own business.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}
