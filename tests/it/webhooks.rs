//! The signed deletion webhook: Standard Webhooks in, one effect for each id.

use serde_json::{Value, json};
use standardwebhooks::Webhook;

use crate::harness::{Api, Context, Reply, cases, sha256_hex, small_png};

cases! {
    both: [
        a_signed_deletion,
        webhook_twice,
        the_same_webhook_many_times_at_once,
        several_ids_in_one_event,
        webhook_before_upload,
        rotated_secrets,
        signatures_that_do_not_hold,
        timestamps_out_of_bounds,
        bodies_that_cannot_be_read,
        an_event_of_another_type,
        without_a_secret_there_is_no_route,
        a_receipt_outlives_a_restart,
        an_old_receipt_goes_and_its_effect_stays,
    ],
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwdGVzdC1zZWNyZXQ=";
const NEW_SECRET: &str = "whsec_bmV3LXNlY3JldC1uZXctc2VjcmV0LW5ldy1zZWNyZXQtbmV3IQ==";

async fn start(ctx: &mut Context, secrets: &[&str]) -> Api {
    ctx.set("WEBHOOKS__DELETIONS__SECRETS", &json!(secrets));
    ctx.start().await
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

fn deletion(data: &Value) -> String {
    json!({ "type": "image.deleted", "timestamp": chrono::Utc::now(), "data": data }).to_string()
}

/// Delivers a body signed as a sender would.
async fn deliver(api: &Api, secret: &str, id: &str, at: i64, body: &str) -> Reply {
    let signer = Webhook::new(secret).expect("a secret");
    let signature = signer
        .sign(id, at, body.as_bytes())
        .expect("it can be signed");
    deliver_raw(api, id, &at.to_string(), &signature, body).await
}

async fn deliver_raw(api: &Api, id: &str, at: &str, signature: &str, body: &str) -> Reply {
    let headers = [
        ("content-type", "application/json"),
        ("webhook-id", id),
        ("webhook-timestamp", at),
        ("webhook-signature", signature),
    ];
    api.post_raw("/v1/webhooks/deletions", &headers, body.to_owned())
        .await
}

async fn a_signed_deletion(ctx: &mut Context) {
    let api = start(ctx, &[SECRET]).await;
    let id = api.upload_id(small_png(1)).await;
    let body = deletion(&json!({ "id": id }));
    let reply = deliver(&api, SECRET, "msg_1", now(), &body)
        .await
        .expect(200)
        .json();
    assert_eq!(
        reply,
        json!({ "results": [{ "id": id, "outcome": "deleted" }] })
    );
    api.image(&id).await.problem(410, "image-deleted");
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
}

/// The same id again: the same answer, no second effect.
async fn webhook_twice(ctx: &mut Context) {
    let api = start(ctx, &[SECRET]).await;
    let bytes = small_png(2);
    let first = api.upload_id(bytes.clone()).await;
    let second = api.upload_id(bytes.clone()).await;
    let body = deletion(&json!({ "id": first }));
    let answer = deliver(&api, SECRET, "msg_2", now(), &body)
        .await
        .expect(200)
        .json();
    for _ in 0..3 {
        let again = deliver(&api, SECRET, "msg_2", now(), &body)
            .await
            .expect(200)
            .json();
        assert_eq!(again, answer);
    }
    let original = api.original(&sha256_hex(&bytes)).await.expect(200).json();
    assert_eq!(original["reference_count"], 1);
    // Another body under the same id has no effect either.
    let other = deletion(&json!({ "id": second }));
    let again = deliver(&api, SECRET, "msg_2", now(), &other)
        .await
        .expect(200)
        .json();
    assert_eq!(again, answer);
    api.image(&second).await.expect(200);
    // Another id, the same image: already deleted.
    let new = deliver(&api, SECRET, "msg_3", now(), &body)
        .await
        .expect(200)
        .json();
    assert_eq!(new["results"][0]["outcome"], "already_deleted");
}

async fn the_same_webhook_many_times_at_once(ctx: &mut Context) {
    let api = start(ctx, &[SECRET]).await;
    let bytes = small_png(3);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(api.upload_id(bytes.clone()).await);
    }
    let body = deletion(&json!({ "ids": ids[..2] }));
    let at = now();
    let many = (0..16).map(|_| deliver(&api, SECRET, "msg_4", at, &body));
    let replies = futures::future::join_all(many).await;
    let answers: Vec<Value> = replies
        .into_iter()
        .map(|reply| reply.expect(200).json())
        .collect();
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(answers[0]["results"][0]["outcome"], "deleted");
    let original = api.original(&sha256_hex(&bytes)).await.expect(200).json();
    assert_eq!(original["reference_count"], 1);
}

async fn several_ids_in_one_event(ctx: &mut Context) {
    let api = start(ctx, &[SECRET]).await;
    let known = api.upload_id(small_png(4)).await;
    let unknown = uuid::Uuid::new_v4().to_string();
    let body = deletion(&json!({ "ids": [unknown, known] }));
    let reply = deliver(&api, SECRET, "msg_5", now(), &body)
        .await
        .expect(200)
        .json();
    assert_eq!(
        reply,
        json!({ "results": [
            { "id": unknown, "outcome": "unknown" },
            { "id": known, "outcome": "deleted" },
        ]})
    );
}

/// A deletion that overtakes the upload of its image finds nothing, and the image stays.
async fn webhook_before_upload(ctx: &mut Context) {
    let api = start(ctx, &[SECRET]).await;
    let bytes = small_png(5);
    let unknown = uuid::Uuid::new_v4().to_string();
    let body = deletion(&json!({ "id": unknown }));
    let early = deliver(&api, SECRET, "msg_6", now(), &body)
        .await
        .expect(200)
        .json();
    assert_eq!(early["results"][0]["outcome"], "unknown");
    let id = api.upload_id(bytes.clone()).await;
    let again = deliver(&api, SECRET, "msg_6", now(), &body)
        .await
        .expect(200)
        .json();
    assert_eq!(again, early);
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
}

async fn rotated_secrets(ctx: &mut Context) {
    let api = start(ctx, &[NEW_SECRET, SECRET]).await;
    for (n, secret) in [SECRET, NEW_SECRET].into_iter().enumerate() {
        let id = api.upload_id(small_png(6)).await;
        let body = deletion(&json!({ "id": id }));
        deliver(&api, secret, &format!("msg_r{n}"), now(), &body)
            .await
            .expect(200);
        api.image(&id).await.problem(410, "image-deleted");
    }
    // A sender that rotates signs with both: one that holds is enough.
    let id = api.upload_id(small_png(7)).await;
    let (body, at) = (deletion(&json!({ "id": id })), now());
    let good = Webhook::new(SECRET).expect("a secret");
    let good = good
        .sign("msg_both", at, body.as_bytes())
        .expect("it can be signed");
    let both = format!("v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= v1a,xyz {good}");
    deliver_raw(&api, "msg_both", &at.to_string(), &both, &body)
        .await
        .expect(200);
}

async fn signatures_that_do_not_hold(ctx: &mut Context) {
    let api = start(ctx, &[SECRET]).await;
    let id = api.upload_id(small_png(8)).await;
    let (body, at) = (deletion(&json!({ "id": id })), now());
    let signer = Webhook::new(SECRET).expect("a secret");
    let good = signer
        .sign("msg_7", at, body.as_bytes())
        .expect("it can be signed");
    let at = at.to_string();
    let other = deletion(&json!({ "id": uuid::Uuid::new_v4() }));
    for (message, timestamp, signature, sent) in [
        ("msg_8", at.as_str(), good.as_str(), &body),
        ("msg_7", at.as_str(), good.as_str(), &other),
        ("msg_7", at.as_str(), "v1,", &body),
        ("msg_7", at.as_str(), "v1,not base64", &body),
        ("msg_7", at.as_str(), "nonsense", &body),
        ("msg_7", at.as_str(), good.trim_start_matches("v1,"), &body),
        ("msg_7", "not a number", good.as_str(), &body),
    ] {
        let reply = deliver_raw(&api, message, timestamp, signature, sent).await;
        reply.problem(401, "invalid-signature");
    }
    let wrong_key = deliver(&api, NEW_SECRET, "msg_7", now(), &body).await;
    wrong_key.problem(401, "invalid-signature");
    let unsigned = api.post("/v1/webhooks/deletions", &json!({})).await;
    unsigned.problem(401, "invalid-signature");
    api.image(&id).await.expect(200);
}

async fn timestamps_out_of_bounds(ctx: &mut Context) {
    let api = start(ctx, &[SECRET]).await;
    let id = api.upload_id(small_png(9)).await;
    let body = deletion(&json!({ "id": id }));
    for off in [-305, 310, -1_000_000_000] {
        let reply = deliver(&api, SECRET, "msg_9", now() + off, &body).await;
        reply.problem(401, "invalid-signature");
    }
    api.image(&id).await.expect(200);
    deliver(&api, SECRET, "msg_9", now() - 280, &body)
        .await
        .expect(200);
}

/// Signed, but not a deletion: nothing happens, and the id is not used up.
async fn bodies_that_cannot_be_read(ctx: &mut Context) {
    let api = start(ctx, &[SECRET]).await;
    let id = api.upload_id(small_png(10)).await;
    let many: Vec<_> = (0..1001).map(|_| uuid::Uuid::new_v4()).collect();
    for body in [
        String::new(),
        "not json".to_owned(),
        "[]".to_owned(),
        deletion(&json!({})),
        deletion(&json!({ "id": "not an id" })),
        deletion(&json!({ "ids": many })),
        json!({ "data": { "id": id } }).to_string(),
    ] {
        let reply = deliver(&api, SECRET, "msg_10", now(), &body).await;
        assert_eq!(reply.status, 400, "{body:.80}: {}", reply.text());
    }
    api.image(&id).await.expect(200);
    let body = deletion(&json!({ "id": id }));
    deliver(&api, SECRET, "msg_10", now(), &body)
        .await
        .expect(200);
    api.image(&id).await.problem(410, "image-deleted");
}

/// A sender may post events of other kinds to the same address: they delete nothing.
async fn an_event_of_another_type(ctx: &mut Context) {
    let api = start(ctx, &[SECRET]).await;
    let id = api.upload_id(small_png(11)).await;
    let body =
        json!({ "type": "image.created", "timestamp": chrono::Utc::now(), "data": { "id": id } });
    let reply = deliver(&api, SECRET, "msg_11", now(), &body.to_string()).await;
    assert!(reply.status < 500, "{}", reply.text());
    api.image(&id).await.expect(200);
}

async fn without_a_secret_there_is_no_route(ctx: &mut Context) {
    let api = ctx.start().await;
    let body = deletion(&json!({ "id": uuid::Uuid::new_v4() }));
    let reply = deliver(&api, SECRET, "msg_12", now(), &body).await;
    reply.problem(404, "webhook-disabled");
}

async fn a_receipt_outlives_a_restart(ctx: &mut Context) {
    let api = start(ctx, &[SECRET]).await;
    let id = api.upload_id(small_png(12)).await;
    let body = deletion(&json!({ "id": id }));
    let first = deliver(&api, SECRET, "msg_13", now(), &body)
        .await
        .expect(200)
        .json();
    ctx.server().kill();
    let api = ctx.start().await;
    let again = deliver(&api, SECRET, "msg_13", now(), &body)
        .await
        .expect(200)
        .json();
    assert_eq!(again, first);
}

/// Past `webhooks.deletions.retention`; the reaper looks soon after a start.
async fn an_old_receipt_goes_and_its_effect_stays(ctx: &mut Context) {
    let api = start(ctx, &[SECRET]).await;
    let bytes = small_png(30);
    let first = api.upload_id(bytes.clone()).await;
    let second = api.upload_id(bytes.clone()).await;
    let body = deletion(&json!({ "id": first }));
    for id in ["msg_old", "msg_new"] {
        deliver(&api, SECRET, id, now(), &body).await.expect(200);
    }
    let outside = ctx.outside().await;
    let aged = "UPDATE webhook_events SET received_at = '2020-01-01T00:00:00.000+00:00' \
                WHERE event_id = 'msg_old'";
    assert_eq!(outside.sql(aged).await, 1);
    assert!(ctx.server().stop().await.success());
    let api = ctx.start().await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    // Changes nothing, and says how many there are.
    let count = "UPDATE webhook_events SET event_id = event_id";
    while outside.sql(count).await != 1 {
        assert!(std::time::Instant::now() < deadline, "the receipt stays");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let again = deliver(&api, SECRET, "msg_old", now(), &body).await;
    let again = again.expect(200).json();
    assert_eq!(again["results"][0]["outcome"], "already_deleted");
    let original = api.original(&sha256_hex(&bytes)).await.expect(200).json();
    assert_eq!(original["reference_count"], 1);
    api.image(&second).await.expect(200);
}
