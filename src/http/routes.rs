//! Every route in one table.

use actix_web::guard::{Any, Get, Head};
use actix_web::web::{self, ServiceConfig};

use super::problem::{Code, Problem};
use super::{content, images, ops, originals, stats, uploads, webhooks};

/// Where files are uploaded and listed.
pub const UPLOADS: &str = "/v1/images";
/// Where deletions are announced.
pub const DELETION_WEBHOOK: &str = "/v1/webhooks/deletions";

/// Every path, as the table below has it.
#[cfg(test)]
pub(super) const PATHS: &[&str] = &[
    "/v1/images",
    "/v1/images/exists",
    "/v1/images/delete",
    "/v1/images/{id}",
    "/v1/images/{id}/content",
    "/v1/originals/{hash}",
    "/v1/stats",
    "/v1/webhooks/deletions",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
];

/// Adds the table. The fixed paths under `/v1/images` come before `{id}`, which would match them.
pub fn configure(config: &mut ServiceConfig) {
    config
        .service(
            web::resource(UPLOADS)
                .route(web::get().to(images::list_images))
                .route(web::post().to(uploads::upload_images)),
        )
        .service(
            web::resource("/v1/images/exists").route(web::post().to(images::find_known_content)),
        )
        .service(web::resource("/v1/images/delete").route(web::post().to(images::delete_images)))
        .service(
            web::resource("/v1/images/{id}")
                .route(web::get().to(images::get_image))
                .route(web::delete().to(images::delete_image)),
        )
        .service(
            web::resource("/v1/images/{id}/content")
                .route(web::get().to(content::get_content))
                .route(web::head().to(content::head_content)),
        )
        .service(
            web::resource("/v1/originals/{hash}").route(web::get().to(originals::get_original)),
        )
        .service(web::resource("/v1/stats").route(web::get().to(stats::get_stats)))
        .service(web::resource(DELETION_WEBHOOK).route(web::post().to(webhooks::take_deletions)))
        .service(web::resource("/healthz").route(probe().to(ops::get_health)))
        .service(web::resource("/readyz").route(probe().to(ops::get_readiness)))
        .service(web::resource("/metrics").route(web::get().to(ops::get_metrics)))
        .service(web::resource("/openapi.json").route(web::get().to(ops::get_openapi)))
        .default_service(web::to(unknown_route));
}

/// Load balancers probe with either method.
fn probe() -> actix_web::Route {
    web::route().guard(Any(Get()).or(Head()))
}

async fn unknown_route() -> Result<actix_web::HttpResponse, Problem> {
    Err(Problem::plain(Code::UnknownRoute))
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
