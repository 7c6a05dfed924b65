//! `POST /v1/webhooks/deletions`: Standard Webhooks in. The signature says who sent it, the receipt
//! that it has one effect.

use actix_web::dev::Payload;
use actix_web::http::header::HeaderMap;
use actix_web::web::{Bytes, Data};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use chrono::Utc;
use entity::ImageId;
use futures::future::LocalBoxFuture;
use serde::Deserialize;
use standardwebhooks::{
    HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook,
};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Settings;
use super::auth::{Authed, Sender};
use super::input::{check_count, parse_object, read_small};
use super::openapi::{BodyProblems, CallerProblems, ServerProblems};
use super::problem::{Code, Problem, ProblemDocument};
use super::representation::DeletionResults;
use crate::metrics::METRICS;
use crate::service::Service;

/// The longest body: 1000 ids with room for white space and the sender's own members.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// The longest `webhook-id`.
const MAX_ID_BYTES: usize = 255;
/// How far the sender's clock may be off, in seconds (Standard Webhooks).
const TOLERANCE_SECONDS: i64 = 300;
/// The one event that has an effect.
const IMAGE_DELETED: &str = "image.deleted";

/// Answers 404 before anything else where no secret is configured.
#[derive(Debug)]
pub struct Enabled;

impl FromRequest for Enabled {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let enabled = !Settings::of(request).deletion_hooks.is_empty();
        std::future::ready(if enabled {
            Ok(Self)
        } else {
            Err(Problem::plain(Code::WebhookDisabled))
        })
    }
}

/// A delivery whose signature holds.
#[derive(Debug)]
pub struct Delivery {
    id: String,
    body: Bytes,
}

impl FromRequest for Delivery {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            let body = read_small(&request, payload, MAX_BODY_BYTES).await?;
            let id = verify(
                &Settings::of(&request).deletion_hooks,
                request.headers(),
                &body,
                Utc::now().timestamp(),
            )?;
            Ok(Self { id, body })
        })
    }
}

/// The body of a delivery. Other members are the sender's own.
#[derive(Debug, Deserialize, ToSchema)]
pub struct DeletionEvent {
    /// `image.deleted`; another type is acknowledged and has no effect.
    #[schema(example = "image.deleted")]
    r#type: String,
    /// Which images. Of another type of event it may be anything.
    #[serde(default)]
    #[schema(required, value_type = DeletionData)]
    data: serde_json::Value,
}

/// The images of a deletion event: exactly one of the two.
#[derive(Debug, Deserialize, ToSchema)]
pub struct DeletionData {
    /// One image.
    id: Option<Uuid>,
    /// At most 1000.
    #[schema(max_items = 1000)]
    ids: Option<Vec<Uuid>>,
}

/// Takes a deletion webhook (Standard Webhooks). The same `webhook-id` again gets the first answer
/// and has no second effect. An event of another type is acknowledged with an empty list.
///
/// # Errors
/// See the documented statuses.
#[utoipa::path(
    post,
    path = "/v1/webhooks/deletions",
    tag = "webhooks",
    params(
        ("webhook-id" = String, Header, description = "The delivery, at most 255 characters."),
        ("webhook-timestamp" = String, Header, description = "Seconds since 1970, at most 300 off."),
        ("webhook-signature" = String, Header, description = "`v1,<base64>`, several separated by spaces."),
    ),
    request_body = DeletionEvent,
    responses(
        (status = 200, description = "What became of each image.", body = DeletionResults),
        (status = 404, description = "webhook-disabled", body = ProblemDocument, content_type = "application/problem+json"),
        CallerProblems, BodyProblems, ServerProblems,
    ),
    security(("api_key" = ["webhook"])),
)]
pub async fn take_deletions(
    _enabled: Enabled,
    asked: Authed<Sender, Delivery>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let count = |result| {
        METRICS
            .webhook_events
            .with_label_values(&["deletions", result])
            .inc();
    };
    let Delivery { id, body } = asked.input;
    let Some(ids) = images_of(&body)? else {
        count("ignored");
        return Ok(HttpResponse::Ok().json(DeletionResults {
            results: Vec::new(),
        }));
    };
    let tenant = &asked.caller.tenant;
    let receipt = service.release_once(tenant, &id, ids).await?;
    count(if receipt.replayed {
        "replayed"
    } else {
        "applied"
    });
    Ok(HttpResponse::Ok().json(receipt.result))
}

/// The images that a delivery names; `None` for an event of another type.
pub(crate) fn images_of(body: &[u8]) -> Result<Option<Vec<ImageId>>, Problem> {
    let invalid = |text: String| Problem::new(Code::InvalidBody, text);
    let event: DeletionEvent = parse_object(body)?;
    if event.r#type != IMAGE_DELETED {
        return Ok(None);
    }
    if !event.data.is_object() {
        return Err(invalid("data is not an object".to_owned()));
    }
    let data: DeletionData =
        serde_json::from_value(event.data).map_err(|error| invalid(error.to_string()))?;
    let ids = match (data.id, data.ids) {
        (Some(id), None) => vec![id],
        (None, Some(ids)) => ids,
        _ => return Err(invalid("data names exactly one of id and ids".to_owned())),
    };
    check_count(ids.len())?;
    Ok(Some(ids.into_iter().map(ImageId).collect()))
}

/// Checks a delivery's headers and signature; its id.
pub(crate) fn verify(
    hooks: &[Webhook],
    headers: &HeaderMap,
    body: &[u8],
    now: i64,
) -> Result<String, Problem> {
    let refused = |detail: &'static str| Problem::new(Code::InvalidSignature, detail);
    let single = |name: &'static str| {
        let mut values = headers.get_all(name);
        let value = values.next().and_then(|value| value.to_str().ok());
        value.filter(|_| values.next().is_none())
    };
    let id = single(HEADER_WEBHOOK_ID)
        .filter(|id| {
            (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_graphic())
        })
        .ok_or_else(|| refused("webhook-id is missing or malformed"))?;
    let timestamp =
        single(HEADER_WEBHOOK_TIMESTAMP).ok_or_else(|| refused("webhook-timestamp is missing"))?;
    let signature =
        single(HEADER_WEBHOOK_SIGNATURE).ok_or_else(|| refused("webhook-signature is missing"))?;
    // Before the library sees it: it subtracts without a check, and a hostile number overflows.
    let seconds: i64 = timestamp
        .parse()
        .map_err(|_| refused("webhook-timestamp is malformed"))?;
    if now
        .checked_sub(seconds)
        .is_none_or(|off| off.unsigned_abs() > TOLERANCE_SECONDS as u64)
    {
        return Err(refused("webhook-timestamp is more than 300 seconds off"));
    }
    // The library speaks another generation of the `http` crate than the web framework.
    let mut signed = http::HeaderMap::new();
    for (name, value) in [
        (HEADER_WEBHOOK_ID, id),
        (HEADER_WEBHOOK_TIMESTAMP, timestamp),
        (HEADER_WEBHOOK_SIGNATURE, signature),
    ] {
        let value = http::HeaderValue::from_str(value)
            .map_err(|_| refused("a webhook header is malformed"))?;
        signed.insert(name, value);
    }
    if !hooks.iter().any(|hook| hook.verify(body, &signed).is_ok()) {
        return Err(refused("no configured secret made this signature"));
    }
    Ok(id.to_owned())
}

#[cfg(test)]
#[path = "webhooks_tests.rs"]
mod tests;
