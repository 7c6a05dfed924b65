//! Reading: content whole and in part, conditions, headers, and what is not there.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use sha2::{Digest, Sha256};

use crate::harness::{
    Api, Context, Operation, Reply, cases, distinct_bytes, sha256_hex, small_png,
};

cases! {
    both: [
        content_with_all_its_headers,
        head_says_what_get_would_say,
        single_ranges,
        ranges_of_large_content,
        ranges_that_cannot_be_satisfied,
        conditions,
        if_range,
        inline_for_raster_images_only,
        unknown_and_deleted_images,
        reading_while_the_last_reference_goes,
    ],
    postgres_s3: [redirect_to_the_store],
    sqlite_local: [redirect_without_a_store_that_can],
}

async fn uploaded(ctx: &mut Context, bytes: &[u8]) -> (Api, String) {
    let api = ctx.start().await;
    let id = api.upload_id(bytes.to_vec()).await;
    (api, format!("/v1/images/{id}/content"))
}

async fn content_with_all_its_headers(ctx: &mut Context) {
    let bytes = small_png(1);
    let (api, path) = uploaded(ctx, &bytes).await;
    let reply = api.get(&path).await.expect(200);
    assert_eq!(reply.body, bytes);
    check_headers(&reply, &bytes);
    assert_eq!(reply.header("content-type").as_deref(), Some("image/png"));
    assert_eq!(
        reply.header("content-length"),
        Some(bytes.len().to_string())
    );
}

fn check_headers(reply: &Reply, bytes: &[u8]) {
    let digest = BASE64_STANDARD.encode(Sha256::digest(bytes));
    let expected = [
        ("etag", format!("\"{}\"", sha256_hex(bytes))),
        ("accept-ranges", "bytes".to_owned()),
        ("repr-digest", format!("sha-256=:{digest}:")),
        ("x-content-type-options", "nosniff".to_owned()),
        (
            "content-security-policy",
            "default-src 'none'; sandbox".to_owned(),
        ),
    ];
    for (name, value) in expected {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    assert!(reply.header("cache-control").is_some());
    assert!(reply.header("content-disposition").is_some());
}

async fn head_says_what_get_would_say(ctx: &mut Context) {
    let bytes = small_png(2);
    let (api, path) = uploaded(ctx, &bytes).await;
    let reply = api.send(api.request(Method::HEAD, &path)).await.expect(200);
    assert!(reply.body.is_empty());
    check_headers(&reply, &bytes);
    assert_eq!(
        reply.header("content-length"),
        Some(bytes.len().to_string())
    );
    let etag = format!("\"{}\"", sha256_hex(&bytes));
    let request = api
        .request(Method::HEAD, &path)
        .header("if-none-match", etag);
    api.send(request).await.expect(304);
    let unknown = format!("/v1/images/{}/content", uuid::Uuid::new_v4());
    let reply = api.send(api.request(Method::HEAD, &unknown)).await;
    assert_eq!(reply.status, 404);
}

async fn single_ranges(ctx: &mut Context) {
    let bytes = distinct_bytes(1000);
    let (api, path) = uploaded(ctx, &bytes).await;
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 1000),
        ("bytes=10-19", 10, 20),
        ("bytes=999-", 999, 1000),
        ("bytes=990-5000", 990, 1000),
        ("bytes=-1", 999, 1000),
        ("bytes=-5000", 0, 1000),
    ] {
        let reply = api.get_with(&path, &[("range", range)]).await.expect(206);
        assert_eq!(reply.body, bytes[from..to], "{range}");
        let content_range = format!("bytes {from}-{}/1000", to - 1);
        assert_eq!(reply.header("content-range"), Some(content_range));
        check_headers(&reply, &bytes);
    }
    // What is no single range is answered with everything.
    for range in ["bytes=0-1,5-6", "lines=1-2", "bytes=5-4", "bytes=x"] {
        let reply = api.get_with(&path, &[("range", range)]).await.expect(200);
        assert_eq!(reply.body, bytes, "{range}");
    }
}

async fn ranges_of_large_content(ctx: &mut Context) {
    let bytes = distinct_bytes(9_000_000);
    let (api, path) = uploaded(ctx, &bytes).await;
    for (from, to) in [
        (0, 9_000_000),
        (1, 8_999_999),
        (4_194_303, 4_194_306),
        (8_999_000, 9_000_000),
    ] {
        let range = format!("bytes={from}-{}", to - 1);
        let reply = api.get_with(&path, &[("range", &range)]).await.expect(206);
        assert!(reply.body == bytes[from..to], "{range}");
    }
}

async fn ranges_that_cannot_be_satisfied(ctx: &mut Context) {
    let bytes = distinct_bytes(1000);
    let (api, path) = uploaded(ctx, &bytes).await;
    for range in ["bytes=1000-", "bytes=1000-2000", "bytes=-0"] {
        let reply = api.get_with(&path, &[("range", range)]).await;
        let reply = reply.problem(416, "range-not-satisfiable");
        assert_eq!(
            reply.header("content-range").as_deref(),
            Some("bytes */1000"),
            "{range}"
        );
    }
}

async fn conditions(ctx: &mut Context) {
    let bytes = small_png(3);
    let (api, path) = uploaded(ctx, &bytes).await;
    let etag = format!("\"{}\"", sha256_hex(&bytes));
    for value in [
        etag.clone(),
        format!("W/{etag}"),
        format!("\"x\", {etag}"),
        "*".to_owned(),
    ] {
        let reply = api
            .get_with(&path, &[("if-none-match", &value)])
            .await
            .expect(304);
        assert!(reply.body.is_empty());
        assert_eq!(reply.header("etag"), Some(etag.clone()), "{value}");
    }
    api.get_with(&path, &[("if-none-match", "\"other\"")])
        .await
        .expect(200);
    api.get_with(&path, &[("if-match", &etag)])
        .await
        .expect(200);
    api.get_with(&path, &[("if-match", "\"other\"")])
        .await
        .problem(412, "precondition-failed");
    let both = [("if-none-match", etag.as_str()), ("range", "bytes=0-1")];
    api.get_with(&path, &both).await.expect(304);
}

async fn if_range(ctx: &mut Context) {
    let bytes = small_png(4);
    let (api, path) = uploaded(ctx, &bytes).await;
    let etag = format!("\"{}\"", sha256_hex(&bytes));
    let range = ("range", "bytes=0-3");
    let same = api
        .get_with(&path, &[range, ("if-range", &etag)])
        .await
        .expect(206);
    assert_eq!(same.body, bytes[..4]);
    for other in [
        "\"other\"",
        &format!("W/{etag}"),
        "Wed, 21 Oct 2015 07:28:00 GMT",
    ] {
        let reply = api
            .get_with(&path, &[range, ("if-range", other)])
            .await
            .expect(200);
        assert_eq!(reply.body, bytes, "{other}");
    }
}

async fn inline_for_raster_images_only(ctx: &mut Context) {
    let api = ctx.start().await;
    let svg = &b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>"[..];
    let disposition = ("content-disposition", "attachment; filename=\"given.name\"");
    for (bytes, kind) in [
        (small_png(5), "inline"),
        (svg.to_vec(), "attachment"),
        (b"<html><body>hello</body></html>".to_vec(), "attachment"),
        (b"%PDF-1.7 some text".to_vec(), "attachment"),
        (distinct_bytes(100), "attachment"),
    ] {
        let id = api
            .upload_with(bytes, &[disposition])
            .await
            .expect(201)
            .image_id();
        let reply = api.content(&id).await.expect(200);
        let value = reply.header("content-disposition").expect("a disposition");
        assert!(
            value.starts_with(kind),
            "{value}: {:?}",
            reply.header("content-type")
        );
        assert!(value.contains("given.name"), "{value}");
    }
}

async fn unknown_and_deleted_images(ctx: &mut Context) {
    let api = ctx.start().await;
    let id = api.upload_id(small_png(6)).await;
    let unknown = uuid::Uuid::new_v4().to_string();
    for id in [
        unknown.as_str(),
        "not-an-id",
        "00000000000000000000000000000007",
    ] {
        api.image(id).await.problem(404, "unknown-image");
        api.content(id).await.problem(404, "unknown-image");
        api.delete(id).await.problem(404, "unknown-image");
    }
    api.delete(&id).await.expect(200);
    api.image(&id).await.problem(410, "image-deleted");
    api.content(&id).await.problem(410, "image-deleted");
    api.get("/v1/nothing-here")
        .await
        .problem(404, "unknown-route");
    let request = api.request(Method::PUT, &format!("/v1/images/{id}"));
    api.send(request).await.problem(405, "method-not-allowed");
}

/// Readers of an image that is deleted under them get all of its bytes, or are told; never less.
async fn reading_while_the_last_reference_goes(ctx: &mut Context) {
    let api = ctx.start().await;
    for _ in 0..10 {
        let bytes = distinct_bytes(300_000);
        let id = api.upload_id(bytes.clone()).await;
        let reads = futures::future::join_all((0..8).map(|_| api.content(&id)));
        let (replies, _) = futures::join!(reads, api.delete(&id));
        for reply in replies {
            match reply.status {
                200 => assert!(reply.body == bytes),
                404 => drop(reply.problem(404, "unknown-image")),
                _ => drop(reply.problem(410, "image-deleted")),
            }
        }
    }
}

async fn redirect_to_the_store(ctx: &mut Context) {
    let bytes = small_png(7);
    let (api, path) = uploaded(ctx, &bytes).await;
    let reads = ctx.s3_calls(Operation::Get);
    let reply = api.get(&format!("{path}?redirect=true")).await.expect(307);
    let url = reply.header("location").expect("a Location");
    assert_eq!(
        ctx.s3_calls(Operation::Get),
        reads,
        "the bytes take another way"
    );
    let direct = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let answer = direct.get(&url).send().await.expect("the store answers");
    assert_eq!(answer.status().as_u16(), 200, "{url}");
    let content_type = answer.headers()["content-type"].clone();
    assert_eq!(content_type, "image/png");
    assert_eq!(answer.bytes().await.expect("a body"), bytes);
    let forged = url.replace("X-Amz-Signature=", "X-Amz-Signature=0");
    let answer = direct.get(&forged).send().await.expect("the store answers");
    assert!(answer.status().is_client_error(), "{}", answer.status());
}

async fn redirect_without_a_store_that_can(ctx: &mut Context) {
    let bytes = small_png(8);
    let (api, path) = uploaded(ctx, &bytes).await;
    let reply = api.get(&format!("{path}?redirect=true")).await.expect(200);
    assert_eq!(reply.body, bytes);
}
