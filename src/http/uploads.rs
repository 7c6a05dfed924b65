//! `POST /v1/images`: files in a form, one file as the body, or a reference without bytes. Bytes
//! stream from the socket into the service through its bounded channel; the service may refuse
//! at any moment, and a body that does not end well leaves nothing behind.

use std::future::poll_fn;
use std::pin::{Pin, pin};

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::{self, ContentDisposition, HeaderMap, HeaderValue};
use actix_web::web::{Bytes, Data};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use entity::{ContentDigest, OriginalId};
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use tokio::sync::mpsc;
use utoipa::IntoParams;

use super::auth::{Authed, Caller, Writer};
use super::form::feed_form;
use super::input::{
    JsonInput, ReferenceBody, content_length, idempotency_key, is_json, media_type, parse_json,
    read_small, refuse_encoding,
};
use super::multipart::MultipartParser;
use super::openapi::{BodyProblems, CallerProblems, ServerProblems};
use super::problem::{Code, Problem, ProblemDocument};
use super::representation::{Image, UploadedImages};
use super::{Settings, digest_header, filename};
use crate::service::{ContentRef, NewReference, Service};
use crate::upload::{
    BodyEvent, Disposition, StoredImage, StoredUpload, UploadError, UploadRequest,
};

/// What an upload's headers may say besides the type and length of its body.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "a shape for the description only")]
pub struct UploadHeaders {
    /// 1 to 255 visible ASCII characters. The same key and content again gives the same image and
    /// no second reference.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]+$"
    )]
    idempotency_key: Option<String>,
    /// `sha-256=:<base64>:` of a raw body (RFC 9530), verified.
    #[param(rename = "Repr-Digest")]
    repr_digest: Option<String>,
    /// As `Repr-Digest`.
    #[param(rename = "Content-Digest")]
    content_digest: Option<String>,
    /// `attachment; filename="…"` names a raw body.
    #[param(rename = "Content-Disposition")]
    content_disposition: Option<String>,
}

/// The three ways to make images, with what their headers said.
#[derive(Debug)]
pub enum UploadKind {
    /// `multipart/form-data`.
    Form(Box<MultipartParser>),
    /// The body is the file.
    Raw(RawFile),
    /// `application/json`: no bytes.
    Reference(ReferenceBody),
}

/// What the headers of a raw body say.
#[derive(Debug)]
pub struct RawFile {
    filename: Option<String>,
    declared_digest: Option<ContentDigest>,
    declared_bytes: Option<u64>,
}

/// The input of `POST /v1/images`, with the body still to come unless it is JSON.
pub struct UploadInput {
    kind: UploadKind,
    idempotency_key: Option<String>,
    max_files: usize,
    content_length: Option<u64>,
    payload: Payload,
}

impl FromRequest for UploadInput {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let mut payload = payload.take();
        Box::pin(async move {
            let headers = request.headers();
            refuse_encoding(headers)?;
            let idempotency_key = idempotency_key(headers)?;
            let kind = if is_json(headers) {
                let body = read_small(
                    &request,
                    Payload::take(&mut payload),
                    ReferenceBody::MAX_BYTES,
                )
                .await?;
                UploadKind::Reference(parse_json(&body)?)
            } else if media_type(headers) == "multipart/form-data" {
                UploadKind::Form(Box::new(form_parser(headers)?))
            } else {
                UploadKind::Raw(raw_file(headers, Settings::of(&request).max_bytes)?)
            };
            let max_files = Settings::of(&request).max_files;
            Ok(Self {
                kind,
                idempotency_key,
                max_files,
                content_length: content_length(headers),
                payload,
            })
        })
    }
}

fn form_parser(headers: &HeaderMap) -> Result<MultipartParser, Problem> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    Ok(MultipartParser::for_content_type(content_type)?)
}

fn raw_file(headers: &HeaderMap, max_bytes: u64) -> Result<RawFile, Problem> {
    let declared_bytes = content_length(headers);
    if declared_bytes.is_some_and(|bytes| bytes > max_bytes) {
        return Err(Problem::new(
            Code::BodyTooLarge,
            format!("the body is larger than {max_bytes} bytes"),
        ));
    }
    let declared_digest = digest_header::declared(headers).map_err(|_| {
        Problem::new(
            Code::InvalidDigest,
            "write sha-256=:<base64 of 32 bytes>:, and the same in both headers",
        )
    })?;
    Ok(RawFile {
        filename: raw_filename(headers)?,
        declared_digest,
        declared_bytes,
    })
}

fn raw_filename(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(header::CONTENT_DISPOSITION) else {
        return Ok(None);
    };
    let disposition = ContentDisposition::from_raw(value)
        .map_err(|_| Problem::new(Code::InvalidFilename, "Content-Disposition cannot be read"))?;
    filename::from_disposition(&disposition)
        .filter(|name| !name.is_empty())
        .map(|name| Ok(filename::keep(&name)?))
        .transpose()
}

/// Takes an upload.
///
/// The bytes decide everything: the same bytes are stored once, whatever they are called. A form's
/// preamble and epilogue are ignored, as are its text parts but `metadata`; a filename is kept
/// without its path. The type is sniffed from the bytes, never believed from a header.
///
/// # Errors
/// See the documented statuses; nothing is kept.
#[utoipa::path(
    post,
    path = "/v1/images",
    tag = "images",
    operation_id = "upload_images",
    params(UploadHeaders),
    request_body(
        description = "Files in a form (every part with a filename; a text part `metadata` is a JSON object for all of them), one file as the body, or a reference to content the tenant already has.",
        content(
            (super::openapi::UploadForm = "multipart/form-data"),
            (super::openapi::FileBytes = "application/octet-stream"),
            (ReferenceBody = "application/json"),
        ),
    ),
    responses(
        (status = 201, description = "Stored. A form answers with all of its images, the others with their one.", body = super::openapi::UploadAnswer,
            headers(
                ("Location" = String, description = "The image; not for a form."),
                ("ETag" = String, description = "The content's hash in quotes; not for a form."),
                ("X-Dedup" = String, description = "miss, hit, resurrected or repaired; not for a form."),
                ("Idempotent-Replayed" = String, description = "`true` when the Idempotency-Key had its effect before."),
            )),
        (status = 404, description = "unknown-content: the tenant has no live image of the referenced content.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "idempotency-key-reused", body = ProblemDocument, content_type = "application/problem+json"),
        CallerProblems, BodyProblems, ServerProblems,
    ),
    security(("api_key" = ["write"])),
)]
pub async fn upload_images(
    asked: Authed<Writer, UploadInput>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let Authed { caller, input, .. } = asked;
    let key = input.idempotency_key;
    let content_length = input.content_length;
    match input.kind {
        UploadKind::Form(parser) => {
            let request = UploadRequest {
                // Were there as many files as may be: a form that is longer than so many small ones
                // brings large ones.
                expected_bytes: content_length
                    .and_then(|bytes| bytes.checked_div(input.max_files as u64)),
                content_length,
                ..upload_request(caller, key)
            };
            let stored = run_upload(&service, request, |events| {
                feed_form(input.payload, parser, input.max_files, events)
            })
            .await?;
            Ok(form_answer(stored))
        }
        UploadKind::Raw(file) => {
            let request = UploadRequest {
                declared_digest: file.declared_digest,
                declared_bytes: file.declared_bytes,
                expected_bytes: file.declared_bytes,
                content_length,
                ..upload_request(caller, key)
            };
            let stored = run_upload(&service, request, |events| {
                feed_raw(input.payload, file.filename, events)
            })
            .await?;
            single_answer(stored)
        }
        UploadKind::Reference(body) => {
            let stored = service.reference(new_reference(caller, key, body)?).await?;
            Ok(image_answer(stored, false))
        }
    }
}

/// A request that says nothing of its files.
fn upload_request(caller: Caller, idempotency_key: Option<String>) -> UploadRequest {
    UploadRequest {
        tenant: caller.tenant,
        idempotency_key,
        declared_digest: None,
        declared_bytes: None,
        expected_bytes: None,
        content_length: None,
    }
}

fn new_reference(
    caller: Caller,
    idempotency_key: Option<String>,
    body: ReferenceBody,
) -> Result<NewReference, Problem> {
    let invalid = |text: String| Problem::new(Code::InvalidBody, text);
    let content = match (body.content_hash, body.original_image_id) {
        (Some(hash), None) => ContentRef::Digest(
            hash.parse()
                .map_err(|error: entity::InvalidDigest| invalid(error.to_string()))?,
        ),
        (None, Some(id)) => ContentRef::Original(OriginalId(id)),
        _ => return Err(invalid("name exactly one content".to_owned())),
    };
    Ok(NewReference {
        tenant: caller.tenant,
        content,
        filename: body
            .filename
            .map(|name| filename::keep(&name))
            .transpose()?,
        metadata: body.metadata.map(|document| document.0),
        idempotency_key,
    })
}

/// Why a body was not fed to its end.
#[derive(Debug)]
pub enum FeedError {
    /// The body is at fault.
    Refused(Problem),
    /// The service stopped listening: its answer says why.
    NobodyListens,
}

impl<E: Into<Problem>> From<E> for FeedError {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// What the HTTP library reads at the most before it hands it on.
const FULL_READ_BYTES: usize = 128 * 1024;

/// A body, piece by piece.
///
/// The HTTP library reads on as soon as a piece is taken from it, into its one buffer if no piece is in use
/// any more, else into a new one that is small and grows. So where more is waiting, whoever is sent the
/// piece must have its turn before the library has: on a thread that does both it is woken before.
pub struct Pieces {
    payload: Payload,
    /// The last piece was a full read.
    more_waits: bool,
}

impl Pieces {
    /// Of a whole body.
    pub fn of(payload: Payload) -> Self {
        Self {
            payload,
            more_waits: false,
        }
    }

    /// The next piece, which is to be sent to `events`; `None` at the end.
    ///
    /// # Errors
    /// As the HTTP library has them: the client left, or the body is malformed.
    pub async fn next(
        &mut self,
        events: &mpsc::Sender<BodyEvent>,
    ) -> Option<Result<Bytes, PayloadError>> {
        let piece = poll_fn(|cx| {
            if self.more_waits && events.capacity() == events.max_capacity() {
                // Where nobody listens, the next event says so.
                let _ = events.try_send(BodyEvent::Soon);
            }
            self.payload.poll_next_unpin(cx)
        })
        .await;
        let bytes = piece.as_ref()?.as_ref().map_or(0, Bytes::len);
        self.more_waits = bytes >= FULL_READ_BYTES;
        piece
    }
}

/// Sends one event, waiting while the channel is full: that is the back-pressure on the client.
///
/// # Errors
/// The service has decided already.
pub async fn send(events: &mpsc::Sender<BodyEvent>, event: BodyEvent) -> Result<(), FeedError> {
    events
        .send(event)
        .await
        .map_err(|_| FeedError::NobodyListens)
}

/// Starts an upload, and feeds it.
async fn run_upload<F: Future<Output = Result<(), FeedError>>>(
    service: &Service,
    request: UploadRequest,
    feed: impl FnOnce(mpsc::Sender<BodyEvent>) -> F,
) -> Result<StoredUpload, Problem> {
    let (events, outcome) = service.upload(request);
    first_decided(pin!(feed(events)), pin!(outcome)).await
}

/// Feeds a body and waits for the service's answer, whichever comes first.
async fn first_decided<T>(
    mut feeding: Pin<&mut impl Future<Output = Result<(), FeedError>>>,
    mut outcome: Pin<&mut impl Future<Output = Result<T, UploadError>>>,
) -> Result<T, Problem> {
    let fed = tokio::select! {
        biased;
        // Before the body's end this can only be a refusal, such as 413.
        decided = &mut outcome => return Ok(decided?),
        fed = &mut feeding => fed,
    };
    // The feeder has dropped the channel; without `Complete` in it the service keeps nothing, and
    // waiting for it to say so means that nothing is left when the client reads the refusal.
    let decided = outcome.await;
    match fed {
        Err(FeedError::Refused(problem)) => Err(problem),
        Ok(()) | Err(FeedError::NobodyListens) => Ok(decided?),
    }
}

/// The whole body is one file.
async fn feed_raw(
    payload: Payload,
    filename: Option<String>,
    events: mpsc::Sender<BodyEvent>,
) -> Result<(), FeedError> {
    send(&events, BodyEvent::FileStarted { filename }).await?;
    let mut pieces = Pieces::of(payload);
    while let Some(chunk) = pieces.next(&events).await {
        send(&events, BodyEvent::Chunk(chunk?)).await?;
    }
    send(&events, BodyEvent::FileEnded).await?;
    send(&events, BodyEvent::Complete).await
}

fn form_answer(stored: StoredUpload) -> HttpResponse {
    let mut answer = HttpResponse::Created();
    if stored.replayed {
        answer.insert_header(("idempotent-replayed", "true"));
    }
    answer.json(UploadedImages {
        images: stored.images.into_iter().map(Image::from).collect(),
    })
}

fn single_answer(stored: StoredUpload) -> Result<HttpResponse, Problem> {
    let replayed = stored.replayed;
    let image = stored.images.into_iter().next();
    let image = image.ok_or_else(|| Problem::plain(Code::InternalError))?;
    Ok(image_answer(image, replayed))
}

fn image_answer(stored: StoredImage, replayed: bool) -> HttpResponse {
    let mut answer = HttpResponse::Created();
    answer.insert_header((
        header::LOCATION,
        format!("/v1/images/{}", stored.view.image.id),
    ));
    if let Some(digest) = stored.view.image.content_hash {
        answer.insert_header((header::ETAG, format!("\"{digest}\"")));
    }
    answer.insert_header(("x-dedup", dedup_name(stored.disposition)));
    if replayed {
        answer.insert_header(("idempotent-replayed", HeaderValue::from_static("true")));
    }
    answer.json(Image::from(stored))
}

fn dedup_name(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Miss => "miss",
        Disposition::Hit => "hit",
        Disposition::Resurrected => "resurrected",
        Disposition::Repaired => "repaired",
    }
}

#[cfg(test)]
#[path = "uploads_tests.rs"]
mod tests;
