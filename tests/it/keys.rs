//! API keys: scopes, ends, and tenants that know nothing of each other.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::harness::{
    Api, Context, FilePart, cases, distinct_bytes, sha256_hex, small_png, text_of,
};

cases! {
    both: [
        without_a_working_key_nothing_answers,
        scopes,
        an_expired_key,
        a_revoked_key,
        keys_are_listed_without_their_secrets,
        another_tenants_image_is_as_unknown,
        another_tenants_content_is_as_unknown,
        tenants_do_not_share_originals,
        a_global_scope_shares_originals,
        stats_of_a_tenant_and_of_all,
        a_refusal_reaches_a_client_that_is_still_sending,
        webhooks_act_for_the_keys_tenant,
    ],
}

async fn start(ctx: &mut Context) -> Api {
    ctx.set("AUTH__MODE", "keys");
    ctx.start().await
}

async fn without_a_working_key_nothing_answers(ctx: &mut Context) {
    let api = start(ctx).await;
    let unknown = uuid::Uuid::new_v4();
    let routes = [
        (Method::POST, "/v1/images".to_owned()),
        (Method::GET, "/v1/images".to_owned()),
        (Method::POST, "/v1/images/exists".to_owned()),
        (Method::POST, "/v1/images/delete".to_owned()),
        (Method::GET, format!("/v1/images/{unknown}")),
        (Method::DELETE, format!("/v1/images/{unknown}")),
        (Method::GET, format!("/v1/images/{unknown}/content")),
        (Method::GET, format!("/v1/originals/{}", "ab".repeat(32))),
        (Method::GET, "/v1/stats".to_owned()),
    ];
    for (method, path) in routes {
        for authorization in [
            None,
            Some("Bearer nonsense"),
            Some("Basic dTpw"),
            Some("Bearer "),
        ] {
            let mut request = api.request(method.clone(), &path);
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            if method == Method::POST {
                request = request.json(&json!({}));
            }
            let reply = api.send(request).await.problem(401, "unauthorized");
            assert!(
                reply.header("www-authenticate").is_some(),
                "{method} {path}"
            );
        }
    }
    // Probes and scrapers need none.
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        api.get(path).await.expect(200);
    }
}

async fn scopes(ctx: &mut Context) {
    let api = start(ctx).await;
    let reader = api.with_token(&ctx.key("acme", "read"));
    let writer = api.with_token(&ctx.key("acme", "write"));
    let both = api.with_token(&ctx.key("acme", "read,write"));
    let admin = api.with_token(&ctx.key("acme", "admin"));
    let webhook = api.with_token(&ctx.key("acme", "webhook"));

    let id = writer.upload_id(small_png(1)).await;
    for api in [&reader, &both, &admin] {
        api.image(&id).await.expect(200);
        api.content(&id).await.expect(200);
        api.get("/v1/images").await.expect(200);
        api.get("/v1/stats").await.expect(200);
    }
    for api in [&writer, &webhook] {
        api.image(&id).await.problem(403, "forbidden");
        api.content(&id).await.problem(403, "forbidden");
        api.get("/v1/images").await.problem(403, "forbidden");
    }
    for api in [&reader, &webhook] {
        api.upload(small_png(2)).await.problem(403, "forbidden");
        api.delete(&id).await.problem(403, "forbidden");
        api.delete_many(std::slice::from_ref(&id))
            .await
            .problem(403, "forbidden");
    }
    both.upload(small_png(3)).await.expect(201);
    admin.upload(small_png(4)).await.expect(201);
    writer.delete(&id).await.expect(200);
}

async fn an_expired_key(ctx: &mut Context) {
    let api = start(ctx).await;
    let (_, secret) = ctx.new_key("acme", &["read"], &["--expires-in", "2s"]);
    let api = api.with_token(&secret);
    api.get("/v1/images").await.expect(200);
    tokio::time::sleep(Duration::from_secs(3)).await;
    api.get("/v1/images").await.problem(401, "unauthorized");
}

async fn a_revoked_key(ctx: &mut Context) {
    let api = start(ctx).await;
    let (id, secret) = ctx.new_key("acme", &["read"], &[]);
    let api = api.with_token(&secret);
    api.get("/v1/images").await.expect(200);
    ctx.hapax(&["keys", "revoke", &id]).exits_with(0);
    api.get("/v1/images").await.problem(401, "unauthorized");
    ctx.hapax(&["keys", "revoke", &uuid::Uuid::new_v4().to_string()])
        .exits_with(1);
}

async fn keys_are_listed_without_their_secrets(ctx: &mut Context) {
    let _api = start(ctx).await;
    let (id, secret) = ctx.new_key("acme", &["read", "write"], &["--name", "the label"]);
    let shown = ctx
        .hapax(&["keys", "create", "--tenant", "b", "--scope", "read"])
        .exits_with(0);
    let alone = shown.stdout.trim();
    assert!(
        !alone.is_empty() && !alone.contains(char::is_whitespace),
        "{shown:?}"
    );
    for arguments in [&["keys", "list"][..], &["keys", "list", "--json"]] {
        let list = ctx.hapax(arguments).exits_with(0);
        assert!(
            list.stdout.contains(&id) && list.stdout.contains("the label"),
            "{list:?}"
        );
        assert!(
            !list.stdout.contains(&secret) && !list.stdout.contains(alone),
            "{list:?}"
        );
    }
}

/// Exactly as an id that does not exist: the same status, code and text.
async fn another_tenants_image_is_as_unknown(ctx: &mut Context) {
    let api = start(ctx).await;
    let alice = api.with_token(&ctx.key("alice", "read,write"));
    let bob = api.with_token(&ctx.key("bob", "read,write"));
    let live = alice.upload_id(small_png(5)).await;
    let deleted = alice.upload_id(small_png(6)).await;
    alice.delete(&deleted).await.expect(200);
    let unknown = uuid::Uuid::new_v4().to_string();
    let as_bob = async |id: &str| {
        let mut answers = Vec::new();
        for reply in [
            bob.image(id).await,
            bob.content(id).await,
            bob.delete(id).await,
        ] {
            let reply = reply.problem(404, "unknown-image");
            let mut problem = reply.json();
            problem["request_id"] = json!(null);
            answers.push(problem.to_string().replace(id, "ID"));
        }
        let bulk = bob.delete_many(&[id.to_owned()]).await.expect(200).json();
        answers.push(bulk.to_string().replace(id, "ID"));
        answers
    };
    let expected = as_bob(&unknown).await;
    assert_eq!(as_bob(&live).await, expected);
    assert_eq!(as_bob(&deleted).await, expected);
    alice.content(&live).await.expect(200);
    let listed = bob.get("/v1/images?include_deleted=true").await.expect(200);
    assert_eq!(listed.image_ids(), Vec::<String>::new());
}

async fn another_tenants_content_is_as_unknown(ctx: &mut Context) {
    for scope in ["tenant", "global"] {
        ctx.set("DEDUP__SCOPE", scope);
        let api = start(ctx).await;
        let alice = api.with_token(&ctx.key("alice", "read,write"));
        let bob = api.with_token(&ctx.key("bob", "read,write"));
        let bytes = distinct_bytes(3000);
        let hash = sha256_hex(&bytes);
        let image = alice.upload(bytes).await.expect(201).json();
        let asked = json!({ "content_hashes": [hash] });
        let known = bob
            .post("/v1/images/exists", &asked)
            .await
            .expect(200)
            .json();
        assert_eq!(known, json!({ "known": [] }));
        bob.original(&hash).await.problem(404, "unknown-original");
        for body in [
            json!({ "content_hash": hash }),
            json!({ "original_image_id": image["original_image_id"] }),
        ] {
            bob.post("/v1/images", &body)
                .await
                .problem(404, "unknown-content");
        }
        ctx.server().stop().await;
    }
}

async fn tenants_do_not_share_originals(ctx: &mut Context) {
    let api = start(ctx).await;
    let alice = api.with_token(&ctx.key("alice", "read,write"));
    let bob = api.with_token(&ctx.key("bob", "read,write"));
    let bytes = small_png(7);
    let mine = alice.upload(bytes.clone()).await.expect(201).json();
    let theirs = bob.upload(bytes.clone()).await.expect(201);
    // Whether somebody else has the bytes cannot be told from the answer.
    assert_eq!(theirs.header("x-dedup").as_deref(), Some("miss"));
    assert_eq!(theirs.json()["deduplicated"], false);
    assert_ne!(
        theirs.json()["original_image_id"],
        mine["original_image_id"]
    );
    let outside = ctx.outside().await;
    assert_eq!(outside.object_count().await, 2);
    alice.delete(&text_of(&mine["id"])).await.expect(200);
    outside.rest().await;
    assert_eq!(outside.object_count().await, 1);
    assert_eq!(
        bob.content(&theirs.image_id()).await.expect(200).body,
        bytes
    );
}

async fn a_global_scope_shares_originals(ctx: &mut Context) {
    ctx.set("DEDUP__SCOPE", "global");
    let api = start(ctx).await;
    let alice = api.with_token(&ctx.key("alice", "read,write"));
    let bob = api.with_token(&ctx.key("bob", "read,write"));
    let bytes = small_png(8);
    let mine = alice.upload_id(bytes.clone()).await;
    let theirs = bob.upload_id(bytes.clone()).await;
    let outside = ctx.outside().await;
    assert_eq!(outside.object_count().await, 1);
    // Each sees its own references only.
    for api in [&alice, &bob] {
        let original = api.original(&sha256_hex(&bytes)).await.expect(200).json();
        assert_eq!(original["reference_count"], 1);
    }
    let reply = alice.delete(&mine).await.expect(200).json();
    assert_eq!(reply["original"]["reference_count"], 0, "{reply}");
    alice
        .original(&sha256_hex(&bytes))
        .await
        .problem(404, "unknown-original");
    assert_eq!(bob.content(&theirs).await.expect(200).body, bytes);
    bob.delete(&theirs).await.expect(200);
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
}

async fn stats_of_a_tenant_and_of_all(ctx: &mut Context) {
    let api = start(ctx).await;
    let alice = api.with_token(&ctx.key("alice", "read,write"));
    let bob = api.with_token(&ctx.key("bob", "read,write"));
    let admin = api.with_token(&ctx.key("operations", "admin"));
    for seed in 0..3 {
        alice.upload(small_png(20 + seed)).await.expect(201);
    }
    bob.upload(small_png(20)).await.expect(201);
    let images = async |api: &Api| api.get("/v1/stats").await.expect(200).json()["images"].clone();
    assert_eq!(images(&alice).await, 3);
    assert_eq!(images(&bob).await, 1);
    assert_eq!(images(&admin).await, 4);
    let all = ctx.hapax(&["stats", "--json"]).exits_with(0).json();
    assert_eq!(all["images"], 4);
    let one = ctx
        .hapax(&["stats", "--tenant", "alice", "--json"])
        .exits_with(0)
        .json();
    assert_eq!(one["images"], 3);
}

/// The rest of the body is drained up to a bound, so that the answer is not lost to a reset.
async fn a_refusal_reaches_a_client_that_is_still_sending(ctx: &mut Context) {
    let api = start(ctx).await;
    let reader = api.with_token(&ctx.key("acme", "read"));
    for _ in 0..5 {
        let bytes = distinct_bytes(4_000_000);
        api.upload(bytes.clone()).await.problem(401, "unauthorized");
        let files = [FilePart::new("large", bytes)];
        reader
            .upload_files(&files, None)
            .await
            .problem(403, "forbidden");
    }
    assert_eq!(ctx.outside().await.images().await, []);
}

async fn webhooks_act_for_the_keys_tenant(ctx: &mut Context) {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwdGVzdC1zZWNyZXQ=";
    ctx.set("WEBHOOKS__DELETIONS__SECRETS", &json!([secret]));
    let api = start(ctx).await;
    let alice = api.with_token(&ctx.key("alice", "read,write,webhook"));
    let bob = api.with_token(&ctx.key("bob", "webhook"));
    let id = alice.upload_id(small_png(30)).await;
    let body =
        json!({ "type": "image.deleted", "timestamp": chrono::Utc::now(), "data": { "id": id } });
    let body = body.to_string();
    let signer = standardwebhooks::Webhook::new(secret).expect("a secret");
    let now = chrono::Utc::now().timestamp();
    let signature = signer
        .sign("msg", now, body.as_bytes())
        .expect("it can be signed");
    let deliver = async |api: &Api| {
        let at = now.to_string();
        let headers = [
            ("content-type", "application/json"),
            ("webhook-id", "msg"),
            ("webhook-timestamp", at.as_str()),
            ("webhook-signature", signature.as_str()),
        ];
        api.post_raw("/v1/webhooks/deletions", &headers, body.clone())
            .await
    };
    deliver(&api).await.problem(401, "unauthorized");
    let reader = api.with_token(&ctx.key("alice", "read"));
    deliver(&reader).await.problem(403, "forbidden");
    let reply = deliver(&bob).await.expect(200).json();
    assert_eq!(reply["results"][0]["outcome"], "unknown");
    alice.image(&id).await.expect(200);
    // The receipt is bob's own: the same id still works for alice.
    let reply = deliver(&alice).await.expect(200).json();
    assert_eq!(reply["results"][0]["outcome"], "deleted");
}
