//! Counts.

use actix_web::HttpResponse;
use actix_web::web::Data;

use super::auth::{Authed, Reader, Scope};
use super::openapi::{CallerProblems, ServerProblems};
use super::problem::Problem;
use crate::service::{Service, Stats};

/// Counts and sums: the tenant's own, or everybody's for an admin key.
///
/// # Errors
/// See the documented statuses.
#[utoipa::path(
    get,
    path = "/v1/stats",
    tag = "operations",
    responses(
        (status = 200, description = "The counts.", body = Stats),
        CallerProblems, ServerProblems,
    ),
    security(("api_key" = ["read"])),
)]
pub async fn get_stats(
    asked: Authed<Reader>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let everybody = asked.caller.scopes.allow(Scope::Admin);
    let tenant = (!everybody).then_some(&asked.caller.tenant);
    Ok(HttpResponse::Ok().json(service.stats(tenant).await?))
}
