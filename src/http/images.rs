//! Images without their bytes: list, look at, ask for, delete.

use actix_web::HttpResponse;
use actix_web::web::Data;
use entity::ImageId;

use super::auth::{Authed, Reader, Writer};
use super::input::{ContentHashes, ImageIds, ImageListing, ImagePath, JsonBody, ListQuery};
use super::openapi::{BodyProblems, CallerProblems, QueryProblems, ServerProblems};
use super::problem::{Code, Problem, ProblemDocument};
use super::representation::{
    Deletion, DeletionResult, DeletionResults, Image, ImageList, KnownContent,
};
use crate::service::Service;
use crate::upload::{DeleteOutcome, ImageView, TenantId};

/// Lists images, newest first.
///
/// # Errors
/// See the documented statuses.
#[utoipa::path(
    get,
    path = "/v1/images",
    tag = "images",
    params(ListQuery),
    responses(
        (status = 200, description = "A page.", body = ImageList),
        CallerProblems, QueryProblems, ServerProblems,
    ),
    security(("api_key" = ["read"])),
)]
pub async fn list_images(
    asked: Authed<Reader, ImageListing>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let ImageListing {
        limit,
        after,
        include_deleted,
    } = asked.input;
    let page = service
        .images(&asked.caller.tenant, after, limit, include_deleted)
        .await?;
    Ok(HttpResponse::Ok().json(ImageList::from(page)))
}

/// Shows one image.
///
/// # Errors
/// See the documented statuses.
#[utoipa::path(
    get,
    path = "/v1/images/{id}",
    tag = "images",
    params(("id" = uuid::Uuid, Path, description = "The image.")),
    responses(
        (status = 200, description = "The image.", body = Image),
        (status = 404, description = "unknown-image", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 410, description = "image-deleted", body = ProblemDocument, content_type = "application/problem+json"),
        CallerProblems, ServerProblems,
    ),
    security(("api_key" = ["read"])),
)]
pub async fn get_image(
    asked: Authed<Reader, ImagePath>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let view = live_image(&service, &asked.caller.tenant, asked.input.0).await?;
    Ok(HttpResponse::Ok().json(Image::from(view)))
}

/// A live image of the tenant.
///
/// # Errors
/// 404 when there is none, 410 when it was deleted.
pub async fn live_image(
    service: &Service,
    tenant: &TenantId,
    id: ImageId,
) -> Result<ImageView, Problem> {
    let view = service.image(tenant, id).await?;
    let view = view.ok_or_else(|| Problem::plain(Code::UnknownImage))?;
    if view.image.deleted_at.is_some() {
        return Err(Problem::plain(Code::ImageDeleted));
    }
    Ok(view)
}

/// Says which contents the tenant already has, so that their bytes need not be sent.
///
/// # Errors
/// See the documented statuses.
#[utoipa::path(
    post,
    path = "/v1/images/exists",
    tag = "images",
    request_body = ContentHashes,
    responses(
        (status = 200, description = "The hashes of which the tenant has a live image.", body = KnownContent),
        CallerProblems, BodyProblems, ServerProblems,
    ),
    security(("api_key" = ["read"])),
)]
pub async fn find_known_content(
    asked: Authed<Reader, JsonBody<ContentHashes>>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let digests = asked.input.0.parse()?;
    let known = service.known(&asked.caller.tenant, &digests).await?;
    Ok(HttpResponse::Ok().json(KnownContent {
        known: known.iter().map(ToString::to_string).collect(),
    }))
}

/// Deletes one image. Again: the same answer, with `already_deleted`.
///
/// # Errors
/// See the documented statuses.
#[utoipa::path(
    delete,
    path = "/v1/images/{id}",
    tag = "images",
    params(("id" = uuid::Uuid, Path, description = "The image.")),
    responses(
        (status = 200, description = "It is deleted.", body = Deletion),
        (status = 404, description = "unknown-image", body = ProblemDocument, content_type = "application/problem+json"),
        CallerProblems, ServerProblems,
    ),
    security(("api_key" = ["write"])),
)]
pub async fn delete_image(
    asked: Authed<Writer, ImagePath>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let released = service
        .release(&asked.caller.tenant, vec![asked.input.0])
        .await?
        .into_iter()
        .next()
        .filter(|released| released.outcome != DeleteOutcome::Unknown)
        .ok_or_else(|| Problem::plain(Code::UnknownImage))?;
    Ok(HttpResponse::Ok().json(Deletion::from(released)))
}

/// Deletes up to 1000 images; each reference counts.
///
/// # Errors
/// See the documented statuses.
#[utoipa::path(
    post,
    path = "/v1/images/delete",
    tag = "images",
    request_body = ImageIds,
    responses(
        (status = 200, description = "What became of each.", body = DeletionResults),
        CallerProblems, BodyProblems, ServerProblems,
    ),
    security(("api_key" = ["write"])),
)]
pub async fn delete_images(
    asked: Authed<Writer, JsonBody<ImageIds>>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let ids: Vec<_> = asked.input.0.ids.into_iter().map(ImageId).collect();
    let released = if ids.is_empty() {
        Vec::new()
    } else {
        service.release(&asked.caller.tenant, ids).await?
    };
    Ok(HttpResponse::Ok().json(DeletionResults {
        results: released.iter().map(DeletionResult::from).collect(),
    }))
}
