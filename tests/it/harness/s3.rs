//! The S3 server of the run: `s3s-fs` in this process, over real HTTP with real signatures, or the one
//! that `HAPAX_TEST_S3_ENDPOINT` names. Either way the servers under test reach it through a `Gate`
//! that counts and can fail calls; the check from outside goes past the gate's counters.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::gate::{Gate, Upstream};

/// Started on a thread of its own: a case's thread already drives a runtime.
static STORE: LazyLock<S3Server> = LazyLock::new(|| {
    let started = std::thread::spawn(S3Server::start).join();
    started.expect("the S3 server starts")
});
/// Removed by `remove`: a static is never dropped.
static FOLDER: Mutex<Option<TempDir>> = Mutex::new(None);

/// The server, its keys, and the two ways to it.
#[derive(Debug)]
pub(crate) struct S3Server {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) region: String,
    /// What servers under test are given.
    pub(crate) gate: Arc<Gate>,
    pub(crate) gate_address: SocketAddr,
    observer_address: SocketAddr,
    /// Keeps the server's threads.
    _runtime: Runtime,
}

impl S3Server {
    /// The server of this run.
    pub(crate) fn shared() -> &'static Self {
        &STORE
    }

    fn start() -> Self {
        let setting = |name: &str| std::env::var(format!("HAPAX_TEST_S3_{name}")).ok();
        let access_key = setting("ACCESS_KEY").unwrap_or_else(|| "hapaxtest".to_owned());
        let secret_key = setting("SECRET_KEY").unwrap_or_else(|| "hapax-test-secret".to_owned());
        let region = setting("REGION").unwrap_or_else(|| "us-east-1".to_owned());
        let upstream = match setting("ENDPOINT") {
            Some(endpoint) => Upstream::remote(endpoint),
            None => in_process(&access_key, &secret_key),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3")
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let gate = Arc::new(Gate::new(upstream.clone()));
        let gate_address = runtime.block_on(gate.clone().listen());
        let observer_address = runtime.block_on(Arc::new(Gate::new(upstream)).listen());
        Self {
            access_key,
            secret_key,
            region,
            gate,
            gate_address,
            observer_address,
            _runtime: runtime,
        }
    }

    /// A client that no counter sees.
    pub(crate) fn observer(&self) -> aws_sdk_s3::Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .endpoint_url(format!("http://{}", self.observer_address))
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .credentials_provider(Credentials::new(
                &self.access_key,
                &self.secret_key,
                None,
                None,
                "tests",
            ))
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }
}

fn in_process(access_key: &str, secret_key: &str) -> Upstream {
    let folder = tempfile::Builder::new()
        .prefix("hapax-s3-")
        .tempdir()
        .expect("a temporary folder can be made");
    let files = s3s_fs::FileSystem::new(folder.path()).expect("the folder is there");
    *FOLDER.lock().expect("nothing panics while holding it") = Some(folder);
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
    Upstream::InProcess(builder.build())
}

/// Removes the in-process server's files at the end of the run.
pub(crate) fn remove() {
    FOLDER
        .lock()
        .expect("nothing panics while holding it")
        .take();
}
