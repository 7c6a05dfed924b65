//! Uploads that are taken: every way to send a file, and the exact shape of each answer.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{
    Context, FilePart, RawConnection, assert_image, assert_keys, cases, distinct_bytes,
    multipart_body, sha256_hex, small_png,
};

cases! {
    both: [
        a_multipart_upload_of_one_file,
        a_multipart_upload_of_several_files_answers_in_their_order,
        the_same_file_twice_in_one_request,
        metadata_comes_before_or_after_the_files,
        a_raw_upload,
        a_raw_upload_is_named_by_its_content_disposition,
        a_chunked_upload,
        a_slow_upload_in_small_pieces,
        declared_digests_are_verified,
        large_bodies_pass_through_the_spool,
        filenames_are_kept_safely,
        the_type_is_sniffed_and_never_believed,
        originals_are_shared_within_a_request_and_across,
        stats_add_up,
    ],
}

async fn a_multipart_upload_of_one_file(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(1);
    let files = [FilePart::new("photo.png", bytes.clone())];
    let reply = api
        .upload_files(&files, Some(r#"{"album": 7}"#))
        .await
        .expect(201);
    let body = reply.json();
    assert_keys(&body, &["images"]);
    let images = body["images"].as_array().expect("a list");
    assert_eq!(images.len(), 1);
    let image = &images[0];
    assert_image(image, true);
    assert_eq!(image["content_hash"], sha256_hex(&bytes));
    assert_eq!(image["file_size"], bytes.len());
    assert_eq!(image["mime_type"], "image/png");
    assert_eq!(
        (&image["width"], &image["height"]),
        (&json!(16), &json!(12))
    );
    assert_eq!(image["filename"], "photo.png");
    assert_eq!(image["metadata"], json!({ "album": 7 }));
    assert_eq!(image["deleted_at"], Value::Null);
    assert_eq!(image["deduplicated"], false);

    let again = api.upload_files(&files, None).await.expect(201).json();
    let again = &again["images"][0];
    assert_eq!(again["deduplicated"], true, "{again}");
    assert_ne!(
        again["id"], image["id"],
        "each upload is an image of its own"
    );
    assert_eq!(again["original_image_id"], image["original_image_id"]);
    assert_eq!(again["metadata"], Value::Null);
    assert_eq!(ctx.outside().await.object_count().await, 1);
}

async fn a_multipart_upload_of_several_files_answers_in_their_order(ctx: &mut Context) {
    let api = ctx.start().await;
    let contents: Vec<Vec<u8>> = (10..15).map(small_png).collect();
    let fields = ["file", "files[]", "", "pictures", "file"];
    let files: Vec<FilePart> = contents
        .iter()
        .zip(fields)
        .enumerate()
        .map(|(position, (bytes, field))| FilePart {
            field,
            ..FilePart::new(&format!("{position}.png"), bytes.clone())
        })
        .collect();
    let reply = api
        .upload_files(&files, Some(r#"{"of": "all"}"#))
        .await
        .expect(201)
        .json();
    let images = reply["images"].as_array().expect("a list");
    assert_eq!(images.len(), contents.len());
    for (position, (image, bytes)) in images.iter().zip(&contents).enumerate() {
        assert_eq!(image["content_hash"], sha256_hex(bytes));
        assert_eq!(image["filename"], format!("{position}.png"));
        assert_eq!(image["metadata"], json!({ "of": "all" }));
    }
    assert_eq!(ctx.outside().await.object_count().await, contents.len());
}

async fn the_same_file_twice_in_one_request(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(20);
    let other = small_png(21);
    let files = [
        FilePart::new("a.png", bytes.clone()),
        FilePart::new("b.png", other),
        FilePart::new("c.png", bytes.clone()),
    ];
    let reply = api.upload_files(&files, None).await.expect(201);
    let ids = reply.image_ids();
    let images = reply.json()["images"].clone();
    assert_ne!(ids[0], ids[2]);
    assert_eq!(
        images[0]["original_image_id"],
        images[2]["original_image_id"]
    );
    let outside = ctx.outside().await;
    assert_eq!(outside.object_count().await, 2);
    let row = outside.stored(&sha256_hex(&bytes)).await.expect("stored");
    assert_eq!(row.reference_count, 2);
    for id in ids {
        api.delete(&id).await.expect(200);
    }
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
}

async fn metadata_comes_before_or_after_the_files(ctx: &mut Context) {
    let api = ctx.start().await;
    let file = (
        "Content-Disposition: form-data; name=\"f\"; filename=\"f.txt\"",
        &b"content"[..],
    );
    let metadata = (
        "Content-Disposition: form-data; name=\"metadata\"\r\nContent-Type: application/json",
        &br#"{"position": "any"}"#[..],
    );
    let content_type = "multipart/form-data; boundary=XX";
    for parts in [[file, metadata], [metadata, file]] {
        let body = multipart_body("XX", &parts, true);
        let reply = api
            .upload_with(body, &[("content-type", content_type)])
            .await
            .expect(201);
        assert_eq!(
            reply.json()["images"][0]["metadata"],
            json!({ "position": "any" })
        );
    }
}

async fn a_raw_upload(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(1000);
    let hash = sha256_hex(&bytes);
    let reply = api.upload(bytes.clone()).await.expect(201);
    let image = reply.json();
    assert_image(&image, true);
    let id = reply.image_id();
    let location = reply.header("location").expect("a Location");
    assert!(
        location.ends_with(&format!("/v1/images/{id}")),
        "{location}"
    );
    assert_eq!(reply.header("etag"), Some(format!("\"{hash}\"")));
    assert_eq!(reply.header("x-dedup").as_deref(), Some("miss"));
    assert_eq!(image["content_hash"], hash);
    assert_eq!(image["filename"], Value::Null);
    assert_eq!(image["mime_type"], Value::Null);
    assert_eq!(
        (&image["width"], &image["height"]),
        (&Value::Null, &Value::Null)
    );

    let again = api.upload(bytes).await.expect(201);
    assert_eq!(again.header("x-dedup").as_deref(), Some("hit"));
    assert_eq!(again.header("etag"), Some(format!("\"{hash}\"")));
    assert_eq!(again.json()["deduplicated"], true);
    assert_ne!(again.image_id(), id);
}

async fn a_raw_upload_is_named_by_its_content_disposition(ctx: &mut Context) {
    let api = ctx.start().await;
    let disposition = "attachment; filename=\"holiday photo.png\"";
    let reply = api
        .upload_with(small_png(30), &[("content-disposition", disposition)])
        .await;
    assert_eq!(reply.expect(201).json()["filename"], "holiday photo.png");
    let extended = "attachment; filename=\"x\"; filename*=UTF-8''%e7%8c%ab.png";
    let reply = api
        .upload_with(small_png(31), &[("content-disposition", extended)])
        .await;
    assert_eq!(reply.expect(201).json()["filename"], "猫.png");
}

async fn a_chunked_upload(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut connection = RawConnection::open(api.address()).await;
    connection
        .upload_head(&[
            ("Content-Type", "text/plain"),
            ("Transfer-Encoding", "chunked"),
        ])
        .await
        .send("5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n")
        .await;
    let reply = connection.answer().await.expect("an answer").expect(201);
    assert_eq!(reply.json()["content_hash"], sha256_hex(b"hello world"));
    assert_eq!(reply.json()["file_size"], 11);
}

async fn a_slow_upload_in_small_pieces(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(40);
    let file = (
        "Content-Disposition: form-data; name=\"f\"; filename=\"s.png\"",
        &bytes[..],
    );
    let body = multipart_body("--slow", &[file], true);
    let mut connection = RawConnection::open(api.address()).await;
    connection
        .upload_head(&[
            ("Content-Type", "multipart/form-data; boundary=--slow"),
            ("Content-Length", &body.len().to_string()),
        ])
        .await;
    for piece in body.chunks(7) {
        connection.send(piece).await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let reply = connection.answer().await.expect("an answer").expect(201);
    assert_eq!(
        reply.json()["images"][0]["content_hash"],
        sha256_hex(&bytes)
    );
}

async fn declared_digests_are_verified(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(500);
    let right = format!(
        "sha-256=:{}:",
        BASE64_STANDARD.encode(Sha256::digest(&bytes))
    );
    let wrong = format!(
        "sha-256=:{}:",
        BASE64_STANDARD.encode(Sha256::digest(b"other"))
    );
    for header in ["repr-digest", "content-digest"] {
        api.upload_with(bytes.clone(), &[(header, &wrong)])
            .await
            .problem(400, "digest-mismatch");
        assert_eq!(
            ctx.outside().await.object_count().await,
            0,
            "nothing is kept"
        );
        assert_eq!(ctx.outside().await.images().await, []);
        api.upload_with(bytes.clone(), &[(header, "sha-256=:short:")])
            .await
            .problem(400, "invalid-digest");
    }
    for header in ["repr-digest", "content-digest"] {
        api.upload_with(bytes.clone(), &[(header, &right)])
            .await
            .expect(201);
    }
    // An algorithm that is not known here says nothing.
    api.upload_with(bytes, &[("repr-digest", "md5=:AAAA:")])
        .await
        .expect(201);
}

async fn large_bodies_pass_through_the_spool(ctx: &mut Context) {
    ctx.set("UPLOAD__MEMORY_THRESHOLD", "64 KiB");
    ctx.set("UPLOAD__MEMORY_BUDGET", "1 MiB");
    let api = ctx.start().await;
    for length in [65_535, 65_536, 65_537, 1_048_577, 12_345_678] {
        let bytes = distinct_bytes(length);
        let id = api.upload_id(bytes.clone()).await;
        assert!(api.content(&id).await.expect(200).body == bytes, "{length}");
        let files = [FilePart::new("x", bytes)];
        let reply = api.upload_files(&files, None).await.expect(201);
        assert_eq!(reply.json()["images"][0]["deduplicated"], true);
    }
    ctx.spool_is_empty().await;
}

async fn filenames_are_kept_safely(ctx: &mut Context) {
    let api = ctx.start().await;
    for (sent, kept) in [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\photos\\\\a.png", "a.png"),
        ("Grüße 猫.webp", "Grüße 猫.webp"),
        ("semi;colon, comma.png", "semi;colon, comma.png"),
    ] {
        let head = format!("Content-Disposition: form-data; name=\"f\"; filename=\"{sent}\"");
        let body = multipart_body("XX", &[(&head, b"named")], true);
        let content_type = "multipart/form-data; boundary=XX";
        let reply = api
            .upload_with(body, &[("content-type", content_type)])
            .await
            .expect(201);
        let id = reply.image_ids().remove(0);
        assert_eq!(reply.json()["images"][0]["filename"], kept);
        let disposition = api.content(&id).await.expect(200).headers["content-disposition"].clone();
        let text = disposition.to_str().expect("header values are ASCII");
        assert!(text.starts_with("attachment"), "{text}");
        assert!(!text.contains("..") && !text.contains('\\'), "{text}");
    }
}

async fn the_type_is_sniffed_and_never_believed(ctx: &mut Context) {
    let api = ctx.start().await;
    let png = api
        .upload_with(small_png(50), &[("content-type", "text/html")])
        .await
        .expect(201);
    assert_eq!(png.json()["mime_type"], "image/png");
    let html = &b"<!DOCTYPE html><script>alert(1)</script>"[..];
    let reply = api
        .upload_with(html, &[("content-type", "image/png")])
        .await
        .expect(201);
    assert_ne!(reply.json()["mime_type"], "image/png");
    let content = api.content(&reply.image_id()).await.expect(200);
    let disposition = content
        .header("content-disposition")
        .expect("a disposition");
    assert!(disposition.starts_with("attachment"), "{disposition}");
    assert_eq!(
        content.header("x-content-type-options").as_deref(),
        Some("nosniff")
    );
}

async fn originals_are_shared_within_a_request_and_across(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(60);
    let hash = sha256_hex(&bytes);
    api.original(&hash).await.problem(404, "unknown-original");
    api.upload(bytes.clone()).await.expect(201);
    api.upload_files(&[FilePart::new("x", bytes.clone())], None)
        .await
        .expect(201);
    let original = api.original(&hash).await.expect(200).json();
    assert_keys(
        &original,
        &[
            "id",
            "content_hash",
            "file_size",
            "mime_type",
            "width",
            "height",
            "reference_count",
            "state",
            "created_at",
        ],
    );
    assert_eq!(original["content_hash"], hash);
    assert_eq!(original["file_size"], bytes.len());
    assert_eq!(original["mime_type"], "image/png");
    assert_eq!(
        (&original["width"], &original["height"]),
        (&json!(16), &json!(12))
    );
    assert_eq!(original["reference_count"], 2);
    assert_eq!(original["state"], "stored");
    api.original("not-a-hash")
        .await
        .problem(404, "unknown-original");
}

async fn stats_add_up(ctx: &mut Context) {
    ctx.set_grace(std::time::Duration::from_secs(3600));
    let api = ctx.start().await;
    let empty = api.get("/v1/stats").await.expect(200).json();
    assert_keys(
        &empty,
        &[
            "images",
            "originals",
            "logical_bytes",
            "stored_bytes",
            "saved_bytes",
            "dedup_ratio",
            "pending",
            "deleting",
            "orphaned",
        ],
    );
    assert_eq!(
        (&empty["images"], &empty["stored_bytes"]),
        (&json!(0), &json!(0))
    );
    let bytes = distinct_bytes(1000);
    for _ in 0..3 {
        api.upload(bytes.clone()).await.expect(201);
    }
    let orphan = api.upload_id(distinct_bytes(500)).await;
    api.delete(&orphan).await.expect(200);
    let stats = api.get("/v1/stats").await.expect(200).json();
    assert_eq!(stats["images"], 3, "{stats}");
    assert_eq!(stats["originals"], 2, "{stats}");
    assert_eq!(stats["logical_bytes"], 3000, "{stats}");
    assert_eq!(stats["stored_bytes"], 1500, "{stats}");
    assert_eq!(stats["saved_bytes"], 1500, "{stats}");
    assert_eq!(stats["dedup_ratio"], 2.0, "{stats}");
    assert_eq!(
        (&stats["pending"], &stats["deleting"]),
        (&json!(0), &json!(0)),
        "{stats}"
    );
    assert_eq!(stats["orphaned"], 1, "{stats}");
    let printed = ctx.hapax(&["stats", "--json"]).exits_with(0).json();
    assert_eq!(printed, stats);
}
