//! Limits and spellings of what clients send.

use actix_web::http::header::{HeaderName, HeaderValue};

use super::*;

fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(
            HeaderName::from_static(name),
            HeaderValue::from_bytes(value).expect("a header"),
        );
    }
    map
}

fn listing(query: &str) -> Result<ImageListing, Code> {
    let request = actix_web::test::TestRequest::with_uri(&format!("/?{query}")).to_http_request();
    read_query::<ListQuery>(request.query_string())
        .and_then(ImageListing::try_from)
        .map_err(|problem| problem.code)
}

#[test]
fn list_queries() {
    let page = listing("unknown=1").expect("defaults");
    assert_eq!((page.limit, page.include_deleted), (50, false));
    let page = listing("limit=1000&include_deleted=true").expect("reads");
    assert_eq!((page.limit, page.include_deleted), (1000, true));
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "include_deleted=2",
        "limit=1&limit=2",
    ] {
        assert_eq!(listing(query).err(), Some(Code::InvalidQuery), "{query}");
    }
    assert_eq!(listing("cursor=abc").err(), Some(Code::InvalidCursor));
}

#[test]
fn ids_have_one_spelling() {
    let id = "0193a1b2-0000-7000-8000-00000000abcd";
    assert!(parse_uuid(id).is_some());
    for bad in [
        "",
        "1",
        &id.replace('-', ""),
        &format!("{{{id}}}"),
        &id.replace('a', "g"),
    ] {
        assert!(parse_uuid(bad).is_none(), "{bad}");
    }
}

#[test]
fn idempotency_keys() {
    let long = vec![b'k'; 255];
    assert_eq!(idempotency_key(&headers(&[])).expect("none"), None);
    for good in [&b"k"[..], b"\"quoted\"", &long] {
        let key = idempotency_key(&headers(&[("idempotency-key", good)])).expect("reads");
        assert_eq!(key.as_deref().map(str::as_bytes), Some(good));
    }
    for bad in [&b""[..], b"a b", b"a\tb", b"\xff", &[b'k'; 256]] {
        let result = idempotency_key(&headers(&[("idempotency-key", bad)]));
        assert_eq!(result.map_err(|p| p.code), Err(Code::InvalidIdempotencyKey));
    }
    let twice = headers(&[("idempotency-key", b"a"), ("idempotency-key", b"a")]);
    assert!(idempotency_key(&twice).is_err());
}

#[test]
fn references_name_one_content() {
    let parse = |text: &str| parse_json::<ReferenceBody>(text.as_bytes()).map_err(|p| p.code);
    let hash = "ab".repeat(32);
    assert!(parse(&format!(r#"{{"content_hash":"{hash}","metadata":null}}"#)).is_ok());
    assert!(parse(r#"{"original_image_id":"0193a1b2-0000-7000-8000-00000000abcd"}"#).is_ok());
    for bad in [
        "{}",
        "[]",
        "",
        r#"{"original_image_id":"x"}"#,
        r#"{"content_hash":1}"#,
    ] {
        assert_eq!(parse(bad).err(), Some(Code::InvalidBody), "{bad}");
    }
    let both = format!(
        r#"{{"content_hash":"{hash}","original_image_id":"0193a1b2-0000-7000-8000-00000000abcd"}}"#
    );
    assert_eq!(parse(&both).err(), Some(Code::InvalidBody));
    let metadata = format!(r#"{{"content_hash":"{hash}","metadata":[]}}"#);
    assert_eq!(parse(&metadata).err(), Some(Code::InvalidMetadata));
}

#[test]
fn lists_end_at_a_thousand() {
    let ids = |count| {
        let ids = vec![Uuid::nil(); count];
        parse_json::<ImageIds>(serde_json::json!({ "ids": ids }).to_string().as_bytes())
            .map_err(|problem| problem.code)
            .map(|ids| ids.ids.len())
    };
    assert_eq!(ids(0), Ok(0));
    assert_eq!(ids(1000), Ok(1000));
    assert_eq!(ids(1001), Err(Code::TooManyItems));
    let array = parse_json::<ImageIds>(b"[[]]").map_err(|problem| problem.code);
    assert_eq!(array.err(), Some(Code::InvalidBody));
    let hashes = r#"{"content_hashes":["ABCD"]}"#;
    let result = parse_json::<ContentHashes>(hashes.as_bytes()).map_err(|p| p.code);
    assert_eq!(result.err(), Some(Code::InvalidBody));
}

#[test]
fn content_types() {
    for (value, json) in [
        (&b"application/json"[..], true),
        (b"Application/JSON; charset=utf-8", true),
        (b"application/vnd.x+json", true),
        (b"image/jpeg", false),
        (b"text/json", false),
        (b"\xff", false),
        (b"", false),
        (b"application/json; charset=\xe9", true),
    ] {
        assert_eq!(is_json(&headers(&[("content-type", value)])), json);
    }
    let odd = headers(&[("content-type", b"Multipart/Form-Data; boundary=\xc3\xa9")]);
    assert_eq!(media_type(&odd), "multipart/form-data");
    assert!(refuse_encoding(&headers(&[])).is_ok());
    assert!(refuse_encoding(&headers(&[("content-encoding", b"identity")])).is_ok());
    assert!(refuse_encoding(&headers(&[("content-encoding", b"gzip")])).is_err());
}
