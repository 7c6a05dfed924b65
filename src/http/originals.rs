//! Originals as a tenant sees them.

use actix_web::HttpResponse;
use actix_web::web::Data;

use super::auth::{Authed, Reader};
use super::input::OriginalPath;
use super::openapi::{CallerProblems, ServerProblems};
use super::problem::{Code, Problem, ProblemDocument};
use super::representation::Original;
use crate::service::Service;

/// Shows the original behind a content hash.
///
/// # Errors
/// See the documented statuses.
#[utoipa::path(
    get,
    path = "/v1/originals/{hash}",
    tag = "originals",
    params(("hash" = String, Path, description = "SHA-256 of the content, 64 lowercase hex characters.")),
    responses(
        (status = 200, description = "The original.", body = Original),
        (status = 404, description = "unknown-original", body = ProblemDocument, content_type = "application/problem+json"),
        CallerProblems, ServerProblems,
    ),
    security(("api_key" = ["read"])),
)]
pub async fn get_original(
    asked: Authed<Reader, OriginalPath>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let view = service
        .original(&asked.caller.tenant, asked.input.0)
        .await?
        .ok_or_else(|| Problem::plain(Code::UnknownOriginal))?;
    Ok(HttpResponse::Ok().json(Original::from(view)))
}
