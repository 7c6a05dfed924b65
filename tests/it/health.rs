//! What operators look at: health, readiness, metrics, the API's own description.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::Value;

use crate::harness::{
    Action, Api, Context, Operation, cases, distinct_bytes, sha256_hex, small_png,
};

cases! {
    both: [
        alive_and_ready,
        unready_without_a_spool,
        metrics,
        openapi,
        request_ids,
        every_unknown_address_is_a_problem,
        overload_is_refused_and_counted_right,
    ],
    postgres_s3: [unready_while_the_database_is_stopped, a_store_that_does_not_answer],
}

async fn alive_and_ready(ctx: &mut Context) {
    let api = ctx.start().await;
    api.get("/healthz").await.expect(200);
    let ready = api.get("/readyz").await.expect(200);
    assert!(ready.json().is_object());
}

async fn ready_status(api: &Api, wanted: u16) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let reply = api.get("/readyz").await;
        if reply.status == wanted {
            return reply.json();
        }
        assert!(
            Instant::now() < deadline,
            "{}: {}",
            reply.status,
            reply.text()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn unready_without_a_spool(ctx: &mut Context) {
    ctx.set("UPLOAD__MEMORY_THRESHOLD", "1 KiB");
    let api = ctx.start().await;
    let spool = ctx.path("spool");
    std::fs::remove_dir_all(&spool).expect("the spool is there");
    std::fs::write(&spool, "in the way").expect("its name is free");

    let reason = ready_status(&api, 503).await;
    assert!(reason.to_string().contains("spool"), "{reason}");
    let reply = api
        .upload(vec![7; 100_000])
        .await
        .problem(503, "spool-unavailable");
    assert!(reply.header("retry-after").is_some());
    api.get("/healthz").await.expect(200);

    std::fs::remove_file(&spool).expect("it is there");
    std::fs::create_dir(&spool).expect("its name is free");
    ready_status(&api, 200).await;
    api.upload(vec![7; 100_000]).await.expect(201);
}

async fn unready_while_the_database_is_stopped(ctx: &mut Context) {
    ctx.use_own_cluster().await;
    let api = ctx.start().await;
    let id = api.upload_id(small_png(1)).await;

    ctx.own_cluster().stop();
    let reason = ready_status(&api, 503).await;
    assert!(reason.to_string().contains("database"), "{reason}");
    // At once: each waits for a connection until the pool gives up.
    let (new, duplicate, deletion, image, content) = futures::join!(
        api.upload(small_png(2)),
        api.upload(small_png(1)),
        api.delete(&id),
        api.image(&id),
        api.content(&id),
    );
    let refused = [new, duplicate, deletion, image, content];
    for reply in refused {
        let reply = reply.problem(503, "unavailable");
        assert!(reply.header("retry-after").is_some());
    }
    api.get("/healthz").await.expect(200);
    api.get("/metrics").await.expect(200);

    ctx.own_cluster().start();
    ready_status(&api, 200).await;
    api.content(&id).await.expect(200);
    api.upload(small_png(2)).await.expect(201);
}

async fn metrics(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(3);
    let id = api.upload_id(bytes.clone()).await;
    api.upload(bytes.clone()).await.expect(201);
    api.upload(Vec::new()).await.problem(400, "empty-file");
    api.delete(&id).await.expect(200);
    let reply = api.get("/metrics").await.expect(200);
    let content_type = reply.header("content-type").expect("a type");
    assert!(content_type.starts_with("text/plain"), "{content_type}");
    let text = String::from_utf8(reply.body.to_vec()).expect("UTF-8");
    for name in [
        "http_server_request_duration_seconds",
        "hapax_uploads_total",
        "hapax_upload_bytes_total",
        "hapax_saved_bytes_total",
        "hapax_recognised_bytes_total",
        "hapax_store_request_duration_seconds",
        "hapax_originals",
        "hapax_reaper_oldest_seconds",
        "hapax_reaped_total",
        "hapax_missing_objects_total",
        "hapax_refcount_mismatches_total",
        "hapax_commit_unknown_total",
        "hapax_batch_operations",
        "hapax_spool_bytes",
        "hapax_blob_missing",
        "hapax_stray_objects",
        "hapax_refcount_mismatch",
        "hapax_verify_unreadable",
        "hapax_verify_findings_total",
        "hapax_verify_progress_ratio",
        "hapax_verify_last_pass_timestamp_seconds",
    ] {
        assert!(
            text.contains(&format!("# TYPE {name} ")),
            "{name} is missing in\n{text}"
        );
    }
    for sample in [
        "hapax_uploads_total{result=\"stored\"} 1",
        "hapax_uploads_total{result=\"hit\"} 1",
        "hapax_uploads_total{result=\"rejected\"} 1",
        &format!("hapax_saved_bytes_total {}", bytes.len()),
        "method=\"DELETE\",route=\"/v1/images/{id}\",status=\"200\"",
    ] {
        assert!(text.contains(sample), "{sample} is missing in\n{text}");
    }
    for secret in [id.as_str(), sha256_hex(&bytes).as_str(), "default\""] {
        assert!(!text.contains(secret), "{secret} is a label in\n{text}");
    }
}

async fn openapi(ctx: &mut Context) {
    let api = ctx.start().await;
    let document = api.get("/openapi.json").await.expect(200).json();
    let version = document["openapi"].as_str().expect("a version");
    assert!(version.starts_with("3.1"), "{version}");
    let routes = [
        ("/v1/images", "post"),
        ("/v1/images", "get"),
        ("/v1/images/exists", "post"),
        ("/v1/images/delete", "post"),
        ("/v1/images/{id}", "get"),
        ("/v1/images/{id}", "delete"),
        ("/v1/images/{id}/content", "get"),
        ("/v1/images/{id}/content", "head"),
        ("/v1/originals/{hash}", "get"),
        ("/v1/stats", "get"),
        ("/v1/webhooks/deletions", "post"),
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
        ("/openapi.json", "get"),
    ];
    for (path, method) in routes {
        let operation = &document["paths"][path][method];
        assert!(
            operation["responses"].is_object(),
            "{method} {path} is not described"
        );
    }
    // Every reference inside of the document leads somewhere.
    let mut stack = vec![&document];
    while let Some(value) = stack.pop() {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    let pointer = reference.trim_start_matches('#');
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                stack.extend(members.values());
            }
            Value::Array(items) => stack.extend(items),
            _ => {}
        }
    }
}

async fn request_ids(ctx: &mut Context) {
    let api = ctx.start().await;
    let own = api
        .get_with("/v1/images", &[("x-request-id", "my-own-id-7")])
        .await
        .expect(200);
    assert_eq!(own.header("x-request-id").as_deref(), Some("my-own-id-7"));
    let one = api
        .get("/v1/images")
        .await
        .expect(200)
        .header("x-request-id");
    let other = api
        .get("/v1/images")
        .await
        .expect(200)
        .header("x-request-id");
    assert_ne!(one, other);
}

async fn every_unknown_address_is_a_problem(ctx: &mut Context) {
    let api = ctx.start().await;
    for path in [
        "/",
        "/v1",
        "/v2/images",
        "/v1/images/",
        "/v1/images/a/b/c",
        "/..%2f..%2fetc",
    ] {
        let reply = api.get(path).await;
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
        assert_eq!(
            reply.header("content-type").as_deref(),
            Some("application/problem+json")
        );
    }
    for path in ["/v1/stats", "/healthz", "/v1/images/exists"] {
        let reply = api.send(api.request(Method::DELETE, path)).await;
        let reply = match reply.status {
            404 => reply.problem(404, "unknown-image"),
            _ => reply.problem(405, "method-not-allowed"),
        };
        assert!(reply.header("x-request-id").is_some());
    }
}

/// More than the queues hold: some are refused before anything was done for them, and coming again
/// works.
async fn overload_is_refused_and_counted_right(ctx: &mut Context) {
    ctx.set("REFCOUNT__SHARDS", "1");
    ctx.set("REFCOUNT__QUEUE", "1");
    let api = ctx.start().await;
    let bytes = distinct_bytes(2000);
    api.upload(bytes.clone()).await.expect(201);
    let (mut taken, mut refused) = (1, 0);
    for _ in 0..5 {
        for reply in join_all((0..100).map(|_| api.upload(bytes.clone()))).await {
            if reply.status == 201 {
                taken += 1;
                continue;
            }
            let reply = reply.problem(503, "overloaded");
            assert!(reply.header("retry-after").is_some());
            refused += 1;
        }
    }
    assert!(
        refused > 0,
        "500 uploads, and a queue of one never overflowed"
    );
    let original = api.original(&sha256_hex(&bytes)).await.expect(200).json();
    assert_eq!(original["reference_count"], taken);
}

/// A failed read is never "missing": the client is told to come again, and nothing is marked.
async fn a_store_that_does_not_answer(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(4);
    let id = api.upload_id(bytes.clone()).await;
    let armed = ctx.arm(Operation::Get, usize::MAX, Action::Refuse(500));
    let reply = api.content(&id).await.problem(503, "store-unavailable");
    assert!(reply.header("retry-after").is_some());
    ctx.disarm();
    drop(armed);
    let armed = ctx.arm(Operation::Get, usize::MAX, Action::Refuse(403));
    let reply = api.content(&id).await;
    assert!(reply.status >= 500, "{}", reply.text());
    ctx.disarm();
    drop(armed);
    let row = ctx
        .outside()
        .await
        .stored(&sha256_hex(&bytes))
        .await
        .expect("stored");
    assert_eq!(row.damaged_at, None);
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
}
