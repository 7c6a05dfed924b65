//! Every kind of body that is refused; after each the check that no row, object or temporary file is
//! left, and that the next upload works.

use serde_json::json;

use crate::harness::{
    Api, Context, FilePart, RawConnection, cases, distinct_bytes, multipart_body, small_png,
};

cases! {
    both: [
        truncated_raw_bodies,
        truncated_multipart_bodies,
        truncated_chunked_bodies,
        every_truncation_of_a_small_multipart_body,
        a_missing_closing_boundary,
        malformed_multipart_bodies,
        malformed_chunks,
        a_body_over_the_limit,
        a_file_over_the_limit_in_a_request_of_several,
        exactly_the_limit_is_taken,
        empty_bodies_and_files,
        one_empty_file_refuses_the_whole_request,
        parts_without_a_filename,
        metadata_that_cannot_be_kept,
        too_many_files,
        filenames_that_cannot_be_kept,
        encoded_bodies,
        types_that_are_not_accepted,
        a_client_that_sends_nothing,
        a_client_that_leaves,
        json_routes_refuse_other_bodies,
        json_bodies_over_the_limit,
    ],
}

const MULTIPART: &str = "multipart/form-data; boundary=XX";
const FILE: &str = "Content-Disposition: form-data; name=\"f\"; filename=\"f.bin\"";

/// Nothing is left, and the server goes on working.
async fn nothing_left(ctx: &mut Context, api: &Api) {
    let outside = ctx.outside().await;
    assert_eq!(outside.images().await, [], "no image");
    outside.rest().await;
    assert_eq!(outside.originals().await, [], "no original");
    assert_eq!(outside.object_count().await, 0, "no object");
    ctx.spool_is_empty().await;
    let id = api
        .upload(&b"still at work"[..])
        .await
        .expect(201)
        .image_id();
    api.delete(&id).await.expect(200);
    outside.rest().await;
    outside.sql("DELETE FROM images").await;
}

async fn truncated_raw_bodies(ctx: &mut Context) {
    ctx.set("UPLOAD__MEMORY_THRESHOLD", "64 KiB");
    let api = ctx.start().await;
    let bytes = distinct_bytes(300_000);
    for sent in [0, 1, 1000, 100_000, 299_999] {
        let mut connection = RawConnection::open(api.address()).await;
        connection
            .upload_head(&[("Content-Type", "image/png"), ("Content-Length", "300000")])
            .await
            .send(&bytes[..sent])
            .await
            .finish_sending()
            .await;
        // The client cannot be told where the connection is half gone already.
        if let Some(reply) = connection.answer().await {
            reply.problem(400, "incomplete-body");
        }
    }
    nothing_left(ctx, &api).await;
}

async fn truncated_multipart_bodies(ctx: &mut Context) {
    ctx.set("UPLOAD__MEMORY_THRESHOLD", "64 KiB");
    let api = ctx.start().await;
    let whole = multipart_body(
        "XX",
        &[(FILE, &distinct_bytes(200_000)), (FILE, b"second")],
        true,
    );
    for sent in [10, 100, 150_000, 200_110, whole.len() - 5] {
        let mut connection = RawConnection::open(api.address()).await;
        connection
            .upload_head(&[
                ("Content-Type", MULTIPART),
                ("Content-Length", &whole.len().to_string()),
            ])
            .await
            .send(&whole[..sent])
            .await
            .finish_sending()
            .await;
        if let Some(reply) = connection.answer().await {
            reply.problem(400, "incomplete-body");
        }
    }
    nothing_left(ctx, &api).await;
}

async fn truncated_chunked_bodies(ctx: &mut Context) {
    let api = ctx.start().await;
    for sent in ["", "5", "5\r\nhel", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n"] {
        let mut connection = RawConnection::open(api.address()).await;
        connection
            .upload_head(&[
                ("Content-Type", "text/plain"),
                ("Transfer-Encoding", "chunked"),
            ])
            .await
            .send(sent)
            .await
            .finish_sending()
            .await;
        if let Some(reply) = connection.answer().await {
            reply.problem(400, "incomplete-body");
        }
    }
    nothing_left(ctx, &api).await;
}

/// With a length that fits what is sent: the HTTP layer sees nothing wrong, the form does.
async fn every_truncation_of_a_small_multipart_body(ctx: &mut Context) {
    let api = ctx.start().await;
    let whole = multipart_body("XX", &[(FILE, b"bytes")], true);
    let line_break = "\r\n".len();
    for end in 1..whole.len() - line_break {
        let reply = api
            .upload_with(whole[..end].to_vec(), &[("content-type", MULTIPART)])
            .await;
        assert_eq!(reply.status, 400, "{end}: {}", reply.text());
    }
    nothing_left(ctx, &api).await;
    api.upload_with(whole, &[("content-type", MULTIPART)])
        .await
        .expect(201);
}

async fn a_missing_closing_boundary(ctx: &mut Context) {
    let api = ctx.start().await;
    let body = multipart_body("XX", &[(FILE, &small_png(1))], false);
    let reply = api.upload_with(body, &[("content-type", MULTIPART)]).await;
    reply.problem(400, "incomplete-body");
    nothing_left(ctx, &api).await;
}

async fn malformed_multipart_bodies(ctx: &mut Context) {
    let api = ctx.start().await;
    for head in [
        "",
        "Content-Type: image/png",
        "Content-Disposition: attachment; filename=\"a\"",
        "Content-Disposition: form-data; name=\"f\"; filename=\"a",
        "no colon at all",
        &format!("{FILE}\r\n{FILE}"),
        &format!("{FILE}\r\nContent-Type: multipart/mixed; boundary=YY"),
        &format!("{FILE}\r\nContent-Transfer-Encoding: base64"),
        &format!("{FILE}\r\nX-Long: {}", "x".repeat(100_000)),
    ] {
        let body = multipart_body("XX", &[(head, b"content")], true);
        let reply = api.upload_with(body, &[("content-type", MULTIPART)]).await;
        assert_eq!(reply.status, 400, "{head:.60}: {}", reply.text());
        reply.problem(400, "malformed-multipart");
    }
    for content_type in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"XX",
    ] {
        let body = multipart_body("XX", &[(FILE, b"content")], true);
        let reply = api
            .upload_with(body, &[("content-type", content_type)])
            .await;
        reply.problem(400, "malformed-multipart");
    }
    let other_boundary = multipart_body("YY", &[(FILE, b"content")], true);
    let reply = api
        .upload_with(other_boundary, &[("content-type", MULTIPART)])
        .await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    nothing_left(ctx, &api).await;
}

async fn malformed_chunks(ctx: &mut Context) {
    let api = ctx.start().await;
    for chunks in [
        "xyz\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello world\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
    ] {
        let mut connection = RawConnection::open(api.address()).await;
        connection
            .upload_head(&[
                ("Content-Type", "text/plain"),
                ("Transfer-Encoding", "chunked"),
            ])
            .await
            .send(chunks)
            .await
            .finish_sending()
            .await;
        if let Some(reply) = connection.answer().await {
            assert_eq!(reply.status, 400, "{chunks:?}: {}", reply.text());
        }
    }
    nothing_left(ctx, &api).await;
}

async fn a_body_over_the_limit(ctx: &mut Context) {
    ctx.set("UPLOAD__MAX_BYTES", "1 MiB");
    let api = ctx.start().await;
    let bytes = distinct_bytes(1024 * 1024 + 1);
    // By its declared length, by its real length, and as a part.
    api.upload(bytes.clone())
        .await
        .problem(413, "body-too-large");
    let files = [FilePart::new("large", bytes.clone())];
    api.upload_files(&files, None)
        .await
        .problem(413, "body-too-large");
    let mut connection = RawConnection::open(api.address()).await;
    connection
        .upload_head(&[
            ("Content-Type", "image/png"),
            ("Transfer-Encoding", "chunked"),
        ])
        .await
        .send(format!("{:x}\r\n", bytes.len()))
        .await
        .send(&bytes)
        .await
        .send("\r\n0\r\n\r\n")
        .await;
    let reply = connection.answer().await.expect("an answer");
    reply.problem(413, "body-too-large");
    nothing_left(ctx, &api).await;
}

async fn a_file_over_the_limit_in_a_request_of_several(ctx: &mut Context) {
    ctx.set("UPLOAD__MAX_BYTES", "1 MiB");
    let api = ctx.start().await;
    let files = [
        FilePart::new("small", small_png(2)),
        FilePart::new("large", distinct_bytes(1024 * 1024 + 1)),
        FilePart::new("small", small_png(3)),
    ];
    api.upload_files(&files, None)
        .await
        .problem(413, "body-too-large");
    nothing_left(ctx, &api).await;
}

async fn exactly_the_limit_is_taken(ctx: &mut Context) {
    ctx.set("UPLOAD__MAX_BYTES", "1 MiB");
    let api = ctx.start().await;
    let bytes = distinct_bytes(1024 * 1024);
    api.upload(bytes.clone()).await.expect(201);
    // The limit is for each file, not for the request.
    let files = [
        FilePart::new("a", bytes),
        FilePart::new("b", distinct_bytes(1024 * 1024)),
    ];
    api.upload_files(&files, None).await.expect(201);
}

async fn empty_bodies_and_files(ctx: &mut Context) {
    let api = ctx.start().await;
    api.upload(Vec::new()).await.problem(400, "empty-file");
    let files = [FilePart::new("empty.png", Vec::new())];
    api.upload_files(&files, None)
        .await
        .problem(400, "empty-file");
    for nothing in [&b"--XX--\r\n"[..], b"--XX--"] {
        let reply = api
            .upload_with(nothing, &[("content-type", MULTIPART)])
            .await;
        reply.problem(400, "no-file");
    }
    let reply = api
        .upload_with(Vec::new(), &[("content-type", MULTIPART)])
        .await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    nothing_left(ctx, &api).await;
}

async fn one_empty_file_refuses_the_whole_request(ctx: &mut Context) {
    let api = ctx.start().await;
    let files = [
        FilePart::new("a.png", small_png(4)),
        FilePart::new("empty.png", Vec::new()),
        FilePart::new("b.png", small_png(5)),
    ];
    api.upload_files(&files, None)
        .await
        .problem(400, "empty-file");
    nothing_left(ctx, &api).await;
}

async fn parts_without_a_filename(ctx: &mut Context) {
    let api = ctx.start().await;
    let text = (
        "Content-Disposition: form-data; name=\"comment\"",
        &b"hello"[..],
    );
    let metadata = (
        "Content-Disposition: form-data; name=\"metadata\"",
        &b"{}"[..],
    );
    for parts in [vec![text], vec![metadata], vec![text, metadata]] {
        let body = multipart_body("XX", &parts, true);
        let reply = api.upload_with(body, &[("content-type", MULTIPART)]).await;
        reply.problem(400, "no-file");
    }
    nothing_left(ctx, &api).await;
}

async fn metadata_that_cannot_be_kept(ctx: &mut Context) {
    let api = ctx.start().await;
    let long = json!({ "text": "x".repeat(16 * 1024) }).to_string();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    for metadata in [
        "",
        "7",
        "[1]",
        "\"text\"",
        "{\"a\":",
        "{\"a\": \"\\u0000\"}",
        &long,
        &deep,
    ] {
        for files_first in [true, false] {
            let file = (FILE, &b"content"[..]);
            let metadata = (
                "Content-Disposition: form-data; name=\"metadata\"",
                metadata.as_bytes(),
            );
            let parts = if files_first {
                [file, metadata]
            } else {
                [metadata, file]
            };
            let body = multipart_body("XX", &parts, true);
            let reply = api.upload_with(body, &[("content-type", MULTIPART)]).await;
            reply.problem(400, "invalid-metadata");
        }
    }
    nothing_left(ctx, &api).await;
    let fits = json!({ "text": "x".repeat(16 * 1024 - 11) }).to_string();
    assert_eq!(fits.len(), 16 * 1024);
    let files = [FilePart::new("a.png", small_png(6))];
    api.upload_files(&files, Some(&fits)).await.expect(201);
}

async fn too_many_files(ctx: &mut Context) {
    ctx.set("UPLOAD__MAX_FILES", "5");
    let api = ctx.start().await;
    let files: Vec<FilePart> = (0..6)
        .map(|n| FilePart::new("f", small_png(10 + n)))
        .collect();
    api.upload_files(&files, None)
        .await
        .problem(413, "too-many-files");
    nothing_left(ctx, &api).await;
    api.upload_files(&files[..5], None).await.expect(201);
}

async fn filenames_that_cannot_be_kept(ctx: &mut Context) {
    let api = ctx.start().await;
    let long = "x".repeat(2000);
    for filename in ["..", "folder/", long.as_str()] {
        let head = format!("Content-Disposition: form-data; name=\"f\"; filename=\"{filename}\"");
        let body = multipart_body("XX", &[(&head, b"content")], true);
        let reply = api.upload_with(body, &[("content-type", MULTIPART)]).await;
        reply.problem(400, "invalid-filename");
    }
    for encoded in ["a%00b", "a%0d%0aSet-Cookie%3a%20b"] {
        let disposition = format!("attachment; filename*=UTF-8''{encoded}");
        let reply = api
            .upload_with(small_png(20), &[("content-disposition", &disposition)])
            .await;
        reply.problem(400, "invalid-filename");
    }
    let latin1 =
        b"--XX\r\nContent-Disposition: form-data; name=\"f\"; filename=\"\xe9\"\r\n\r\nx\r\n--XX--";
    let reply = api
        .upload_with(&latin1[..], &[("content-type", MULTIPART)])
        .await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    nothing_left(ctx, &api).await;
}

async fn encoded_bodies(ctx: &mut Context) {
    let api = ctx.start().await;
    for encoding in ["gzip", "br", "identity, gzip"] {
        let reply = api
            .upload_with(small_png(21), &[("content-encoding", encoding)])
            .await;
        reply.problem(415, "unsupported-encoding");
    }
    nothing_left(ctx, &api).await;
    api.upload_with(small_png(21), &[("content-encoding", "identity")])
        .await
        .expect(201);
}

async fn types_that_are_not_accepted(ctx: &mut Context) {
    ctx.set("UPLOAD__ACCEPT", r#"["image/png", "image/gif"]"#);
    let api = ctx.start().await;
    for refused in [
        b"plain text that says nothing of itself".to_vec(),
        b"%PDF-1.7 some text".to_vec(),
        distinct_bytes(3_000_000),
    ] {
        // What the client says of the type changes nothing.
        let headers = [("content-type", "image/png")];
        let reply = api.upload_with(refused.clone(), &headers).await;
        reply.problem(415, "unsupported-media-type");
        let files = [
            FilePart::new("ok.png", small_png(22)),
            FilePart::new("bad.png", refused),
        ];
        let reply = api.upload_files(&files, None).await;
        reply.problem(415, "unsupported-media-type");
    }
    let outside = ctx.outside().await;
    assert_eq!(outside.images().await, []);
    assert_eq!(outside.object_count().await, 0);
    api.upload(small_png(22)).await.expect(201);
}

async fn a_client_that_sends_nothing(ctx: &mut Context) {
    ctx.set("UPLOAD__IDLE_TIMEOUT", "1s");
    let api = ctx.start().await;
    let mut connection = RawConnection::open(api.address()).await;
    connection
        .upload_head(&[("Content-Type", "image/png"), ("Content-Length", "1000")])
        .await
        .send("some of it")
        .await;
    let reply = connection.answer().await.expect("an answer");
    reply.problem(408, "body-too-slow");
    nothing_left(ctx, &api).await;
}

async fn a_client_that_leaves(ctx: &mut Context) {
    ctx.set("UPLOAD__MEMORY_THRESHOLD", "64 KiB");
    let api = ctx.start().await;
    for sent in [0, 100, 500_000] {
        let mut connection = RawConnection::open(api.address()).await;
        connection
            .upload_head(&[("Content-Type", "image/png"), ("Content-Length", "1000000")])
            .await
            .send(&distinct_bytes(sent))
            .await;
        drop(connection);
    }
    nothing_left(ctx, &api).await;
}

async fn json_routes_refuse_other_bodies(ctx: &mut Context) {
    let api = ctx.start().await;
    for path in ["/v1/images/exists", "/v1/images/delete"] {
        let text = [("content-type", "text/plain")];
        api.post_raw(path, &text, "{}")
            .await
            .problem(415, "unsupported-media-type");
        let json_type = [("content-type", "application/json")];
        for body in ["", "{", "[]", "7", "{\"ids\": 7}", "{\"unheard_of\": []}"] {
            api.post_raw(path, &json_type, body)
                .await
                .problem(400, "invalid-body");
        }
    }
    let ids: Vec<_> = (0..1001)
        .map(|_| uuid::Uuid::new_v4().to_string())
        .collect();
    api.delete_many(&ids).await.problem(400, "too-many-items");
    let not_an_id = ["x".to_owned()];
    api.delete_many(&not_an_id)
        .await
        .problem(400, "invalid-body");
}

async fn json_bodies_over_the_limit(ctx: &mut Context) {
    let api = ctx.start().await;
    let json_type = [("content-type", "application/json")];
    let large = format!("{{\"ids\": [{}]}}", "\"x\",".repeat(500_000));
    for path in ["/v1/images/exists", "/v1/images/delete", "/v1/images"] {
        let reply = api.post_raw(path, &json_type, large.clone()).await;
        reply.problem(413, "body-too-large");
    }
}
