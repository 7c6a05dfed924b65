//! For operators: alive, ready, counted, described. No key is asked for.

use std::sync::atomic::Ordering;

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{self, Data};

use super::Settings;
use super::openapi::ServerProblems;
use super::problem::{Code, Problem, RETRY_AFTER_SECONDS};
use super::representation::{Readiness, UnreadyReason};
use crate::metrics::METRICS;
use crate::service::Service;

/// The Prometheus text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Says that the process serves requests.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operations",
    operation_id = "get_health",
    responses((status = 200, description = "Alive.", body = super::openapi::Health)),
)]
pub async fn get_health() -> HttpResponse {
    HttpResponse::Ok().json(super::openapi::Health { status: "alive" })
}

/// Says whether requests should be sent here.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    operation_id = "get_readiness",
    responses(
        (status = 200, description = "Ready.", body = Readiness),
        (status = 503, description = "Not now.", body = Readiness),
    ),
)]
pub async fn get_readiness(settings: Data<Settings>, service: Data<Service>) -> HttpResponse {
    let mut reasons: Vec<_> = service
        .unready_reasons()
        .await
        .into_iter()
        .map(|(code, detail)| UnreadyReason { code, detail })
        .collect();
    if settings.draining.load(Ordering::Relaxed) {
        reasons.push(UnreadyReason {
            code: "draining",
            detail: "the server is stopping".to_owned(),
        });
    }
    if reasons.is_empty() {
        return HttpResponse::Ok().json(Readiness {
            status: "ready",
            reasons,
        });
    }
    HttpResponse::ServiceUnavailable()
        .insert_header((header::RETRY_AFTER, RETRY_AFTER_SECONDS))
        .json(Readiness {
            status: "unready",
            reasons,
        })
}

/// Every metric, for Prometheus.
///
/// # Errors
/// The thread that gathers them died.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    responses(
        (status = 200, description = "The metrics.", body = String, content_type = "text/plain"),
        ServerProblems,
    ),
)]
pub async fn get_metrics() -> Result<HttpResponse, Problem> {
    // Some thousand lines: too long for a thread that serves sockets.
    let text = web::block(|| METRICS.render())
        .await
        .map_err(|_| Problem::plain(Code::InternalError))?;
    Ok(HttpResponse::Ok().content_type(METRICS_TYPE).body(text))
}

/// This description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operations",
    operation_id = "get_openapi",
    responses((status = 200, description = "OpenAPI 3.1.", body = super::openapi::AnyDocument, content_type = "application/json")),
)]
pub async fn get_openapi(settings: Data<Settings>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(settings.openapi.clone())
}
