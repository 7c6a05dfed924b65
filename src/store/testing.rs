//! For tests: bodies, and an S3 server in this process, reached over real HTTP with real signatures.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use entity::ContentDigest;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::config::S3StorageConfig;
use crate::spool::SpooledBody;

/// The server's one bucket.
pub(crate) const BUCKET: &str = "originals";
const ACCESS_KEY: &str = "test-access-key";
const SECRET_KEY: &str = "test-secret-key";

/// SHA-256.
pub(crate) fn digest_of(bytes: &[u8]) -> ContentDigest {
    ContentDigest::from(<[u8; 32]>::from(Sha256::digest(bytes)))
}

/// A body in memory, in pieces of 1000 bytes.
pub(crate) fn memory_body(bytes: &[u8]) -> SpooledBody {
    let permit = Arc::new(Semaphore::new(1))
        .try_acquire_owned()
        .expect("a fresh semaphore");
    SpooledBody::Memory {
        chunks: bytes.chunks(1000).map(Bytes::copy_from_slice).collect(),
        bytes: bytes.len() as u64,
        permit: Arc::new(permit),
    }
}

/// A body in an unlinked file, as the spool makes them.
pub(crate) fn file_body(bytes: &[u8], directory: &Path) -> SpooledBody {
    let mut file = tempfile::tempfile_in(directory).expect("a temporary file");
    file.write_all(bytes).expect("written");
    SpooledBody::File {
        file: Arc::new(file.into()),
        bytes: bytes.len() as u64,
        marks: Arc::new([]),
    }
}

/// A request as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct SeenRequest {
    pub(crate) method: Method,
    pub(crate) path_and_query: String,
    pub(crate) headers: HeaderMap,
}

/// An S3 server with one empty bucket, on a port of its own; it ends with the test's runtime.
pub(crate) struct S3Server {
    endpoint: String,
    seen: Arc<Mutex<Vec<SeenRequest>>>,
    canned: Arc<Mutex<VecDeque<(StatusCode, &'static str)>>>,
    root: tempfile::TempDir,
}

impl S3Server {
    pub(crate) async fn start() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join(BUCKET)).expect("a bucket");
        let service = {
            let files = FileSystem::new(root.path()).expect("a file system");
            let mut builder = S3ServiceBuilder::new(files);
            builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
            builder.build()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Self {
            endpoint: format!("http://{address}"),
            seen: Arc::default(),
            canned: Arc::default(),
            root,
        };
        tokio::spawn(accept(
            listener,
            service,
            Arc::clone(&server.seen),
            Arc::clone(&server.canned),
        ));
        server
    }

    /// How to reach it.
    pub(crate) fn config(&self, prefix: &str) -> S3StorageConfig {
        S3StorageConfig {
            bucket: BUCKET.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: Some(self.endpoint.clone()),
            path_style: true,
            access_key_id: Some(ACCESS_KEY.to_owned()),
            secret_access_key: Some(SECRET_KEY.to_owned()),
            ..S3StorageConfig::default()
        }
    }

    /// The requests since the last call.
    pub(crate) fn take_seen(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut *self.seen.lock().expect("not poisoned"))
    }

    /// The file behind a key, past the server.
    pub(crate) fn path_of(&self, key: &str) -> std::path::PathBuf {
        self.root.path().join(BUCKET).join(key)
    }

    /// The keys in the bucket, ascending, read past the server.
    pub(crate) fn objects(&self) -> Vec<String> {
        let bucket = self.root.path().join(BUCKET);
        let (mut keys, mut directories) = (vec![], vec![bucket.clone()]);
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(&directory).expect("readable") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let key = path.strip_prefix(&bucket).expect("inside").to_str();
                    keys.push(key.expect("UTF-8").to_owned());
                }
            }
        }
        keys.sort_unstable();
        keys
    }

    /// Answers the next request like this, after the others that wait; the request takes no effect.
    pub(crate) fn answer_next(&self, status: StatusCode, body: &'static str) {
        let mut canned = self.canned.lock().expect("not poisoned");
        canned.push_back((status, body));
    }
}

async fn accept(
    listener: TcpListener,
    service: S3Service,
    seen: Arc<Mutex<Vec<SeenRequest>>>,
    canned: Arc<Mutex<VecDeque<(StatusCode, &'static str)>>>,
) {
    while let Ok((socket, _)) = listener.accept().await {
        let (service, seen, canned) = (service.clone(), Arc::clone(&seen), Arc::clone(&canned));
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                seen.lock().expect("not poisoned").push(SeenRequest {
                    method: request.method().clone(),
                    path_and_query: request.uri().to_string(),
                    headers: request.headers().clone(),
                });
                let canned = canned.lock().expect("not poisoned").pop_front();
                let service = service.clone();
                async move {
                    let Some((status, body)) = canned else {
                        return Ok::<_, Infallible>(served(&service, request).await);
                    };
                    let mut response =
                        Response::new(s3s::Body::from(Bytes::from_static(body.as_bytes())));
                    *response.status_mut() = status;
                    Ok(response)
                }
            });
            let connections = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client that goes away is none of the server's business.
            let _ = connections
                .serve_connection(TokioIo::new(socket), answer)
                .await;
        });
    }
}

async fn served(service: &S3Service, request: Request<Incoming>) -> Response<s3s::Body> {
    Service::call(service, request).await.unwrap_or_else(|_| {
        let mut response = Response::new(s3s::Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
