//! The table and the extractors, as far as they go without a service behind them.

use std::sync::Arc;

use actix_web::App;
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use actix_web::middleware::from_fn;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::web::Data;
use serde_json::Value;

use super::*;
use crate::config::{AuthMode, Config};
use crate::http::{Settings, edge, text};

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

fn keys() -> Config {
    config(|config| config.auth.mode = AuthMode::Keys)
}

/// A macro, because the request type of the service that it makes has no public name.
macro_rules! server {
    ($config:expr) => {{
        let settings = Settings::new(&$config, Arc::default()).expect("valid settings");
        init_service(
            App::new()
                .app_data(Data::new(settings))
                .wrap(from_fn(edge::edge))
                .configure(configure),
        )
        .await
    }};
}

/// The answer's headers and its problem's code.
async fn refused(config: Config, request: TestRequest, status: u16) -> (HeaderMap, String) {
    let server = server!(config);
    let response = call_service(&server, request.to_request()).await;
    assert_eq!(response.status().as_u16(), status);
    let headers = response.headers().clone();
    assert_eq!(text(&headers, "content-type"), "application/problem+json");
    let document: Value = serde_json::from_slice(&read_body(response).await).expect("JSON");
    assert_eq!(document["status"], status);
    assert_eq!(document["request_id"], text(&headers, "x-request-id"));
    for member in ["type", "title", "detail"] {
        assert!(
            document[member]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{member}"
        );
    }
    (
        headers,
        document["code"].as_str().expect("a code").to_owned(),
    )
}

async fn code(request: TestRequest, status: u16) -> String {
    refused(Config::default(), request, status).await.1
}

fn get(path: &str) -> TestRequest {
    TestRequest::with_uri(path)
}

fn post(path: &str, content_type: &str, body: impl Into<actix_web::web::Bytes>) -> TestRequest {
    TestRequest::post()
        .uri(path)
        .insert_header(("content-type", content_type))
        .set_payload(body)
}

#[actix_web::test]
async fn unknown_addresses_are_problems() {
    for path in [
        "/",
        "/v1",
        "/v1/images/",
        "/v1/images/a/b",
        "/v2/images",
        "/%00",
        "/..%2f",
    ] {
        assert_eq!(code(get(path), 404).await, "unknown-route", "{path}");
    }
}

#[actix_web::test]
async fn methods_that_are_not_taken_say_which_are() {
    for (method, path, allow) in [
        (Method::PUT, "/v1/images", "GET, POST"),
        (Method::GET, "/v1/images/exists", "POST"),
        (Method::POST, "/healthz", "GET, HEAD"),
        (Method::DELETE, "/v1/images/x/content", "GET, HEAD"),
        (Method::PATCH, "/v1/images/x", "GET, DELETE"),
    ] {
        let request = TestRequest::with_uri(path).method(method);
        let (headers, code) = refused(Config::default(), request, 405).await;
        assert_eq!(code, "method-not-allowed");
        let mut allowed: Vec<_> = text(&headers, "allow").split(", ").collect();
        allowed.sort_unstable();
        let mut expected: Vec<_> = allow.split(", ").collect();
        expected.sort_unstable();
        assert_eq!(allowed, expected, "{path}");
    }
}

#[actix_web::test]
async fn malformed_paths_name_nothing() {
    assert_eq!(code(get("/v1/images/1"), 404).await, "unknown-image");
    assert_eq!(
        code(get("/v1/images/%ff/content"), 404).await,
        "unknown-image"
    );
    assert_eq!(
        code(TestRequest::delete().uri("/v1/images/x"), 404).await,
        "unknown-image"
    );
    assert_eq!(
        code(get("/v1/originals/ABC"), 404).await,
        "unknown-original"
    );
}

#[actix_web::test]
async fn malformed_queries_are_refused() {
    assert_eq!(code(get("/v1/images?limit=0"), 400).await, "invalid-query");
    assert_eq!(
        code(get("/v1/images?cursor=%00"), 400).await,
        "invalid-cursor"
    );
    let id = "0193a1b2-0000-7000-8000-00000000abcd";
    let path = format!("/v1/images/{id}/content?redirect=maybe");
    assert_eq!(code(get(&path), 400).await, "invalid-query");
}

#[actix_web::test]
async fn malformed_bodies_are_refused() {
    let json = "application/json";
    for (path, content_type, body, status, expected) in [
        ("/v1/images/delete", json, "{", 400, "invalid-body"),
        (
            "/v1/images/delete",
            json,
            "{\"ids\":[1]}",
            400,
            "invalid-body",
        ),
        (
            "/v1/images/delete",
            "text/plain",
            "{}",
            415,
            "unsupported-media-type",
        ),
        (
            "/v1/images/exists",
            json,
            "{\"content_hashes\":[\"x\"]}",
            400,
            "invalid-body",
        ),
        ("/v1/images", json, "{}", 400, "invalid-body"),
        (
            "/v1/images",
            "multipart/form-data",
            "x",
            400,
            "malformed-multipart",
        ),
    ] {
        assert_eq!(
            code(post(path, content_type, body), status).await,
            expected,
            "{path} {body}"
        );
    }
    let long = " ".repeat(300_000);
    assert_eq!(
        code(post("/v1/images/delete", json, long.clone()), 413).await,
        "body-too-large"
    );
    assert_eq!(
        code(post("/v1/images", json, long), 413).await,
        "body-too-large"
    );
}

#[actix_web::test]
async fn upload_headers_are_checked_before_the_body() {
    let raw = || post("/v1/images", "image/png", "bytes");
    for (name, value, status, expected) in [
        ("idempotency-key", "", 400, "invalid-idempotency-key"),
        ("repr-digest", "sha-256=:AAAA:", 400, "invalid-digest"),
        ("content-digest", "sha-256", 400, "invalid-digest"),
        (
            "content-disposition",
            "attachment; filename=\"a\tb\"",
            400,
            "invalid-filename",
        ),
        (
            "content-disposition",
            "attachment; filename=\"open",
            400,
            "invalid-filename",
        ),
        ("content-encoding", "gzip", 415, "unsupported-encoding"),
        ("content-length", "9999999999999", 413, "body-too-large"),
    ] {
        assert_eq!(
            code(raw().insert_header((name, value)), status).await,
            expected,
            "{name}"
        );
    }
}

#[actix_web::test]
async fn callers_without_a_key_learn_nothing_else() {
    for request in [
        get("/v1/images?limit=0"),
        get("/v1/images/x"),
        get("/v1/stats"),
        post("/v1/images", "application/json", "{"),
        post("/v1/images", "image/png", "x").insert_header(("content-encoding", "gzip")),
        get("/v1/stats").insert_header(("authorization", "Basic aGE6cA==")),
    ] {
        let (headers, code) = refused(keys(), request, 401).await;
        assert_eq!(code, "unauthorized");
        assert_eq!(text(&headers, "www-authenticate"), "Bearer");
    }
}

#[actix_web::test]
async fn the_webhook_is_there_only_with_a_secret() {
    let deliver = || post("/v1/webhooks/deletions", "application/json", "{}");
    assert_eq!(refused(keys(), deliver(), 404).await.1, "webhook-disabled");
    let enabled = |mode| {
        config(|config| {
            config.auth.mode = mode;
            config.webhooks.deletions.secrets = vec!["whsec_c2VjcmV0".to_owned()];
        })
    };
    assert_eq!(
        refused(enabled(AuthMode::None), deliver(), 401).await.1,
        "invalid-signature"
    );
    assert_eq!(
        refused(enabled(AuthMode::Keys), deliver(), 401).await.1,
        "unauthorized"
    );
    let broken = config(|config| {
        config.webhooks.deletions.secrets = vec!["whsec_*".to_owned()];
    });
    assert!(Settings::new(&broken, Arc::default()).is_err());
}

#[actix_web::test]
async fn request_ids_are_kept_when_harmless_and_made_otherwise() {
    let server = server!(Config::default());
    let long = "x".repeat(129);
    for (sent, kept) in [
        (Some("abc-1"), true),
        (Some("a b"), false),
        (Some(""), false),
        (Some(long.as_str()), false),
        (None, false),
    ] {
        let mut request = get("/healthz");
        if let Some(sent) = sent {
            request = request.insert_header(("x-request-id", sent));
        }
        let response = call_service(&server, request.to_request()).await;
        assert_eq!(response.status(), 200);
        let answered = text(response.headers(), "x-request-id");
        assert_eq!(Some(answered) == sent, kept, "{sent:?}");
        assert!(!answered.is_empty());
    }
}

#[actix_web::test]
async fn operators_need_no_key() {
    let server = server!(keys());
    for (path, content_type) in [
        ("/healthz", "application/json"),
        ("/openapi.json", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        let response = call_service(&server, get(path).to_request()).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(text(response.headers(), "content-type"), content_type);
        assert!(!read_body(response).await.is_empty());
    }
    let metrics = call_service(&server, get("/metrics").to_request()).await;
    let text = String::from_utf8(read_body(metrics).await.to_vec()).expect("UTF-8");
    for series in [
        "hapax_uploads_total{result=\"replayed\"}",
        "http_server_request_duration_seconds_count{method=\"GET\",route=\"/metrics\",status=\"200\"}",
    ] {
        assert!(text.contains(series), "{series}");
    }
}
