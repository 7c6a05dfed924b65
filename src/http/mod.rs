//! The HTTP API. It knows messages, not tables: handlers unpack a request, call
//! [`crate::service::Service`], and spell the answer.
//!
//! Reading order: [`routes`] (the table), [`edge`] (what happens to every request), [`auth`] and
//! [`input`] (what a handler may rely on), then one file per group of routes: [`uploads`] (with
//! [`form`], [`multipart`] and [`metadata`]), [`images`], [`content`], [`originals`], [`stats`], [`webhooks`], [`ops`].
//! [`problem`] is the one table of errors, [`representation`] the JSON that clients see.
//!
//! Some errors are answered below this layer, by the connection itself, with a bare status and no
//! document: a request head that is no HTTP (400), too large (431) or too slow (408). Malformed chunks are
//! answered by nothing at all. `docs/api.md` lists them; `connections` cuts what the library would wait
//! for without end.

pub mod auth;
pub mod conditions;
mod connections;
pub mod content;
pub mod cursor;
pub mod digest_header;
pub mod edge;
pub mod filename;
pub mod form;
pub mod images;
pub mod input;
pub mod metadata;
pub mod multipart;
pub mod openapi;
pub mod ops;
pub mod originals;
pub mod problem;
pub mod representation;
pub mod routes;
pub mod stats;
pub mod uploads;
pub mod webhooks;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::web::{Bytes, Data, ServiceConfig};
use actix_web::{App, HttpRequest, HttpServer};
use standardwebhooks::Webhook;

use crate::config::{AuthMode, Config};
use crate::ledger::Ledger;
use crate::service::Service;

/// How long a request's head may take to come; bodies have limits of their own.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept. Longer than the 60 s of common load balancers, so that they
/// close first and never send into a closed connection.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// What extractors and handlers are to know of the configuration.
pub struct Settings {
    /// Whether keys are asked for.
    pub auth: AuthMode,
    /// `upload.max_bytes`: a larger declared length is refused before the first byte.
    pub max_bytes: u64,
    /// `upload.max_files`.
    pub max_files: usize,
    /// How long a JSON body may take (`upload.idle_timeout`).
    pub small_body_timeout: Duration,
    /// One per configured secret of the deletion webhook.
    pub deletion_hooks: Vec<Webhook>,
    /// Set while the server stops: it is no longer ready, but answers.
    pub draining: Arc<AtomicBool>,
    /// The description of this API, rendered once.
    pub openapi: Bytes,
}

impl Settings {
    /// Gathers them.
    ///
    /// # Errors
    /// A webhook secret is not base64.
    pub fn new(config: &Config, draining: Arc<AtomicBool>) -> io::Result<Self> {
        let secrets = config.webhooks.deletions.secrets.iter();
        let deletion_hooks = secrets
            .map(|secret| Webhook::new(secret))
            .collect::<Result<_, _>>()
            .map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a secret in webhooks.deletions.secrets is not whsec_ and base64",
                )
            })?;
        Ok(Self {
            auth: config.auth.mode,
            max_bytes: config.upload.max_bytes,
            max_files: config.upload.max_files,
            small_body_timeout: config.upload.idle_timeout,
            deletion_hooks,
            draining,
            openapi: Bytes::from(openapi::document(config.auth.mode)),
        })
    }

    /// Those of the server that got this request.
    pub fn of(request: &HttpRequest) -> &Self {
        request
            .app_data::<Data<Self>>()
            .expect("every application is built with its settings")
    }
}

/// Starts to serve. The returned future must be awaited; its handle stops it, gracefully or not. It
/// installs no signal handlers.
///
/// # Errors
/// The configuration has a malformed secret, or the listener cannot be used.
pub fn serve(
    listener: TcpListener,
    service: Service,
    ledger: Ledger,
    config: &Config,
    draining: Arc<AtomicBool>,
) -> io::Result<Server> {
    let settings = Data::new(Settings::new(config, draining)?);
    let ledger = Data::new(ledger);
    run(listener, config, move |app| {
        app.app_data(settings.clone());
        app.app_data(Data::new(service.on_this_thread()));
        app.app_data(ledger.clone());
    })
}

/// The server itself, with whatever data its routes find: `add_data` runs once on each worker's thread.
fn run(
    listener: TcpListener,
    config: &Config,
    add_data: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> io::Result<Server> {
    let workers = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    // The framework counts connections per worker.
    let connections = config.server.max_connections.div_ceil(workers).max(1);
    let server = HttpServer::new(move || {
        App::new()
            .wrap(from_fn(edge::edge))
            .configure(add_data.clone())
            .configure(routes::configure)
    })
    .workers(workers)
    .max_connections(connections)
    .keep_alive(KEEP_ALIVE)
    .client_request_timeout(HEAD_TIMEOUT)
    .client_disconnect_timeout(edge::LINGER)
    .on_connect(|io, data| connections::remember(io, data, KEEP_ALIVE + HEAD_TIMEOUT))
    .shutdown_timeout(config.server.drain_timeout.as_secs().max(1))
    .disable_signals()
    .listen(listener)?;
    Ok(server.run())
}

/// A header's text; empty when it is not there.
#[cfg(test)]
fn text<'a>(headers: &'a actix_web::http::header::HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
