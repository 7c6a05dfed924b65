//! The outermost middleware: every answer gets a request id, every error becomes a problem document,
//! every request is counted and logged once, and a body that nobody read is disposed of politely.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage};
use futures::Stream;
use uuid::Uuid;

use super::connections::{self, Connection};
use super::problem::{Code, Problem};
use super::routes;
use crate::metrics::METRICS;

/// The header that names a request, both ways.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken over from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Wraps every request. See the module.
///
/// # Errors
/// None: an error of the wrapped service becomes an answer.
pub async fn edge(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let id = request_id(request.headers());
    let body = watch_body(&mut request);
    let connection = request.conn_data::<Rc<Connection>>().cloned();
    let serving = connection.as_ref().map(Connection::serve);

    let response = match &connection {
        Some(connection) if connection.is_closing() => {
            let detail = "the answer before this one ended the connection";
            request.error_response(Problem::new(Code::Unavailable, detail))
        }
        _ => next.call(request).await?,
    };
    let mut response = finish_problem(response, &id);

    response.headers_mut().insert(X_REQUEST_ID, id.clone());
    add_default_headers(response.headers_mut());
    observe(&response, &id, started.elapsed());
    let response = match body.filter(WatchedBody::is_unread) {
        Some(body) => {
            if let Some(connection) = &connection {
                connection.close_after_this();
            }
            close_after_linger(response, body)
        }
        None => response,
    };
    Ok(response.map_body(|_, body| connections::until_sent(body, serving)))
}

/// The client's own id where it is harmless, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&value.len())
            && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers
        .get(X_REQUEST_ID)
        .filter(sane)
        .cloned()
        .unwrap_or_else(|| {
            let id = Uuid::now_v7().to_string();
            HeaderValue::from_str(&id).expect("a UUID is ASCII")
        })
}

/// Renders problems with the request's id, and turns whatever error the framework answered by
/// itself (404, 405, 400 of its extractors) into one.
fn finish_problem(
    response: ServiceResponse<BoxBody>,
    id: &HeaderValue,
) -> ServiceResponse<BoxBody> {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    // `/readyz` says 503 in a JSON document of its own.
    if !is_error || is_own_document(response.headers()) {
        return response;
    }
    let request_id = id.to_str().unwrap_or_default();
    let known = response
        .response()
        .error()
        .and_then(Error::as_error::<Problem>);
    if let Some(cause) = known.and_then(|problem| problem.cause.as_deref()) {
        tracing::error!(
            request_id,
            cause,
            code = known.map(|p| p.code.name()),
            "request failed"
        );
    }
    let rendered = match known {
        Some(problem) => problem.render(request_id),
        None => {
            let problem = Problem::from_status(status);
            problem.render_with(request_id, response.headers())
        }
    };
    response.into_response(rendered)
}

fn is_own_document(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value == "application/json")
}

/// Defaults for answers that did not say otherwise: nothing is kept by caches, nothing is guessed.
fn add_default_headers(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// One observation and one log line. The route is its pattern and the method one of the known
/// ones: clients must not be able to invent label values.
fn observe(response: &ServiceResponse<BoxBody>, id: &HeaderValue, elapsed: Duration) {
    let request = response.request();
    let method = match *request.method() {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    };
    let route = request.match_pattern();
    let route = route.as_deref().unwrap_or("unmatched");
    let status = response.status();
    METRICS
        .http_requests
        .with_label_values(&[method, route, status.as_str()])
        .observe(elapsed.as_secs_f64());
    if method == "POST" {
        count_refusal(route, status);
    }
    tracing::info!(
        target: "hapax::access",
        method,
        path = request.path(),
        status = status.as_u16(),
        milliseconds = elapsed.as_micros() as f64 / 1000.0,
        request_id = id.to_str().unwrap_or_default(),
        "request"
    );
}

/// What took effect is counted where it did; what was refused, by whatever layer, here.
fn count_refusal(route: &str, status: StatusCode) {
    let result = if status.is_server_error() {
        "failed"
    } else if status.is_client_error() {
        "rejected"
    } else {
        return;
    };
    match route {
        routes::UPLOADS => METRICS.uploads.with_label_values(&[result]).inc(),
        routes::DELETION_WEBHOOK => METRICS
            .webhook_events
            .with_label_values(&["deletions", result])
            .inc(),
        _ => {}
    }
}

/// A request's body, shared between the handler that reads it and the edge that must know whether
/// it was read to its end.
#[derive(Clone)]
struct WatchedBody(Rc<RefCell<BodyState>>);

struct BodyState {
    payload: Payload,
    ended: bool,
}

impl WatchedBody {
    fn is_unread(&self) -> bool {
        !self.0.borrow().ended
    }
}

impl Stream for WatchedBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.borrow_mut();
        if state.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut state.payload).poll_next(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            state.ended = true;
        }
        polled
    }
}

fn watch_body(request: &mut ServiceRequest) -> Option<WatchedBody> {
    let payload = request.take_payload();
    if matches!(payload, Payload::None) {
        return None;
    }
    let watched = WatchedBody(Rc::new(RefCell::new(BodyState {
        payload,
        ended: false,
    })));
    request.set_payload(Payload::Stream {
        payload: Box::pin(watched.clone()),
    });
    Some(watched)
}

/// An answer before the end of the body. Many clients read nothing before they have sent
/// everything, and lose the answer to a reset when the server closes at once. So the connection
/// says `close`, and the server goes on reading and dropping what comes until the client is
/// done or `LINGER` is over (actix-http does so for a body that is still *held* when the answer ends;
/// a dropped chunked body it would drain without any bound, see actix-web#2764). Holding the body
/// inside the answer is what makes both kinds of bodies take the bounded path.
fn close_after_linger(
    mut response: ServiceResponse<BoxBody>,
    unread: WatchedBody,
) -> ServiceResponse<BoxBody> {
    response
        .response_mut()
        .head_mut()
        .set_connection_type(ConnectionType::Close);
    response.map_body(|_, body| {
        BoxBody::new(HoldingBody {
            body,
            _unread: unread,
        })
    })
}

struct HoldingBody {
    body: BoxBody,
    _unread: WatchedBody,
}

impl MessageBody for HoldingBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

/// How long the rest of a refused body is read and dropped.
pub const LINGER: Duration = Duration::from_secs(5);

#[cfg(test)]
#[path = "edge_tests.rs"]
mod tests;
