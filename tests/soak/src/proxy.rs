//! A loopback HTTP proxy between the servers and the store. It knows S3's calls, does to them what
//! networks and stores do, and counts it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::faults::{Fault, Faults, Operation};
use crate::servers::{OPERATION_TIMEOUT, PUT_DEADLINE};

/// The store is taken to have hung up after this.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest that a late call is held, beyond the time after which its sender gives it up.
const LATE_MILLIS: u64 = 9_000;
/// A PUT goes on to the store only so long before the deadline of its key: the promise that every
/// store makes in some way (Amazon's by the age of the signature), and that rule R8 builds on.
const DEADLINE_MARGIN: Duration = Duration::from_secs(6);
const DELAY_MILLIS: u64 = 1_500;
/// Pieces in which a throttled body is sent, and the pause before each.
const DROPS: usize = 12;
const DROP_PAUSE: Duration = Duration::from_millis(60);

type AnswerBody = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;
type Answer = Response<AnswerBody>;

/// A call, whole.
struct Call {
    operation: Operation,
    method: hyper::Method,
    target: String,
    headers: hyper::HeaderMap,
    body: Bytes,
}

/// The proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    faults: Arc<Faults>,
    store: RwLock<Option<SocketAddr>>,
    http: reqwest::Client,
    in_flight: AtomicUsize,
    /// Held calls that went on to the store after their sender was gone.
    landed_late: AtomicU64,
    /// PUTs that were too old to be let through.
    expired: AtomicU64,
}

impl Proxy {
    pub(crate) fn new(faults: Arc<Faults>) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(Duration::from_secs(1))
            .timeout(UPSTREAM_TIMEOUT)
            .build()?;
        Ok(Self {
            faults,
            store: RwLock::new(None),
            http,
            in_flight: AtomicUsize::new(0),
            landed_late: AtomicU64::new(0),
            expired: AtomicU64::new(0),
        })
    }

    /// Where the store is now; `None` while it is down.
    pub(crate) fn set_store(&self, address: Option<SocketAddr>) {
        *self.store.write().expect("nothing panics while holding it") = address;
    }

    /// Calls that came and are not done with.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Held calls that took effect late, and PUTs that would have come too late.
    pub(crate) fn late(&self) -> (u64, u64) {
        (
            self.landed_late.load(Ordering::Relaxed),
            self.expired.load(Ordering::Relaxed),
        )
    }

    /// Serves on a free port until the runtime ends.
    pub(crate) async fn listen(self: &Arc<Self>) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let proxy = self.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let proxy = proxy.clone();
                let service = hyper::service::service_fn(move |request| {
                    // A task of its own: what is on its way to the store is not taken back when its
                    // sender hangs up.
                    let serving = tokio::spawn(proxy.clone().count(request));
                    async move {
                        let answer = serving.await.map_err(anyhow::Error::from);
                        answer.and_then(|answer| answer)
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        Ok(address)
    }

    async fn count(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let answer = self.serve(request).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    /// An error cuts the connection.
    async fn serve(&self, request: Request<Incoming>) -> Result<Answer> {
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        let operation = Operation::of(&head.method, head.uri.path(), query);
        let fault = self.faults.draw(operation);
        let body = self.take_body(body, operation, fault).await?;
        let target = head
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let call = Call {
            operation,
            method: head.method,
            target: target.to_owned(),
            headers: head.headers,
            body,
        };
        match fault {
            None => self.forward(call).await,
            Some(fault) => self.spoil(call, fault).await,
        }
    }

    async fn take_body(
        &self,
        mut body: Incoming,
        operation: Operation,
        fault: Option<Fault>,
    ) -> Result<Bytes> {
        let mut taken = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                taken.extend_from_slice(&data);
            }
            match fault {
                Some(Fault::Throttle) => tokio::time::sleep(DROP_PAUSE).await,
                Some(Fault::CutWithin) if operation == Operation::Put => {
                    anyhow::bail!("cut within the body")
                }
                _ => {}
            }
        }
        Ok(taken.freeze())
    }

    async fn spoil(&self, call: Call, fault: Fault) -> Result<Answer> {
        match fault {
            Fault::Delay => {
                let delay = Duration::from_millis(self.faults.below(DELAY_MILLIS));
                tokio::time::sleep(delay).await;
                self.forward(call).await
            }
            Fault::Throttle => Ok(in_drops(self.forward(call).await?).await?),
            Fault::InternalError => Ok(refusal(500, "InternalError")),
            Fault::Unavailable => Ok(refusal(503, "ServiceUnavailable")),
            Fault::SlowDown => Ok(refusal(503, "SlowDown")),
            Fault::Cut => anyhow::bail!("cut before the store"),
            Fault::CutWithin => cut_half_way(self.forward(call).await?).await,
            Fault::DropAnswer => {
                self.forward(call).await?;
                anyhow::bail!("the answer is dropped")
            }
            Fault::FalseError => {
                self.forward(call).await?;
                Ok(refusal(500, "InternalError"))
            }
            Fault::Late => self.let_through_late(call).await,
        }
    }

    /// Longer than the sender waits.
    async fn let_through_late(&self, call: Call) -> Result<Answer> {
        let more = Duration::from_millis(500 + self.faults.below(LATE_MILLIS));
        tokio::time::sleep(OPERATION_TIMEOUT + more).await;
        let answer = self.forward(call).await?;
        self.landed_late.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    /// Hands a call on as it came. The `Host` header stays: it is part of what was signed.
    async fn forward(&self, call: Call) -> Result<Answer> {
        let is_late = |age: Duration| age + DEADLINE_MARGIN > PUT_DEADLINE;
        if call.operation == Operation::Put && age_of(&call.target).is_some_and(is_late) {
            self.expired.fetch_add(1, Ordering::Relaxed);
            return Ok(refusal(403, "RequestTimeTooSkewed"));
        }
        let store = *self.store.read().expect("nothing panics while holding it");
        let store = store.context("the store is down")?;
        let mut answer = self
            .http
            .request(call.method, format!("http://{store}{}", call.target))
            .headers(call.headers)
            .body(call.body)
            .send()
            .await?;
        let mut response = Response::new(empty());
        *response.status_mut() = answer.status();
        std::mem::swap(response.headers_mut(), answer.headers_mut());
        // The body is whole by now, so that its length is known again.
        response.headers_mut().remove("transfer-encoding");
        let body = answer.bytes().await?;
        *response.body_mut() = pieces(vec![Ok(body)]);
        Ok(response)
    }
}

/// How long ago the row of a key was announced, which its last part tells: a UUID of version 7 begins
/// with the time of its making.
fn age_of(target: &str) -> Option<Duration> {
    let path = target.split('?').next()?;
    let generation: uuid::Uuid = path.rsplit('/').next()?.parse().ok()?;
    let (seconds, nanos) = generation.get_timestamp()?.to_unix();
    let made = UNIX_EPOCH + Duration::new(seconds, nanos);
    Some(SystemTime::now().duration_since(made).unwrap_or_default())
}

fn pieces(pieces: Vec<Result<Bytes, std::io::Error>>) -> AnswerBody {
    let frames = pieces.into_iter().map(|piece| piece.map(Frame::data));
    StreamBody::new(futures::stream::iter(frames).boxed())
}

fn empty() -> AnswerBody {
    pieces(Vec::new())
}

/// An error as S3 words it.
fn refusal(status: u16, code: &str) -> Answer {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>injected by the soak's proxy</Message></Error>"
    );
    let mut response = Response::new(empty());
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(
        "content-type",
        hyper::header::HeaderValue::from_static("application/xml"),
    );
    headers.insert("content-length", text.len().into());
    *response.body_mut() = pieces(vec![Ok(text.into())]);
    response
}

async fn in_drops(answer: Answer) -> Result<Answer> {
    let (head, body) = answer.into_parts();
    let body = BodyExt::collect(body).await?.to_bytes();
    let size = body.len().div_ceil(DROPS).max(1);
    let drops: Vec<Bytes> = body.chunks(size).map(Bytes::copy_from_slice).collect();
    let stream = futures::stream::iter(drops).then(|piece| async move {
        tokio::time::sleep(DROP_PAUSE).await;
        Ok(Frame::data(piece))
    });
    Ok(Response::from_parts(head, StreamBody::new(stream.boxed())))
}

/// The store did it, and half of its answer gets through.
async fn cut_half_way(answer: Answer) -> Result<Answer> {
    let (head, body) = answer.into_parts();
    let body = BodyExt::collect(body).await?.to_bytes();
    anyhow::ensure!(!body.is_empty(), "cut before an answer without a body");
    let half = body.slice(..body.len() / 2);
    let cut = std::io::Error::other("cut within the answer");
    Ok(Response::from_parts(head, pieces(vec![Ok(half), Err(cut)])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_key_is_that_of_its_generation() {
        let generation = uuid::Uuid::now_v7();
        let target = format!("/soak/hapax/ab/abcd/{generation}?x-id=PutObject");
        let age = age_of(&target).expect("a generation");
        assert!(age < Duration::from_secs(5), "{age:?}");
        assert_eq!(age_of("/soak/hapax/.hapax/store-id"), None);
        let random = uuid::Uuid::nil();
        assert_eq!(age_of(&format!("/soak/hapax/ab/abcd/{random}")), None);
    }
}
