//! What handlers take: path, query, headers and small JSON bodies, validated before they run.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::web::{Bytes, BytesMut};
use actix_web::{FromRequest, HttpRequest};
use entity::{ContentDigest, ImageId};
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Settings;
use super::cursor;
use super::metadata::{Document, check_metadata};
use super::problem::{Code, Problem};
use crate::service::ListCursor;

/// The most ids or hashes of one request.
pub const MAX_ITEMS: usize = 1000;
/// The longest JSON body that lists ids or hashes: 1000 quoted hashes, with room for white space.
const MAX_LIST_BODY_BYTES: usize = 256 * 1024;
/// The longest JSON body of a reference.
const MAX_REFERENCE_BODY_BYTES: usize = 64 * 1024;

/// The `{id}` of a path. What is no id is no image either: 404.
#[derive(Debug, Clone, Copy)]
pub struct ImagePath(pub ImageId);

impl FromRequest for ImagePath {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let id = request.match_info().get("id").and_then(parse_uuid);
        ready(
            id.map(|id| Self(ImageId(id)))
                .ok_or_else(|| Problem::plain(Code::UnknownImage)),
        )
    }
}

/// The `{hash}` of a path. What is no hash is no original either: 404.
#[derive(Debug, Clone, Copy)]
pub struct OriginalPath(pub ContentDigest);

impl FromRequest for OriginalPath {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let digest = request
            .match_info()
            .get("hash")
            .and_then(|hash| hash.parse().ok());
        ready(
            digest
                .map(Self)
                .ok_or_else(|| Problem::plain(Code::UnknownOriginal)),
        )
    }
}

/// The hyphenated form only: one id, one address.
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36)
        .then(|| Uuid::try_parse(text).ok())
        .flatten()
}

/// Reads a query string. Unknown parameters are ignored.
fn read_query<Q: DeserializeOwned>(text: &str) -> Result<Q, Problem> {
    actix_web::web::Query::<Q>::from_query(text)
        .map(actix_web::web::Query::into_inner)
        .map_err(|error| Problem::new(Code::InvalidQuery, error.to_string()))
}

/// Which images to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Images on one page.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    #[param(pattern = "^[A-Za-z0-9_-]{39}$")]
    cursor: Option<String>,
    /// Whether deleted images are listed too.
    #[param(default = false)]
    include_deleted: Option<bool>,
}

/// A validated [`ListQuery`].
#[derive(Debug, Clone, Copy)]
pub struct ImageListing {
    /// 1 to 1000.
    pub limit: u64,
    /// Where the page begins.
    pub after: Option<ListCursor>,
    /// Whether deleted images are listed too.
    pub include_deleted: bool,
}

impl TryFrom<ListQuery> for ImageListing {
    type Error = Problem;

    fn try_from(query: ListQuery) -> Result<Self, Problem> {
        let limit = query.limit.unwrap_or(50);
        if !(1..=MAX_ITEMS as u64).contains(&limit) {
            return Err(Problem::new(Code::InvalidQuery, "limit is from 1 to 1000"));
        }
        let after = query
            .cursor
            .map(|text| cursor::decode(&text).ok_or_else(|| Problem::plain(Code::InvalidCursor)))
            .transpose()?;
        Ok(Self {
            limit,
            after,
            include_deleted: query.include_deleted.unwrap_or(false),
        })
    }
}

impl FromRequest for ImageListing {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(listing(request.query_string()))
    }
}

/// Reads and validates the query string of a list.
///
/// # Errors
/// 400 with the reason.
pub(crate) fn listing(query: &str) -> Result<ImageListing, Problem> {
    read_query::<ListQuery>(query).and_then(ImageListing::try_from)
}

/// How to send content.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ContentQuery {
    /// Answer with a redirect to the object store where it can serve the bytes itself.
    #[serde(default)]
    #[param(default = false)]
    pub redirect: bool,
}

impl FromRequest for ContentQuery {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(read_query(request.query_string()))
    }
}

/// A JSON body, read whole within a bound and a time, and validated.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

/// What a JSON body may be.
pub trait JsonInput: DeserializeOwned + 'static {
    /// The longest body, in bytes.
    const MAX_BYTES: usize;

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// 400 with the reason.
    fn validate(&self) -> Result<(), Problem>;
}

impl<T: JsonInput> FromRequest for JsonBody<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            if !is_json(request.headers()) {
                return Err(Problem::new(
                    Code::UnsupportedMediaType,
                    "this route takes application/json",
                ));
            }
            let bytes = read_small(&request, payload, T::MAX_BYTES).await?;
            parse_json::<T>(&bytes).map(Self)
        })
    }
}

/// Parses and validates a JSON body.
///
/// # Errors
/// 400 with the reason.
pub fn parse_json<T: JsonInput>(bytes: &[u8]) -> Result<T, Problem> {
    let input: T = parse_object(bytes)?;
    input.validate()?;
    Ok(input)
}

/// Parses a JSON object. Said outright, because serde would take an array for a struct, too.
///
/// # Errors
/// 400 with the reason.
pub fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let invalid = |text: String| Problem::new(Code::InvalidBody, text);
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(invalid("the body is not a JSON object".to_owned()));
    }
    serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))
}

/// Reads a whole body of at most `limit` bytes. A body is small, so all of it must come within
/// the time that an upload may be silent for.
///
/// # Errors
/// 408, 413, 415 (encoded) or an incomplete body.
pub async fn read_small(
    request: &HttpRequest,
    mut payload: Payload,
    limit: usize,
) -> Result<Bytes, Problem> {
    refuse_encoding(request.headers())?;
    let too_large = || {
        Problem::new(
            Code::BodyTooLarge,
            format!("this route takes bodies up to {limit} bytes"),
        )
    };
    if content_length(request.headers()).is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let reading = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk?;
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(Settings::of(request).small_body_timeout, reading)
        .await
        .unwrap_or_else(|_| Err(Problem::plain(Code::BodyTooSlow)))
}

/// Ids to delete.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageIds {
    /// At most 1000; an id may occur several times.
    #[schema(max_items = 1000)]
    pub ids: Vec<Uuid>,
}

impl JsonInput for ImageIds {
    const MAX_BYTES: usize = MAX_LIST_BODY_BYTES;

    fn validate(&self) -> Result<(), Problem> {
        check_count(self.ids.len())
    }
}

/// Contents to look for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContentHashes {
    /// SHA-256 of each, 64 lowercase hex characters; at most 1000.
    #[schema(max_items = 1000, value_type = Vec<super::openapi::ContentHash>)]
    pub content_hashes: Vec<String>,
}

impl ContentHashes {
    /// The hashes.
    ///
    /// # Errors
    /// 400 when one is malformed.
    pub fn parse(&self) -> Result<Vec<ContentDigest>, Problem> {
        self.content_hashes
            .iter()
            .map(|hash| {
                hash.parse().map_err(|error: entity::InvalidDigest| {
                    Problem::new(Code::InvalidBody, error.to_string())
                })
            })
            .collect()
    }
}

impl JsonInput for ContentHashes {
    const MAX_BYTES: usize = MAX_LIST_BODY_BYTES;

    fn validate(&self) -> Result<(), Problem> {
        check_count(self.content_hashes.len())?;
        self.parse().map(|_| ())
    }
}

/// Refuses a list of more than [`MAX_ITEMS`].
///
/// # Errors
/// 400.
pub fn check_count(items: usize) -> Result<(), Problem> {
    if items > MAX_ITEMS {
        return Err(Problem::new(
            Code::TooManyItems,
            format!("at most {MAX_ITEMS} at once, not {items}"),
        ));
    }
    Ok(())
}

/// A new reference to content that the tenant has a live image of: exactly one of `content_hash`
/// and `original_image_id`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceBody {
    /// SHA-256 of the content.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub content_hash: Option<String>,
    /// The original's id.
    pub original_image_id: Option<Uuid>,
    /// What to call the file.
    pub filename: Option<String>,
    /// A JSON object of at most 16 KiB.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Document>,
}

impl JsonInput for ReferenceBody {
    const MAX_BYTES: usize = MAX_REFERENCE_BODY_BYTES;

    fn validate(&self) -> Result<(), Problem> {
        if self.content_hash.is_some() == self.original_image_id.is_some() {
            return Err(Problem::new(
                Code::InvalidBody,
                "name exactly one of content_hash and original_image_id",
            ));
        }
        match &self.metadata {
            Some(Document(value)) => check_metadata(value),
            None => Ok(()),
        }
    }
}

/// The `Idempotency-Key`, if any.
///
/// # Errors
/// 400 when there are two, or it is not 1 to 255 visible ASCII characters.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key");
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let bytes = value.as_bytes();
    let fits = (1..=255).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match (fits && values.next().is_none(), value.to_str()) {
        (true, Ok(text)) => Ok(Some(text.to_owned())),
        _ => Err(Problem::plain(Code::InvalidIdempotencyKey)),
    }
}

/// The declared length of the body.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The media type of the body without its parameters, lowercase; empty when there is none. It is read
/// whatever bytes the parameters hold: a form must not be taken for a file because of its boundary.
pub fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value.map_or(&b""[..], HeaderValue::as_bytes);
    let name = value.split(|byte| *byte == b';').next();
    String::from_utf8_lossy(name.unwrap_or_default())
        .trim()
        .to_ascii_lowercase()
}

/// Whether the body is JSON: `application/json`, or a type with the suffix `+json`.
pub fn is_json(headers: &HeaderMap) -> bool {
    let media_type = media_type(headers);
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// Refuses a body with a content coding: stored undecoded it would be another file (RFC 9110,
/// section 8.4, asks for 415).
///
/// # Errors
/// 415.
pub fn refuse_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let plain = |value: &[u8]| value.is_empty() || value.eq_ignore_ascii_case(b"identity");
    if headers
        .get_all(header::CONTENT_ENCODING)
        .all(|value| plain(value.as_bytes()))
    {
        return Ok(());
    }
    Err(Problem::plain(Code::UnsupportedEncoding).with_header(
        header::ACCEPT_ENCODING,
        header::HeaderValue::from_static("identity"),
    ))
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
