//! What an upload and a deletion cost at the store: counted at the S3 server, and by the metric of the
//! local store.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;

use crate::harness::{Api, Backend, Context, FilePart, Operation, cases, distinct_bytes};

cases! {
    both: [
        a_new_upload_is_one_put,
        a_duplicate_upload_is_no_call,
        sixty_four_uploads_of_one_new_file_are_one_put,
    ],
    postgres_s3: [
        a_thousand_last_deletes_in_bulk,
        a_thousand_last_deletes_one_by_one,
        reading_is_one_get,
    ],
}

/// Calls of the store so far: seen at the S3 server, or by the metric where there is no server.
async fn store_calls(ctx: &Context, api: &Api) -> (u64, u64) {
    if ctx.backend == Backend::PostgresS3 {
        return (ctx.s3_calls(Operation::Put), ctx.all_s3_calls());
    }
    let text = api.get("/metrics").await.expect(200).text_whole();
    let count = |wanted: &str| {
        text.lines()
            .filter(|line| line.starts_with("hapax_store_request_duration_seconds_count{"))
            .filter(|line| line.contains(wanted))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    };
    (count("operation=\"put\""), count(""))
}

/// No reaper calls the store in between, nor the verification.
fn quiet(ctx: &mut Context) {
    ctx.set("CLEANUP__INTERVAL", "1h");
    ctx.set("VERIFY__ENABLED", "false");
}

async fn a_new_upload_is_one_put(ctx: &mut Context) {
    quiet(ctx);
    let api = ctx.start().await;
    let before = store_calls(ctx, &api).await;
    for n in 1..=20 {
        api.upload(distinct_bytes(3000)).await.expect(201);
        let after = store_calls(ctx, &api).await;
        assert_eq!(
            after,
            (before.0 + n, before.1 + n),
            "puts and calls after {n} uploads"
        );
    }
    let files = [
        FilePart::new("a", distinct_bytes(10)),
        FilePart::new("b", distinct_bytes(10)),
    ];
    api.upload_files(&files, None).await.expect(201);
    assert_eq!(store_calls(ctx, &api).await, (before.0 + 22, before.1 + 22));
}

async fn a_duplicate_upload_is_no_call(ctx: &mut Context) {
    quiet(ctx);
    let api = ctx.start().await;
    let bytes = distinct_bytes(2_000_000);
    api.upload(bytes.clone()).await.expect(201);
    let before = store_calls(ctx, &api).await;
    let part = FilePart::new("same", bytes.clone());
    for _ in 0..10 {
        api.upload(bytes.clone()).await.expect(201);
        api.upload_files(&[part.clone(), part.clone()], None)
            .await
            .expect(201);
    }
    assert_eq!(store_calls(ctx, &api).await, before);
}

async fn sixty_four_uploads_of_one_new_file_are_one_put(ctx: &mut Context) {
    quiet(ctx);
    let api = ctx.start().await;
    let before = store_calls(ctx, &api).await;
    let bytes = distinct_bytes(100_000);
    for reply in join_all((0..64).map(|_| api.upload(bytes.clone()))).await {
        reply.expect(201);
    }
    assert_eq!(store_calls(ctx, &api).await, (before.0 + 1, before.1 + 1));
}

async fn a_thousand_images(api: &Api) -> Vec<String> {
    let requests = (0..10).map(|_| {
        let files: Vec<FilePart> = (0..100)
            .map(|_| FilePart::new("f", distinct_bytes(100)))
            .collect();
        async move { api.upload_files(&files, None).await.expect(201).image_ids() }
    });
    let ids = stream::iter(requests)
        .buffer_unordered(4)
        .collect::<Vec<_>>()
        .await
        .concat();
    assert_eq!(ids.len(), 1000);
    ids
}

/// A store that takes its time over a thousand objects is not asked twice.
fn patient(ctx: &mut Context) {
    for (name, value) in [
        ("STORAGE__S3__OPERATION_TIMEOUT", "1m"),
        ("UPLOAD__LEASE", "2m"),
        ("UPLOAD__PUT_DEADLINE", "2m"),
    ] {
        ctx.set(name, value);
    }
}

fn delete_calls(ctx: &Context) -> u64 {
    ctx.s3_calls(Operation::Delete) + ctx.s3_calls(Operation::DeleteMany)
}

async fn a_thousand_last_deletes_in_bulk(ctx: &mut Context) {
    patient(ctx);
    let api = ctx.start().await;
    let ids = a_thousand_images(&api).await;
    let before = delete_calls(ctx);
    api.delete_many(&ids).await.expect(200);
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
    let calls = delete_calls(ctx) - before;
    assert!(calls <= 2, "{calls} delete calls for 1000 objects");
}

/// Single requests, but many at once: the reaper waits a moment for company.
async fn a_thousand_last_deletes_one_by_one(ctx: &mut Context) {
    ctx.set_grace(Duration::from_secs(6));
    ctx.set("CLEANUP__INTERVAL", "12s");
    patient(ctx);
    let api = ctx.start().await;
    let ids = a_thousand_images(&api).await;
    let before = delete_calls(ctx);
    let deletions = ids.iter().map(|id| api.delete(id));
    let replies = stream::iter(deletions)
        .buffer_unordered(64)
        .collect::<Vec<_>>()
        .await;
    for reply in replies {
        reply.expect(200);
    }
    let outside = ctx.outside().await;
    // They rest until their grace period is over; the next look of the reaper takes them all.
    let gone = async {
        while outside.object_count().await > 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .expect("all objects go");
    let calls = delete_calls(ctx) - before;
    assert!(calls <= 2, "{calls} delete calls for 1000 objects");
}

async fn reading_is_one_get(ctx: &mut Context) {
    quiet(ctx);
    let api = ctx.start().await;
    let id = api.upload_id(distinct_bytes(1000)).await;
    let before = ctx.all_s3_calls();
    api.content(&id).await.expect(200);
    assert_eq!(ctx.all_s3_calls(), before + 1);
    let etag = api
        .content(&id)
        .await
        .expect(200)
        .header("etag")
        .expect("an ETag");
    let path = format!("/v1/images/{id}/content");
    api.get_with(&path, &[("if-none-match", &etag)])
        .await
        .expect(304);
    api.send(api.request(reqwest::Method::HEAD, &path))
        .await
        .expect(200);
    assert_eq!(
        ctx.all_s3_calls(),
        before + 2,
        "conditions and HEAD need no bytes"
    );
}
