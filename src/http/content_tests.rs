//! Headers of content, and where legacy images are.

use chrono::DateTime;
use entity::{ImageId, OriginalId, images};
use uuid::Uuid;

use super::*;
use crate::http::text;

fn view(change: impl FnOnce(&mut images::Model)) -> ImageView {
    let mut image = images::Model {
        id: ImageId(Uuid::from_u128(1)),
        tenant: "default".to_owned(),
        original_image_id: Some(OriginalId(Uuid::from_u128(2))),
        was_original_id: None,
        content_hash: Some(ContentDigest::from([0xab; 32])),
        file_size: Some(10),
        original_url: None,
        legacy: false,
        filename: Some("a.png".to_owned()),
        mime_type: Some("image/png".to_owned()),
        metadata: None,
        deduplicated: false,
        created_at: DateTime::UNIX_EPOCH,
        deleted_at: None,
    };
    change(&mut image);
    ImageView {
        image,
        width: None,
        height: None,
        s3_key: None,
    }
}

fn headers(view: &ImageView) -> header::HeaderMap {
    let content = Content::of(view).expect("not legacy");
    head_answer(&content).headers().clone()
}

#[test]
fn content_is_named_digested_and_confined() {
    let headers = headers(&view(|_| {}));
    for (name, value) in [
        ("etag", format!("\"{}\"", "ab".repeat(32)).as_str()),
        ("accept-ranges", "bytes"),
        ("content-type", "image/png"),
        ("content-disposition", "inline; filename=\"a.png\""),
        ("content-security-policy", "default-src 'none'; sandbox"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "private, no-cache"),
        (
            "repr-digest",
            "sha-256=:q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=:",
        ),
    ] {
        assert_eq!(text(&headers, name), value, "{name}");
    }
}

#[test]
fn only_raster_images_are_shown_inline() {
    for (mime_type, expected) in [
        (Some("image/jpeg"), "inline"),
        (Some("image/svg+xml"), "attachment"),
        (Some("text/html"), "attachment"),
        (Some("application/pdf"), "attachment"),
        (None, "attachment"),
        (Some("bad\ntype"), "attachment"),
    ] {
        let headers = headers(&view(|image| {
            image.mime_type = mime_type.map(str::to_owned);
            image.filename = None;
        }));
        assert_eq!(text(&headers, "content-disposition"), expected);
        if mime_type.is_none_or(|name| name.contains('\n')) {
            assert_eq!(text(&headers, "content-type"), "application/octet-stream");
        }
    }
}

#[test]
fn a_legacy_image_is_a_web_address_or_nothing() {
    let legacy = |url: Option<&str>| {
        let view = view(|image| {
            image.legacy = true;
            image.original_image_id = None;
            image.content_hash = None;
            image.file_size = None;
            image.original_url = url.map(str::to_owned);
        });
        assert!(Content::of(&view).is_none());
        legacy_redirect(&view)
    };
    let answer = legacy(Some("HTTPS://old.example/a.png")).expect("redirects");
    assert_eq!(answer.status(), 307);
    assert_eq!(
        text(answer.headers(), "location"),
        "HTTPS://old.example/a.png"
    );
    for url in [
        None,
        Some(""),
        Some("javascript:alert(1)"),
        Some("file:///x"),
        Some("http://a\r\nb"),
    ] {
        let code = legacy(url).map(|_| ()).map_err(|problem| problem.code);
        assert_eq!(code, Err(Code::NoLocation), "{url:?}");
    }
}
