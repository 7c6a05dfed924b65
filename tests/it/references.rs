//! References without bytes, the question which contents are known, and idempotency keys.

use serde_json::{Value, json};

use crate::harness::{
    Context, FilePart, assert_image, assert_keys, cases, distinct_bytes, sha256_hex, small_png,
};

cases! {
    both: [
        a_reference_by_hash_or_original,
        a_reference_needs_live_content,
        a_reference_that_cannot_be_read,
        exists_answers_for_the_known_only,
        an_idempotency_key_gives_the_same_image_again,
        an_idempotency_key_with_other_content_is_refused,
        an_idempotency_key_covers_all_files_of_a_request,
        an_idempotency_key_covers_references,
        an_idempotency_key_outlives_the_image,
        same_idempotency_key_twice,
        idempotency_keys_that_cannot_be_read,
    ],
}

async fn a_reference_by_hash_or_original(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(1);
    let hash = sha256_hex(&bytes);
    let uploaded = api.upload(bytes.clone()).await.expect(201).json();
    for body in [
        json!({ "content_hash": hash, "filename": "by-hash.png", "metadata": { "n": 1 } }),
        json!({ "original_image_id": uploaded["original_image_id"], "filename": "by-id.png" }),
    ] {
        let reply = api.post("/v1/images", &body).await.expect(201);
        let image = reply.json();
        assert_image(&image, true);
        assert_eq!(image["content_hash"], hash);
        assert_eq!(image["filename"], body["filename"]);
        assert_eq!(
            image["metadata"],
            body.get("metadata").cloned().unwrap_or(Value::Null)
        );
        assert_eq!(image["deduplicated"], true);
        assert_eq!(image["original_image_id"], uploaded["original_image_id"]);
        assert_eq!(image["mime_type"], "image/png");
        assert_eq!(api.content(&reply.image_id()).await.expect(200).body, bytes);
    }
    let original = api.original(&hash).await.expect(200).json();
    assert_eq!(original["reference_count"], 3);
}

async fn a_reference_needs_live_content(ctx: &mut Context) {
    ctx.set_grace(std::time::Duration::from_secs(3600));
    let api = ctx.start().await;
    let bytes = small_png(2);
    let by_hash = json!({ "content_hash": sha256_hex(&bytes) });
    api.post("/v1/images", &by_hash)
        .await
        .problem(404, "unknown-content");
    let image = api.upload(bytes.clone()).await.expect(201).json();
    let id = image["id"].as_str().expect("an id");
    api.delete(id).await.expect(200);
    // The bytes are still there, but nobody has the right to them any more.
    api.post("/v1/images", &by_hash)
        .await
        .problem(404, "unknown-content");
    let by_id = json!({ "original_image_id": image["original_image_id"] });
    api.post("/v1/images", &by_id)
        .await
        .problem(404, "unknown-content");
    let unknown = json!({ "original_image_id": uuid::Uuid::new_v4() });
    api.post("/v1/images", &unknown)
        .await
        .problem(404, "unknown-content");
    assert_eq!(ctx.outside().await.images().await.len(), 1);
}

async fn a_reference_that_cannot_be_read(ctx: &mut Context) {
    let api = ctx.start().await;
    let hash = "ab".repeat(32);
    for body in [
        json!({}),
        json!([]),
        json!({ "content_hash": hash, "original_image_id": uuid::Uuid::new_v4() }),
        json!({ "content_hash": hash.to_uppercase() }),
        json!({ "content_hash": 7 }),
        json!({ "original_image_id": "seven" }),
        json!({ "content_hash": hash, "unheard_of": true }),
    ] {
        let reply = api.post("/v1/images", &body).await;
        reply.problem(400, "invalid-body");
    }
    let not_an_object = json!({ "content_hash": hash, "metadata": [1] });
    api.post("/v1/images", &not_an_object)
        .await
        .problem(400, "invalid-metadata");
    let json_type = [("content-type", "application/json")];
    api.post_raw("/v1/images", &json_type, "{\"content_hash\": ")
        .await
        .problem(400, "invalid-body");
    assert_eq!(ctx.outside().await.images().await, []);
}

async fn exists_answers_for_the_known_only(ctx: &mut Context) {
    let api = ctx.start().await;
    let (live, gone, never) = (small_png(3), small_png(4), small_png(5));
    api.upload(live.clone()).await.expect(201);
    let id = api.upload_id(gone.clone()).await;
    api.delete(&id).await.expect(200);
    let hashes = [&live, &gone, &never, &live].map(|bytes| sha256_hex(bytes));
    let reply = api
        .post("/v1/images/exists", &json!({ "content_hashes": hashes }))
        .await;
    let reply = reply.expect(200).json();
    assert_keys(&reply, &["known"]);
    let known = reply["known"].as_array().expect("a list");
    assert!(
        !known.is_empty() && known.iter().all(|hash| *hash == hashes[0]),
        "{reply}"
    );

    let nothing = api
        .post("/v1/images/exists", &json!({ "content_hashes": [] }))
        .await;
    assert_eq!(nothing.expect(200).json(), json!({ "known": [] }));
    let many: Vec<String> = (0..1000).map(|n| format!("{n:064x}")).collect();
    let asked = api
        .post("/v1/images/exists", &json!({ "content_hashes": many }))
        .await;
    assert_eq!(asked.expect(200).json(), json!({ "known": [] }));
    let too_many: Vec<String> = (0..1001).map(|n| format!("{n:064x}")).collect();
    api.post("/v1/images/exists", &json!({ "content_hashes": too_many }))
        .await
        .problem(400, "too-many-items");
    api.post("/v1/images/exists", &json!({ "content_hashes": ["xyz"] }))
        .await
        .problem(400, "invalid-body");
}

async fn an_idempotency_key_gives_the_same_image_again(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(6);
    let key = [("idempotency-key", "order-4711")];
    let first = api
        .upload_with(bytes.clone(), &key)
        .await
        .expect(201)
        .json();
    for _ in 0..3 {
        let again = api
            .upload_with(bytes.clone(), &key)
            .await
            .expect(201)
            .json();
        assert_eq!(again, first, "the same answer, word for word");
    }
    let original = api.original(&sha256_hex(&bytes)).await.expect(200).json();
    assert_eq!(original["reference_count"], 1);
    assert_eq!(ctx.outside().await.images().await.len(), 1);
    // A restart does not forget it.
    ctx.server().kill();
    let api = ctx.start().await;
    let again = api.upload_with(bytes, &key).await.expect(201).json();
    assert_eq!(again, first);
}

async fn an_idempotency_key_with_other_content_is_refused(ctx: &mut Context) {
    let api = ctx.start().await;
    let key = [("idempotency-key", "k")];
    let first = small_png(7);
    api.upload_with(first.clone(), &key).await.expect(201);
    // Content that is new, and content that is stored already.
    let stored = small_png(8);
    api.upload(stored.clone()).await.expect(201);
    for other in [small_png(9), stored] {
        let reply = api.upload_with(other, &key).await;
        reply.problem(422, "idempotency-key-reused");
    }
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 2);
    assert_eq!(outside.images().await.len(), 2);
    api.upload_with(first, &key).await.expect(201);
}

async fn an_idempotency_key_covers_all_files_of_a_request(ctx: &mut Context) {
    let api = ctx.start().await;
    let (a, b, c) = (small_png(10), small_png(11), small_png(12));
    let part = |bytes: &Vec<u8>| FilePart::new("x.png", bytes.clone());
    let key = [("idempotency-key", "several")];
    let files = [part(&a), part(&b), part(&a)];
    let first = api
        .upload_files_with(&files, None, &key)
        .await
        .expect(201)
        .json();
    let again = api
        .upload_files_with(&files, None, &key)
        .await
        .expect(201)
        .json();
    assert_eq!(again, first);
    for other in [
        vec![part(&a), part(&c), part(&a)],
        vec![part(&b), part(&a), part(&a)],
    ] {
        let reply = api.upload_files_with(&other, None, &key).await;
        reply.problem(422, "idempotency-key-reused");
    }
    // Fewer or more files than the first time are other content, too.
    for other in [
        vec![part(&a), part(&b)],
        vec![part(&a), part(&b), part(&a), part(&c)],
    ] {
        let reply = api.upload_files_with(&other, None, &key).await;
        reply.problem(422, "idempotency-key-reused");
    }
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.images().await.len(), 3);
    assert_eq!(outside.object_count().await, 2);
}

async fn an_idempotency_key_covers_references(ctx: &mut Context) {
    let api = ctx.start().await;
    let (one, other) = (small_png(13), small_png(14));
    api.upload(one.clone()).await.expect(201);
    api.upload(other.clone()).await.expect(201);
    let refer = |bytes: &[u8]| {
        let request = api.request(reqwest::Method::POST, "/v1/images");
        let body = json!({ "content_hash": sha256_hex(bytes) });
        api.send(request.header("idempotency-key", "ref").json(&body))
    };
    let first = refer(&one).await.expect(201).json();
    assert_eq!(refer(&one).await.expect(201).json(), first);
    refer(&other).await.problem(422, "idempotency-key-reused");
    let original = api.original(&sha256_hex(&one)).await.expect(200).json();
    assert_eq!(original["reference_count"], 2);
}

/// A retry that arrives after the image was deleted must not bring it back.
async fn an_idempotency_key_outlives_the_image(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(15);
    let key = [("idempotency-key", "late-retry")];
    let first = api.upload_with(bytes.clone(), &key).await.expect(201);
    api.delete(&first.image_id()).await.expect(200);
    let outside = ctx.outside().await;
    outside.rest().await;
    let late = api.upload_with(bytes, &key).await.expect(201);
    assert_eq!(late.image_id(), first.image_id());
    assert_ne!(
        late.json()["deleted_at"],
        Value::Null,
        "it is still deleted"
    );
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
    assert_eq!(outside.images().await.len(), 1);
}

/// The same request twice at once: one image, one reference, two equal answers.
async fn same_idempotency_key_twice(ctx: &mut Context) {
    let api = ctx.start().await;
    for round in 0..5 {
        let bytes = distinct_bytes(50_000);
        let key = format!("twice-{round}");
        let header = [("idempotency-key", key.as_str())];
        let twice = (0..8).map(|_| api.upload_with(bytes.clone(), &header));
        let replies = futures::future::join_all(twice).await;
        let ids: Vec<String> = replies
            .into_iter()
            .map(|reply| reply.expect(201).image_id())
            .collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        let original = api.original(&sha256_hex(&bytes)).await.expect(200).json();
        assert_eq!(original["reference_count"], 1);
    }
}

async fn idempotency_keys_that_cannot_be_read(ctx: &mut Context) {
    let api = ctx.start().await;
    let long = "k".repeat(256);
    for key in ["", "two words", "kéy", long.as_str()] {
        let reply = api
            .upload_with(small_png(16), &[("idempotency-key", key)])
            .await;
        reply.problem(400, "invalid-idempotency-key");
    }
    assert_eq!(ctx.outside().await.images().await, []);
    let longest = "k".repeat(255);
    api.upload_with(small_png(16), &[("idempotency-key", &longest)])
        .await
        .expect(201);
}
