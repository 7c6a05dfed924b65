//! A loopback HTTP server before the S3 server. It counts calls by bucket and operation, and can
//! refuse, hold or un-answer them: what a store really does to its clients.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use s3s::{Body, HttpRequest, HttpResponse};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Where the calls go.
#[derive(Clone)]
pub(crate) enum Upstream {
    /// `s3s-fs` in this process.
    InProcess(s3s::service::S3Service),
    /// Another server on this machine.
    Remote {
        client: reqwest::Client,
        endpoint: String,
    },
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::InProcess(_) => "InProcess",
            Self::Remote { endpoint, .. } => endpoint,
        })
    }
}

impl Upstream {
    /// The S3 server at `endpoint` (`http://host:port`).
    pub(crate) fn remote(endpoint: String) -> Self {
        Self::Remote {
            client: reqwest::Client::new(),
            endpoint,
        }
    }

    async fn call(&self, request: HttpRequest) -> HttpResponse {
        let answer = match self {
            Self::InProcess(service) => service
                .call(request)
                .await
                .map_err(|error| format!("{error:?}")),
            Self::Remote { client, endpoint } => forward(client, endpoint, request)
                .await
                .map_err(|error| format!("{error:?}")),
        };
        answer.unwrap_or_else(|error| {
            let mut response = status_only(502);
            *response.body_mut() = Body::from(error);
            response
        })
    }
}

/// Hands a call on as it came. The `Host` header stays: it is part of what was signed.
async fn forward(
    client: &reqwest::Client,
    endpoint: &str,
    request: HttpRequest,
) -> Result<HttpResponse, Box<dyn std::error::Error + Send + Sync>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut answer = client
        .request(head.method, format!("{endpoint}{path}"))
        .headers(head.headers)
        .body(body)
        .send()
        .await?;
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = answer.status();
    std::mem::swap(response.headers_mut(), answer.headers_mut());
    // The body is whole by now, so that its length is known again.
    response.headers_mut().remove("transfer-encoding");
    *response.body_mut() = Body::from(answer.bytes().await?);
    Ok(response)
}

/// What a call asks of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Operation {
    Put,
    Get,
    Head,
    Delete,
    DeleteMany,
    List,
    /// Everything else: buckets, multipart uploads.
    Other,
}

/// What the gate does to a call instead of handing it on.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Answers with this status; the store never sees the call.
    Refuse(u16),
    /// The store does it, the caller gets this status.
    DoAndAnswer(u16),
    /// The call waits at the gate until the `Hold` is released, then goes on to the store.
    HoldBefore,
    /// The store does it at once, the answer waits until the `Hold` is released.
    HoldAfter,
    /// A `DeleteObjects` that names a key with this ending reports an error for that key alone.
    #[cfg_attr(
        not(feature = "seams"),
        expect(
            dead_code,
            reason = "only schedules that are forced at the seams do this"
        )
    )]
    RefuseKeysEndingWith(String),
}

/// Calls that wait at the gate. Dropping it lets them go.
#[derive(Debug)]
pub(crate) struct Hold {
    waiting: watch::Receiver<usize>,
    released: Arc<watch::Sender<bool>>,
}

impl Hold {
    /// Returns once `calls` calls wait.
    pub(crate) async fn reached(&mut self, calls: usize) {
        let arrived = self.waiting.wait_for(|waiting| *waiting >= calls);
        tokio::time::timeout(std::time::Duration::from_secs(20), arrived)
            .await
            .unwrap_or_else(|_| panic!("{calls} held calls did not come within 20 s"))
            .expect("the gate outlives its holds");
    }

    /// Lets all of them go on.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

#[derive(Debug)]
struct Rule {
    operation: Operation,
    times_left: usize,
    action: Action,
    waiting: watch::Sender<usize>,
    released: Arc<watch::Sender<bool>>,
}

#[derive(Debug, Default)]
struct Bucket {
    calls: BTreeMap<Operation, u64>,
    rules: Vec<Arc<Mutex<Rule>>>,
}

/// The server, and what it knows of each bucket.
#[derive(Debug)]
pub(crate) struct Gate {
    upstream: Upstream,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl Gate {
    /// A gate before `upstream`.
    pub(crate) fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            buckets: Mutex::default(),
        }
    }

    /// Serves on a free loopback port until the runtime ends.
    pub(crate) async fn listen(self: Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let gate = Arc::clone(&self);
                let service = hyper::service::service_fn(move |request: http::Request<_>| {
                    let gate = Arc::clone(&gate);
                    async move {
                        let request = request.map(|body: hyper::body::Incoming| Body::from(body));
                        // A task of its own: a caller that hangs up takes nothing back that is on
                        // its way to the store.
                        let serving = tokio::spawn(async move { gate.serve(request).await });
                        serving.await.map_err(std::io::Error::other)
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        address
    }

    /// Calls so far in one bucket; those for Hapax's own objects (store id, probes) are left out.
    pub(crate) fn calls(&self, bucket: &str) -> BTreeMap<Operation, u64> {
        let buckets = self.buckets();
        buckets
            .get(bucket)
            .map(|bucket| bucket.calls.clone())
            .unwrap_or_default()
    }

    /// Treats the next `times` calls of one kind in one bucket by `action`.
    pub(crate) fn arm(
        &self,
        bucket: &str,
        operation: Operation,
        times: usize,
        action: Action,
    ) -> Hold {
        let (waiting, seen) = watch::channel(0);
        let released = Arc::new(watch::Sender::new(false));
        let rule = Rule {
            operation,
            times_left: times,
            action,
            waiting,
            released: Arc::clone(&released),
        };
        let mut buckets = self.buckets();
        let bucket = buckets.entry(bucket.to_owned()).or_default();
        bucket.rules.push(Arc::new(Mutex::new(rule)));
        Hold {
            waiting: seen,
            released,
        }
    }

    /// Calls are handed on again.
    pub(crate) fn disarm(&self, bucket: &str) {
        if let Some(bucket) = self.buckets().get_mut(bucket) {
            bucket.rules.clear();
        }
    }

    fn buckets(&self) -> MutexGuard<'_, HashMap<String, Bucket>> {
        self.buckets
            .lock()
            .expect("nothing panics while holding it")
    }

    async fn serve(&self, request: HttpRequest) -> HttpResponse {
        let Some((bucket, operation)) = classify(&request) else {
            return self.upstream.call(request).await;
        };
        let Some((action, hold)) = self.record(bucket, operation) else {
            return self.upstream.call(request).await;
        };
        match action {
            Action::Refuse(status) => {
                drain(request).await;
                status_only(status)
            }
            Action::DoAndAnswer(status) => {
                self.upstream.call(request).await;
                status_only(status)
            }
            Action::HoldBefore => {
                let (head, body) = request.into_parts();
                let body = body
                    .collect()
                    .await
                    .map(http_body_util::Collected::to_bytes);
                hold.wait().await;
                let body = Body::from(body.unwrap_or_default());
                // The caller may be gone by now; its call is on the wire all the same.
                self.upstream
                    .call(http::Request::from_parts(head, body))
                    .await
            }
            Action::HoldAfter => {
                let response = self.upstream.call(request).await;
                hold.wait().await;
                response
            }
            Action::RefuseKeysEndingWith(ending) => self.delete_all_but(request, &ending).await,
        }
    }

    /// Counts the call, and takes the first rule that is meant for it.
    fn record(&self, bucket: String, operation: Operation) -> Option<(Action, Waiting)> {
        let mut buckets = self.buckets();
        let bucket = buckets.entry(bucket).or_default();
        *bucket.calls.entry(operation).or_default() += 1;
        for rule in &bucket.rules {
            let mut rule = rule.lock().expect("nothing panics while holding it");
            if rule.operation == operation && rule.times_left > 0 {
                rule.times_left -= 1;
                let hold = Waiting {
                    count: rule.waiting.clone(),
                    released: rule.released.subscribe(),
                };
                return Some((rule.action.clone(), hold));
            }
        }
        None
    }

    /// S3 answers `DeleteObjects` key by key; so does this, failing the keys with the ending.
    async fn delete_all_but(&self, request: HttpRequest, ending: &str) -> HttpResponse {
        let bucket = classify(&request).map_or_else(String::new, |(bucket, _)| bucket);
        let body = request.into_body().collect().await;
        let body = body
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let keys = text
            .split("<Key>")
            .skip(1)
            .filter_map(|rest| rest.split("</Key>").next());
        let client = super::s3::S3Server::shared().observer();
        let mut answer = String::from("<?xml version=\"1.0\"?><DeleteResult>");
        for key in keys {
            if key.ends_with(ending) {
                answer += &format!(
                    "<Error><Key>{key}</Key><Code>AccessDenied</Code><Message>locked</Message></Error>"
                );
                continue;
            }
            let deleted = client.delete_object().bucket(&bucket).key(key).send().await;
            deleted.expect("the store deletes");
            answer += &format!("<Deleted><Key>{key}</Key></Deleted>");
        }
        answer += "</DeleteResult>";
        let mut response = status_only(200);
        *response.body_mut() = Body::from(Bytes::from(answer));
        response
    }
}

struct Waiting {
    count: watch::Sender<usize>,
    released: watch::Receiver<bool>,
}

impl Waiting {
    fn wait(mut self) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.count.send_modify(|waiting| *waiting += 1);
            let _ = self.released.wait_for(|released| *released).await;
        })
    }
}

/// Bucket and operation of a path-style call; `None` for Hapax's own objects.
fn classify(request: &HttpRequest) -> Option<(String, Operation)> {
    let path = request.uri().path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    if key.contains(".hapax/") || bucket.is_empty() {
        return None;
    }
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    let multipart = has("uploadId") || has("uploads") || has("partNumber");
    let operation = match (request.method().as_str(), key.is_empty()) {
        _ if multipart => Operation::Other,
        ("PUT", false) => Operation::Put,
        ("GET", false) => Operation::Get,
        ("HEAD", false) => Operation::Head,
        ("DELETE", false) => Operation::Delete,
        ("POST", true) if has("delete") => Operation::DeleteMany,
        ("GET", true) if has("list-type") => Operation::List,
        _ => Operation::Other,
    };
    Some((bucket.to_owned(), operation))
}

async fn drain(request: HttpRequest) {
    let _ = request.into_body().collect().await;
}

fn status_only(status: u16) -> HttpResponse {
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status of HTTP");
    response
}
