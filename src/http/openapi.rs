//! The OpenAPI 3.1 description, collected from the handlers.

use serde::Serialize;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};

use super::input::{ContentHashes, ImageIds, ReferenceBody};
use super::problem::ProblemDocument;
use super::representation::{
    Deletion, DeletionResults, Image, ImageList, KnownContent, Original, Readiness, UploadedImages,
};
use super::webhooks::DeletionEvent;
use super::{content, images, ops, originals, stats, uploads, webhooks};
use crate::config::AuthMode;
use crate::service::Stats;

/// A form with files.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a shape for the description only")]
pub struct UploadForm {
    /// Any name; as many as wanted, each with a filename.
    #[schema(value_type = Vec<String>, format = Binary)]
    file: Vec<String>,
    /// A JSON object of at most 16 KiB, for all images of the request.
    #[schema(value_type = Option<Object>)]
    metadata: Option<String>,
}

/// Bytes.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "a shape for the description only")]
pub struct FileBytes(String);

/// SHA-256 of a content.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
#[expect(dead_code, reason = "a shape for the description only")]
pub struct ContentHash(String);

/// Any JSON object.
#[derive(Debug, ToSchema)]
#[schema(value_type = Object)]
#[expect(dead_code, reason = "a shape for the description only")]
pub struct AnyDocument(String);

/// The answer to an upload.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum UploadAnswer {
    /// To a form.
    Form(UploadedImages),
    /// To a raw body or a reference.
    Single(Image),
}

/// The process serves requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `alive`
    pub status: &'static str,
}

/// Refusals of callers.
#[derive(Debug, IntoResponses)]
pub enum CallerProblems {
    /// unauthorized, invalid-signature
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(ProblemDocument),
    /// forbidden
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(ProblemDocument),
}

/// Refusals of queries.
#[derive(Debug, IntoResponses)]
pub enum QueryProblems {
    /// invalid-query, invalid-cursor
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(ProblemDocument),
}

/// Refusals of bodies.
#[derive(Debug, IntoResponses)]
pub enum BodyProblems {
    /// The code says what is wrong with the request.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(ProblemDocument),
    /// body-too-slow
    #[response(status = 408, content_type = "application/problem+json")]
    TooSlow(ProblemDocument),
    /// body-too-large, too-many-files
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemDocument),
    /// unsupported-media-type, unsupported-encoding
    #[response(status = 415, content_type = "application/problem+json")]
    Unsupported(ProblemDocument),
}

/// What the server may fail with.
#[derive(Debug, IntoResponses)]
pub enum ServerProblems {
    /// internal-error, content-damaged
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(ProblemDocument),
    /// overloaded, unavailable, store-unavailable, spool-unavailable; `Retry-After` says when to ask again.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemDocument),
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hapax",
        description = "Takes uploads, stores every distinct original once, counts references, and removes the bytes with the last one. Every answer carries `X-Request-Id`; every error is a problem document (RFC 9457)."
    ),
    paths(
        uploads::upload_images,
        images::list_images,
        images::find_known_content,
        images::delete_images,
        images::get_image,
        images::delete_image,
        content::get_content,
        content::head_content,
        originals::get_original,
        stats::get_stats,
        webhooks::take_deletions,
        ops::get_health,
        ops::get_readiness,
        ops::get_metrics,
        ops::get_openapi,
    ),
    components(schemas(
        ContentHashes, Deletion, DeletionEvent, DeletionResults, Image, ImageIds, ImageList, KnownContent,
        Original, ProblemDocument, Readiness, ReferenceBody, Stats, UploadedImages,
    )),
    modifiers(&ApiKeyScheme),
)]
struct Description;

struct ApiKeyScheme;

impl Modify for ApiKeyScheme {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key, where `auth.mode` is `keys`."))
            .build();
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("api_key", SecurityScheme::Http(scheme));
    }
}

/// The description as JSON. Where no keys are asked for it says so: a generated client would otherwise
/// insist on one.
pub fn document(auth: AuthMode) -> String {
    let mut description = Description::openapi();
    if auth == AuthMode::None {
        for item in description.paths.paths.values_mut() {
            let operations = [
                &mut item.get,
                &mut item.head,
                &mut item.post,
                &mut item.delete,
            ];
            for operation in operations.into_iter().flatten() {
                operation.security = None;
            }
        }
    }
    description.to_json().expect("a description is plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_every_route_with_problems() {
        let document = document(AuthMode::Keys);
        let document: serde_json::Value = serde_json::from_str(&document).expect("JSON");
        assert_eq!(document["openapi"], "3.1.0");
        let paths = document["paths"].as_object().expect("paths");
        for path in super::super::routes::PATHS {
            assert!(paths.contains_key(*path), "{path} is not described");
        }
        assert_eq!(paths.len(), super::super::routes::PATHS.len());
        let problem = &paths["/v1/images/{id}"]["get"]["responses"]["404"]["content"];
        assert!(problem["application/problem+json"]["schema"]["$ref"].is_string());
        for status in [
            "201", "400", "401", "403", "404", "408", "413", "415", "422", "500", "503",
        ] {
            assert!(
                paths["/v1/images"]["post"]["responses"][status].is_object(),
                "{status}"
            );
        }
    }

    #[test]
    fn asks_for_keys_only_where_the_server_does() {
        for (auth, asks) in [(AuthMode::Keys, true), (AuthMode::None, false)] {
            let document: serde_json::Value = serde_json::from_str(&document(auth)).expect("JSON");
            let security = &document["paths"]["/v1/images"]["post"]["security"];
            assert_eq!(security.is_array(), asks, "{security}");
        }
    }
}
