//! `GET` and `HEAD /v1/images/{id}/content`: the bytes.
//!
//! Content never changes, but an image can be deleted, and after that nobody shall be shown it: so
//! caches may keep the bytes (`private`: they belong to a tenant) but have to ask each time
//! (`no-cache`), which costs one row and no bytes (304).

use std::ops::Range;

use actix_web::body::SizedStream;
use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use entity::ContentDigest;
use futures::stream;
use utoipa::IntoParams;

use super::auth::{Authed, Reader};
use super::conditions::{Selection, select};
use super::images::live_image;
use super::input::{ContentQuery, ImagePath};
use super::openapi::{CallerProblems, QueryProblems, ServerProblems};
use super::problem::{Code, Problem, ProblemDocument};
use super::{digest_header, filename};
use crate::service::Service;
use crate::store::StoreError;
use crate::upload::ImageView;

const CACHE_CONTROL: &str = "private, no-cache";

/// Raster images: browsers run nothing in them. Never SVG, HTML or PDF, which can hold scripts.
const INLINE_TYPES: &[&str] = &[
    "image/apng",
    "image/avif",
    "image/bmp",
    "image/gif",
    "image/heic",
    "image/heif",
    "image/jpeg",
    "image/jxl",
    "image/png",
    "image/tiff",
    "image/vnd.microsoft.icon",
    "image/webp",
    "image/x-icon",
];

/// Conditions and ranges (RFC 9110).
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "a shape for the description only")]
pub struct ContentHeaders {
    /// `bytes=first-last`; of several ranges the whole is sent. Ignored by `HEAD`.
    #[param(rename = "Range")]
    range: Option<String>,
    /// Entity tags.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
    /// Entity tags.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
    /// An entity tag.
    #[param(rename = "If-Range")]
    if_range: Option<String>,
}

/// What the headers of an answer are made from.
struct Content<'a> {
    view: &'a ImageView,
    digest: ContentDigest,
    size: u64,
    media_type: &'a str,
    disposition: String,
}

impl<'a> Content<'a> {
    /// `None` for a legacy image.
    fn of(view: &'a ImageView) -> Option<Self> {
        let image = &view.image;
        image.original_image_id?;
        let media_type = image
            .mime_type
            .as_deref()
            .filter(|name| HeaderValue::from_str(name).is_ok())
            .unwrap_or("application/octet-stream");
        let inline = INLINE_TYPES.contains(&media_type);
        Some(Self {
            view,
            digest: image.content_hash?,
            size: u64::try_from(image.file_size?).ok()?,
            media_type,
            disposition: filename::disposition_value(inline, image.filename.as_deref()),
        })
    }

    fn answer(&self, status: StatusCode) -> HttpResponseBuilder {
        let mut answer = HttpResponse::build(status);
        answer
            .insert_header((header::ETAG, format!("\"{}\"", self.digest)))
            .insert_header((header::ACCEPT_RANGES, "bytes"))
            .insert_header((header::CACHE_CONTROL, CACHE_CONTROL))
            .insert_header(("repr-digest", digest_header::value(&self.digest)))
            .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; sandbox",
            ));
        if status != StatusCode::NOT_MODIFIED {
            answer
                .content_type(self.media_type)
                .insert_header((header::CONTENT_DISPOSITION, self.disposition.as_str()));
        }
        answer
    }
}

/// Sends an image's bytes.
///
/// One strong entity tag per content, single ranges, `If-Match`, `If-None-Match`, `If-Range`; several
/// ranges are answered with the whole. A legacy image is answered with a redirect to where it is.
///
/// # Errors
/// See the documented statuses.
#[utoipa::path(
    get,
    path = "/v1/images/{id}/content",
    tag = "images",
    params(
        ("id" = uuid::Uuid, Path, description = "The image."),
        ContentQuery,
        ContentHeaders,
    ),
    responses(
        (status = 200, description = "The bytes.", body = super::openapi::FileBytes, content_type = "*/*"),
        (status = 206, description = "The range.", body = super::openapi::FileBytes, content_type = "*/*"),
        (status = 304, description = "The client has them."),
        (status = 307, description = "They are there (`redirect=true`, or a legacy image)."),
        (status = 404, description = "unknown-image, no-location", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 410, description = "image-deleted", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 412, description = "precondition-failed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 416, description = "range-not-satisfiable", body = ProblemDocument, content_type = "application/problem+json"),
        CallerProblems, QueryProblems, ServerProblems,
    ),
    security(("api_key" = ["read"])),
)]
pub async fn get_content(
    request: HttpRequest,
    asked: Authed<Reader, (ImagePath, ContentQuery)>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let (path, query) = asked.input;
    let view = live_image(&service, &asked.caller.tenant, path.0).await?;
    let Some(content) = Content::of(&view) else {
        return legacy_redirect(&view);
    };
    if query.redirect {
        let url = service.presign(&view, &content.disposition).await?;
        if let Some(url) = url {
            return redirect(&url);
        }
    }
    let with_body = request.method() != Method::HEAD;
    let etag = content.digest.to_string();
    match select(request.headers(), &etag, content.size, with_body) {
        Selection::Whole if with_body => send(&service, &content, None).await,
        Selection::Whole => Ok(head_answer(&content)),
        Selection::Part(range) => send(&service, &content, Some(range)).await,
        Selection::NotModified => Ok(content.answer(StatusCode::NOT_MODIFIED).finish()),
        Selection::PreconditionFailed => Err(Problem::plain(Code::PreconditionFailed)),
        Selection::NotSatisfiable => Err(not_satisfiable(content.size)),
    }
}

/// Sends the headers of an image's bytes: all of [`get_content`]'s, the length too.
///
/// # Errors
/// See the documented statuses.
#[utoipa::path(
    head,
    path = "/v1/images/{id}/content",
    tag = "images",
    params(("id" = uuid::Uuid, Path, description = "The image."), ContentQuery, ContentHeaders),
    responses(
        (status = 200, description = "The headers."),
        (status = 304, description = "The client has the bytes."),
        (status = 307, description = "They are there (`redirect=true`, or a legacy image)."),
        (status = 400, description = "invalid-query"),
        (status = 401, description = "unauthorized"),
        (status = 403, description = "forbidden"),
        (status = 404, description = "unknown-image, no-location"),
        (status = 410, description = "image-deleted"),
        (status = 412, description = "precondition-failed"),
        (status = 500, description = "internal-error"),
        (status = 503, description = "unavailable"),
    ),
    security(("api_key" = ["read"])),
)]
pub async fn head_content(
    request: HttpRequest,
    asked: Authed<Reader, (ImagePath, ContentQuery)>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    get_content(request, asked, service).await
}

/// Streams the bytes. The declared length is enforced by the connection: a stream that fails or
/// ends early cuts it, so that no client takes a part for the whole.
async fn send(
    service: &Service,
    content: &Content<'_>,
    range: Option<Range<u64>>,
) -> Result<HttpResponse, Problem> {
    let bytes = service.open(content.view, range.clone()).await?;
    let size = content.size;
    let (mut answer, length) = match range {
        None => (content.answer(StatusCode::OK), size),
        Some(Range { start, end }) => {
            let mut answer = content.answer(StatusCode::PARTIAL_CONTENT);
            let value = format!("bytes {start}-{}/{size}", end - 1);
            answer.insert_header((header::CONTENT_RANGE, value));
            (answer, end - start)
        }
    };
    Ok(answer.body(SizedStream::new(length, bytes)))
}

/// All headers of the whole, its length too, without opening the object.
fn head_answer(content: &Content<'_>) -> HttpResponse {
    let nothing = stream::empty::<Result<Bytes, StoreError>>();
    content
        .answer(StatusCode::OK)
        .body(SizedStream::new(content.size, nothing))
}

fn not_satisfiable(size: u64) -> Problem {
    let value = HeaderValue::from_str(&format!("bytes */{size}")).expect("digits are ASCII");
    Problem::new(
        Code::RangeNotSatisfiable,
        format!("the content has {size} bytes"),
    )
    .with_header(header::CONTENT_RANGE, value)
}

/// A legacy image is where its older application left it. Only web addresses are followed: the row
/// is as old as its application, and `javascript:` or `file:` would be executed by clients.
fn legacy_redirect(view: &ImageView) -> Result<HttpResponse, Problem> {
    let url = view.image.original_url.as_deref().unwrap_or_default();
    let lower = url.to_ascii_lowercase();
    if !lower.starts_with("https://") && !lower.starts_with("http://") {
        return Err(Problem::plain(Code::NoLocation));
    }
    redirect(url)
}

fn redirect(url: &str) -> Result<HttpResponse, Problem> {
    let location = HeaderValue::from_str(url).map_err(|_| Problem::plain(Code::NoLocation))?;
    Ok(HttpResponse::TemporaryRedirect()
        .insert_header((header::LOCATION, location))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .finish())
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
