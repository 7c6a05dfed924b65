//! The parsers of hostile input as plain functions on plain values, for the fuzz targets in `fuzz/`.
//! There only with the feature `fuzzing`; nothing of the product calls it, and it promises nothing.

#![allow(missing_docs, reason = "each is the parser that its name says")]

use std::ffi::OsString;
use std::ops::Range;

use actix_web::dev::Payload;
use actix_web::http::header::{ContentDisposition, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use futures::{FutureExt, StreamExt, stream};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::sync::mpsc;

use crate::config::{self, Config};
use crate::http::conditions::{Selection, select};
use crate::http::input::{ContentHashes, ImageIds, ReferenceBody};
use crate::http::problem::{Code, Problem};
use crate::http::uploads::FeedError;
use crate::http::{auth, cursor, digest_header, filename, form, input, metadata, webhooks};
use crate::sniff;
use crate::spool::SpooledBody;
use crate::upload::BodyEvent;

pub use crate::http::digest_header::MalformedDigest;
pub use crate::http::filename::MAX_FILENAME_BYTES;
pub use crate::http::input::MAX_ITEMS;
pub use crate::http::metadata::MAX_METADATA_BYTES;
pub use crate::http::multipart::{MultipartError, MultipartParser, PartEvent, PartFilename};
pub use crate::sniff::{HEAD_BYTES, Sniffed};

/// Header lines; a value that no header can have is left out, as no request could bring it.
pub fn headers<'a>(lines: impl IntoIterator<Item = (&'static str, &'a [u8])>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            map.append(HeaderName::from_static(name), value);
        }
    }
    map
}

pub fn declared_digest(headers: &HeaderMap) -> Result<Option<[u8; 32]>, MalformedDigest> {
    digest_header::declared(headers).map(|digest| digest.map(|digest| *digest.as_bytes()))
}

pub fn digest_value(digest: [u8; 32]) -> String {
    digest_header::value(&digest.into())
}

pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    auth::bearer(headers)
}

pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Code> {
    input::idempotency_key(headers).map_err(code)
}

pub fn media_type(headers: &HeaderMap) -> String {
    input::media_type(headers)
}

pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    input::content_length(headers)
}

/// The name that a `Content-Disposition` names; `None` where it cannot be read or names none.
pub fn disposition_filename(value: &[u8]) -> Option<String> {
    let value = HeaderValue::from_bytes(value).ok()?;
    filename::from_disposition(&ContentDisposition::from_raw(&value).ok()?)
}

pub fn kept_filename(raw: &str) -> Option<String> {
    filename::keep(raw).ok()
}

pub fn disposition_value(inline: bool, filename: Option<&str>) -> String {
    filename::disposition_value(inline, filename)
}

/// The ids of a deletion event; `None` for an event of another type.
pub fn webhook_ids(body: &[u8]) -> Result<Option<usize>, Code> {
    let ids = webhooks::images_of(body).map_err(code)?;
    Ok(ids.map(|ids| ids.len()))
}

/// The delivery's id where one of the secrets made the signature.
pub fn verified_webhook(
    secrets: &[&str],
    headers: &HeaderMap,
    body: &[u8],
    now: i64,
) -> Result<String, Code> {
    let hooks: Vec<Webhook> = secrets
        .iter()
        .map(|secret| Webhook::new(secret).expect("a target's secret is base64"))
        .collect();
    webhooks::verify(&hooks, headers, body, now).map_err(code)
}

/// What a sender with this secret sends as `webhook-signature`; `None` for what it cannot sign.
pub fn webhook_signature(secret: &str, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
    let hook = Webhook::new(secret).expect("a target's secret is base64");
    hook.sign(id, timestamp, body).ok()
}

/// The cursor as its own server would write it; `None` where it is none.
pub fn cursor_again(text: &str) -> Option<String> {
    cursor::decode(text).map(|cursor| cursor::encode(&cursor))
}

/// Limit of a list's query string, and whether it begins after a cursor.
pub fn listing(query: &str) -> Result<(u64, bool), Code> {
    let listing = input::listing(query).map_err(code)?;
    Ok((listing.limit, listing.after.is_some()))
}

/// What is sent of content of this size: all (200), a part (206), or another status.
pub fn selection(
    headers: &HeaderMap,
    etag: &str,
    size: u64,
    ranges: bool,
) -> (u16, Option<Range<u64>>) {
    match select(headers, etag, size, ranges) {
        Selection::Whole => (200, None),
        Selection::Part(range) => (206, Some(range)),
        Selection::NotModified => (304, None),
        Selection::PreconditionFailed => (412, None),
        Selection::NotSatisfiable => (416, None),
    }
}

/// The configuration that a file and an environment add up to, or the text that refuses it.
pub fn configuration(
    file: Option<&str>,
    environment: Vec<(OsString, OsString)>,
) -> Result<Config, String> {
    let file = file.map(|text| ("config.toml", text));
    Config::from_sources(file, environment).map_err(|problems| {
        assert!(!problems.0.is_empty(), "a refusal without a reason");
        problems.to_string()
    })
}

pub use config::{format_bytes, parse_bytes};

pub fn sniffed(bytes: Bytes) -> Sniffed {
    sniff::sniff_blocking(&SpooledBody::from_bytes(bytes)).expect("it is in memory")
}

pub fn sniffed_media_type(head: &[u8]) -> Option<&'static str> {
    sniff::media_type(head)
}

pub fn metadata(text: &[u8]) -> Result<Value, Code> {
    metadata::parse_metadata(text).map_err(code)
}

/// An image's id from a path, spelled as this server does.
pub fn image_id(text: &str) -> Option<String> {
    input::parse_uuid(text).map(|id| id.to_string())
}

/// A content's hash from a path, spelled as this server does.
pub fn content_hash(text: &str) -> Option<String> {
    let digest: entity::ContentDigest = text.parse().ok()?;
    Some(digest.to_string())
}

/// How many ids a bulk deletion names.
pub fn deletion_list(body: &[u8]) -> Result<usize, Code> {
    let body: ImageIds = input::parse_json(body).map_err(code)?;
    Ok(body.ids.len())
}

/// The hashes that are asked for, in their order.
pub fn hash_list(body: &[u8]) -> Result<Vec<String>, Code> {
    let body: ContentHashes = input::parse_json(body).map_err(code)?;
    let hashes = body.parse().map_err(code)?;
    Ok(hashes.iter().map(ToString::to_string).collect())
}

/// What a reference is to: (by hash, by original, filename, metadata).
pub fn reference(body: &[u8]) -> Result<(bool, bool, Option<String>, Option<Value>), Code> {
    let body: ReferenceBody = input::parse_json(body).map_err(code)?;
    Ok((
        body.content_hash.is_some(),
        body.original_image_id.is_some(),
        body.filename,
        body.metadata.map(|document| document.0),
    ))
}

/// What the service hears of a form that comes in these pieces, and how the form ends.
pub fn form_events(
    parser: MultipartParser,
    pieces: Vec<Bytes>,
    max_files: usize,
) -> (Vec<BodyEvent>, Result<(), Code>) {
    // Never full: a piece is at most a few events, and what is not a file is bounded besides.
    let (sender, mut receiver) = mpsc::channel(tokio::sync::Semaphore::MAX_PERMITS);
    let payload = Payload::Stream {
        payload: stream::iter(pieces.into_iter().map(Ok)).boxed_local(),
    };
    let result = form::feed_form(payload, Box::new(parser), max_files, sender)
        .now_or_never()
        .expect("neither the pieces nor the channel make it wait");
    let events = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
    let result = result.map_err(|error| match error {
        FeedError::Refused(problem) => problem.code,
        FeedError::NobodyListens => unreachable!("the receiver is alive"),
    });
    (events, result)
}

/// The code; a refusal of bad input is always the client's fault.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` gives")]
fn code(problem: Problem) -> Code {
    assert!(
        problem.code.status().is_client_error(),
        "bad input was answered with {problem}"
    );
    problem.code
}
