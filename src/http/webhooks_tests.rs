//! Signatures and bodies of deletion webhooks.

use actix_web::http::header::{HeaderName, HeaderValue};

use super::*;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER: &str = "whsec_AAAAsBQIhrscChlQIMV+b5sSYspob7oD";
const BODY: &[u8] = br#"{"type":"image.deleted"}"#;

fn hooks(secrets: &[&str]) -> Vec<Webhook> {
    secrets
        .iter()
        .map(|secret| Webhook::new(secret).expect("base64"))
        .collect()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(
            HeaderName::from_static(name),
            HeaderValue::from_str(value).expect("a header"),
        );
    }
    map
}

fn signed(secret: &str, id: &str, timestamp: i64) -> HeaderMap {
    let signature = hooks(&[secret])[0]
        .sign(id, timestamp, BODY)
        .expect("UTF-8");
    headers(&[
        ("webhook-id", id),
        ("webhook-timestamp", &timestamp.to_string()),
        ("webhook-signature", &signature),
    ])
}

#[test]
fn any_configured_secret_may_have_signed() {
    let now = Utc::now().timestamp();
    for secret in [SECRET, OTHER] {
        let id = verify(
            &hooks(&[OTHER, SECRET]),
            &signed(secret, "msg_1", now),
            BODY,
            now,
        );
        assert_eq!(id.expect("verifies"), "msg_1");
    }
    assert!(verify(&hooks(&[OTHER]), &signed(SECRET, "msg_1", now), BODY, now).is_err());
    assert!(verify(&hooks(&[SECRET]), &signed(SECRET, "msg_1", now), b"{}", now).is_err());
}

#[test]
fn timestamps_far_off_are_refused_without_overflow() {
    let now = Utc::now().timestamp();
    for timestamp in [now - 301, now + 301, 0, i64::MIN, i64::MAX] {
        let result = verify(
            &hooks(&[SECRET]),
            &signed(SECRET, "msg_1", timestamp),
            BODY,
            now,
        );
        assert_eq!(
            result.map_err(|problem| problem.code),
            Err(Code::InvalidSignature)
        );
    }
    assert!(
        verify(
            &hooks(&[SECRET]),
            &signed(SECRET, "msg_1", now - 290),
            BODY,
            now
        )
        .is_ok()
    );
}

#[test]
fn headers_are_needed_once_each() {
    let now = Utc::now().timestamp();
    let good = signed(SECRET, "msg_1", now);
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let mut missing = good.clone();
        missing.remove(name);
        assert!(
            verify(&hooks(&[SECRET]), &missing, BODY, now).is_err(),
            "{name}"
        );
        let mut twice = good.clone();
        twice.append(
            HeaderName::from_static(name),
            good.get(name).expect("signed").clone(),
        );
        assert!(
            verify(&hooks(&[SECRET]), &twice, BODY, now).is_err(),
            "{name}"
        );
    }
    let long = "x".repeat(MAX_ID_BYTES + 1);
    for id in ["a b", &long] {
        assert!(verify(&hooks(&[SECRET]), &signed(SECRET, id, now), BODY, now).is_err());
    }
}

#[test]
fn bodies() {
    let id = "0193a1b2-0000-7000-8000-00000000abcd";
    let count = |body: String| {
        images_of(body.as_bytes())
            .map(|ids| ids.map(|ids| ids.len()))
            .map_err(|problem| problem.code)
    };
    let event = |data: &str| {
        count(format!(
            r#"{{"type":"image.deleted","timestamp":1,"data":{data}}}"#
        ))
    };
    assert_eq!(event(&format!(r#"{{"id":"{id}","more":1}}"#)), Ok(Some(1)));
    assert_eq!(event(&format!(r#"{{"ids":["{id}","{id}"]}}"#)), Ok(Some(2)));
    assert_eq!(event(r#"{"ids":[]}"#), Ok(Some(0)));
    assert_eq!(
        count(r#"{"type":"image.created","data":7}"#.to_owned()),
        Ok(None)
    );
    for bad in [
        "null",
        "[null,[]]",
        "{}",
        r#"{"id":"x"}"#,
        r#"{"ids":[1]}"#,
        &format!(r#"{{"id":"{id}","ids":[]}}"#),
    ] {
        assert_eq!(event(bad), Err(Code::InvalidBody), "{bad}");
    }
    for bad in ["", "[]", "{}", r#"{"type":1}"#, "\u{0}"] {
        assert_eq!(count(bad.to_owned()), Err(Code::InvalidBody), "{bad}");
    }
    let many = vec![id; 1001];
    assert_eq!(
        event(&serde_json::json!({ "ids": many }).to_string()),
        Err(Code::TooManyItems)
    );
}
