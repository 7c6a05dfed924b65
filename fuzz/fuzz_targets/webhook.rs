//! Deletion webhooks: only what was signed with a configured secret passes, and only as it was signed.
//! Input: a line with id, timestamp (as an offset) and signature, separated by `|`; the rest is the body.
#![no_main]

use std::time::{SystemTime, UNIX_EPOCH};

use hapax::fuzzing::{MAX_ITEMS, headers, verified_webhook, webhook_ids, webhook_signature};
use hapax_fuzz::first_line;
use libfuzzer_sys::fuzz_target;

const SECRETS: [&str; 2] = [
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    "whsec_AAAAsBQIhrscChlQIMV+b5sSYspob7oD",
];

fuzz_target!(|input: &[u8]| {
    let (line, body) = first_line(input);
    if let Ok(Some(ids)) = webhook_ids(body) {
        assert!(ids <= MAX_ITEMS);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("it is past 1970").as_secs() as i64;
    let mut fields = line.split(|byte| *byte == b'|');
    let mut field = || fields.next().unwrap_or_default();
    let (id, offset, signature) = (field(), field(), field());
    let verified = |id: &[u8], timestamp: &str, signature: &[u8], body: &[u8]| {
        let map = headers([
            ("webhook-id", id),
            ("webhook-timestamp", timestamp.as_bytes()),
            ("webhook-signature", signature),
        ]);
        verified_webhook(&SECRETS, &map, body, now)
    };

    // Nobody guesses a signature.
    let raw_timestamp = String::from_utf8_lossy(offset);
    assert!(verified(id, &raw_timestamp, signature, body).is_err());

    let Ok(id_text) = std::str::from_utf8(id) else {
        return;
    };
    let offset: i64 = raw_timestamp.parse().unwrap_or(0);
    let timestamp = now.saturating_add(offset);
    let Some(good) = webhook_signature(SECRETS[1], id_text, timestamp, body) else {
        return;
    };
    let sent = timestamp.to_string();
    let good_id = (1..=255).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    // A second may pass between the two readings of the clock.
    if good_id && offset.unsigned_abs() < 299 {
        assert_eq!(
            verified(id, &sent, good.as_bytes(), body).as_deref(),
            Ok(id_text)
        );
        let beside = [b"v1,AAAA v2,x ", good.as_bytes()].concat();
        assert!(verified(id, &sent, &beside, body).is_ok(), "one of several");
        let longer = [body, b" "].concat();
        assert!(verified(id, &sent, good.as_bytes(), &longer).is_err());
        let other_id = [id, b"x"].concat();
        assert!(verified(&other_id, &sent, good.as_bytes(), body).is_err());
        let later = (timestamp + 1).to_string();
        assert!(verified(id, &later, good.as_bytes(), body).is_err());
    }
    if !good_id || offset.unsigned_abs() > 301 {
        assert!(verified(id, &sent, good.as_bytes(), body).is_err());
    }
});
