//! What the schedules by name are forced with, besides the seams: requests on their way, and signs that
//! somebody waits.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::client::{Api, Reply};
use super::outside::{Outside, count_of};
use super::raw::RawConnection;
use super::seams::{Event, Filter, SeamControl, Times};
use super::server::Server;

/// How long a sign may take to show.
const LIMIT: Duration = Duration::from_secs(15);

/// Sends an upload while the case goes on.
pub(crate) fn uploading(api: &Api, bytes: &[u8]) -> JoinHandle<Reply> {
    uploading_with(api, bytes, &[])
}

/// Sends an upload with headers while the case goes on. A server that dies meanwhile gives status 0.
pub(crate) fn uploading_with(
    api: &Api,
    bytes: &[u8],
    headers: &[(&'static str, &str)],
) -> JoinHandle<Reply> {
    let mut request = api
        .request(reqwest::Method::POST, "/v1/images")
        .header("content-type", "application/octet-stream")
        .body(bytes.to_vec());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(api, request)
}

/// Sends a deletion while the case goes on.
pub(crate) fn deleting(api: &Api, id: &str) -> JoinHandle<Reply> {
    let request = api.request(reqwest::Method::DELETE, &format!("/v1/images/{id}"));
    send(api, request)
}

fn send(api: &Api, request: reqwest::RequestBuilder) -> JoinHandle<Reply> {
    let api = api.clone();
    tokio::spawn(async move {
        api.try_send(request).await.unwrap_or_else(|_| Reply {
            status: 0,
            headers: reqwest::header::HeaderMap::new(),
            body: bytes::Bytes::new(),
        })
    })
}

/// The outcome of something that must not wait for what the case is holding.
#[track_caller]
pub(crate) fn within<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        tokio::time::timeout(LIMIT, work)
            .await
            .unwrap_or_else(|_| panic!("{place}: it waits for something that is held"))
    }
}

/// Waits until a session of the case's PostgreSQL database waits for a lock.
pub(crate) async fn blocked_by_a_lock(outside: &Outside) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + LIMIT;
    while count_of(outside, waiting).await == 0 {
        assert!(Instant::now() < deadline, "nobody waits for a lock");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A batch's statement that locks its originals: what was read before it may be old by then.
pub(crate) fn is_locking_look(event: &Event) -> bool {
    event.name == "statement"
        && event.detail.contains("FOR UPDATE")
        && !event.detail.contains("SKIP LOCKED")
}

/// Sends requests so that all of them are in one batch of a server with one shard: a deletion of
/// `first` is held just before its commit until they have queued.
pub(crate) async fn one_batch(
    seams: &SeamControl,
    api: &Api,
    first: &str,
    send: impl FnOnce() -> Vec<JoinHandle<Reply>>,
) -> Vec<Reply> {
    let busy = seams.hold(Filter::point("BatchWritten"), Times::Next(1));
    let held = deleting(api, first);
    busy.reached(1).await;
    let queued = seams.hold(Filter::point("OperationQueued"), Times::All);
    let batch = seams.hold(Filter::point("BatchLooked"), Times::Next(1));
    let requests = send();
    queued.reached(requests.len()).await;
    queued.release();
    busy.release();
    held.await.expect("sending does not panic").expect(200);
    assert_eq!(
        batch.reached(1).await[0].detail,
        requests.len().to_string(),
        "all of them are in one batch"
    );
    batch.release();
    let mut replies = Vec::new();
    for request in requests {
        replies.push(request.await.expect("sending does not panic"));
    }
    replies
}

/// Breaks a connection off, and returns once the server has let go of its end.
pub(crate) async fn dropped_by(server: &Server, connection: RawConnection) {
    let socket = server.socket_of(&connection);
    connection.reset();
    let deadline = Instant::now() + LIMIT;
    while server.has_socket(&socket) {
        assert!(Instant::now() < deadline, "the server keeps the connection");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
