//! Bodies that no proper client sends, written to the socket byte by byte: slow, endless, giant, in
//! thousands of parts, and with bytes that no name holds.

use std::time::Duration;

use crate::harness::{Context, RawConnection, cases, distinct_bytes, multipart_body, small_png};
use crate::raw_socket::{exchange, well_and_empty};

cases! {
    sqlite_local: [
        a_body_that_drips,
        ignored_parts_do_not_keep_an_upload_alive,
        thousands_of_parts,
        a_giant_part,
        line_ends_and_boundaries,
        filenames_with_hostile_bytes,
        many_silent_connections,
    ],
}

const MULTIPART: &str = "multipart/form-data; boundary=XX";
const FILE: &str = "Content-Disposition: form-data; name=\"f\"; filename=\"f.bin\"";

/// Never silent for long, and far too slow.
async fn a_body_that_drips(ctx: &mut Context) {
    ctx.set("UPLOAD__MIN_RATE_AFTER", "1s");
    ctx.set("UPLOAD__MIN_RATE", "1 KiB");
    let api = ctx.start().await;
    let mut connection = RawConnection::open(api.address()).await;
    let headers = [("Content-Type", "text/plain"), ("Content-Length", "100000")];
    connection.upload_head(&headers).await;
    for _ in 0..30 {
        connection.send("x").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let reply = connection.answer().await.expect("an answer");
    reply.problem(408, "body-too-slow");
    well_and_empty(ctx, &api).await;
}

async fn ignored_parts_do_not_keep_an_upload_alive(ctx: &mut Context) {
    ctx.set("UPLOAD__IDLE_TIMEOUT", "1s");
    let api = ctx.start().await;
    let mut connection = RawConnection::open(api.address()).await;
    let headers = [("Content-Type", MULTIPART), ("Content-Length", "1000000")];
    connection.upload_head(&headers).await;
    for _ in 0..20 {
        let part = "--XX\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\nx\r\n";
        connection.send(part).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let reply = connection.answer().await.expect("an answer");
    reply.problem(408, "body-too-slow");
    well_and_empty(ctx, &api).await;
}

async fn thousands_of_parts(ctx: &mut Context) {
    let api = ctx.start().await;
    let text = ("Content-Disposition: form-data; name=\"t\"", &b""[..]);
    let empty = (
        "Content-Disposition: form-data; name=\"f\"; filename=\"\"",
        &b""[..],
    );
    let file = (FILE, &b"one file"[..]);
    let send = async |parts: Vec<(&str, &[u8])>| {
        let body = multipart_body("XX", &parts, true);
        api.upload_with(body, &[("content-type", MULTIPART)]).await
    };
    // Far more than the bound on what is no file, as parts of each kind.
    send(vec![text; 50_000])
        .await
        .problem(400, "malformed-multipart");
    send(vec![empty; 50_000])
        .await
        .problem(400, "malformed-multipart");
    send(vec![file; 50_000])
        .await
        .problem(413, "too-many-files");
    send(vec![(FILE, &b""[..]); 5000])
        .await
        .problem(400, "empty-file");
    send(vec![text; 10_000]).await.problem(400, "no-file");
    well_and_empty(ctx, &api).await;
    let mut parts = vec![text; 10_000];
    parts.push(file);
    let reply = send(parts).await.expect(201);
    assert_eq!(reply.json()["images"].as_array().map(Vec::len), Some(1));
}

/// 400 MB in a part of a form whose files may have 64 MiB, without any length.
async fn a_giant_part(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut connection = RawConnection::open(api.address()).await;
    let headers = [
        ("Content-Type", MULTIPART),
        ("Transfer-Encoding", "chunked"),
    ];
    connection.upload_head(&headers).await;
    let head = format!("--XX\r\n{FILE}\r\n\r\n");
    connection
        .send(format!("{:x}\r\n{head}\r\n", head.len()))
        .await;
    let megabyte = distinct_bytes(1024 * 1024);
    for _ in 0..400 {
        connection
            .send("100000\r\n")
            .await
            .send(&megabyte)
            .await
            .send("\r\n")
            .await;
    }
    if let Some(reply) = connection.answer().await {
        reply.problem(413, "body-too-large");
    }
    well_and_empty(ctx, &api).await;
}

async fn line_ends_and_boundaries(ctx: &mut Context) {
    let api = ctx.start().await;
    let good = String::from_utf8(multipart_body("XX", &[(FILE, b"bytes")], true));
    let good = good.expect("text");
    for (body, code) in [
        // Bare line feeds, everywhere or only round the boundary.
        (good.replace("\r\n", "\n"), "malformed-multipart"),
        (good.replacen("XX\r\n", "XX\n", 1), "malformed-multipart"),
        (good.replace("\r\n\r\n", "\n\n"), "incomplete-body"),
        // Another boundary, a longer one, one that only begins like it.
        (good.replace("--XX", "--YY"), "incomplete-body"),
        (good.replace("--XX", "--XXX"), "malformed-multipart"),
        (good.replace("--XX--", "--XX-"), "malformed-multipart"),
        (good.replace("--XX--", "--X--"), "incomplete-body"),
        (
            good.replace(
                "\r\n\r\n",
                "\r\nContent-Type: multipart/mixed; boundary=YY\r\n\r\n",
            ),
            "malformed-multipart",
        ),
        (
            good.replace("form-data;", "form-data\0;"),
            "malformed-multipart",
        ),
    ] {
        let reply = api
            .upload_with(body.clone(), &[("content-type", MULTIPART)])
            .await;
        assert_eq!(reply.status, 400, "{body:?}");
        reply.problem(400, code);
    }
    for boundary in ["", "\"", "a\"b", &"b".repeat(71), "é"] {
        let content_type = format!("multipart/form-data; boundary={boundary}");
        let reply = api
            .upload_with(good.clone(), &[("content-type", &content_type)])
            .await;
        reply.problem(400, "malformed-multipart");
    }
    well_and_empty(ctx, &api).await;
}

/// In a form, where a filename is bytes on a line, and in a header, where the library reads first.
async fn filenames_with_hostile_bytes(ctx: &mut Context) {
    let api = ctx.start().await;
    for name in [
        &b"a\0b"[..],
        b"a\r\nX-Injected: b",
        b"a\nb",
        b"a\rb",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"a\x1b[2Jb",
        b"a\x7fb",
        b"a\xc2\x85b",
        b"..",
        b"/",
    ] {
        let part = [
            b"Content-Disposition: form-data; name=\"f\"; filename=\"",
            name,
            b"\"",
        ]
        .concat();
        let body = [b"--XX\r\n", &part[..], b"\r\n\r\nbytes\r\n--XX--\r\n"].concat();
        let reply = api.upload_with(body, &[("content-type", MULTIPART)]).await;
        let shown = String::from_utf8_lossy(name);
        assert_eq!(reply.status, 400, "in a form: {shown:?}: {}", reply.text());
        assert!(
            reply.text().contains("malformed-multipart")
                || reply.text().contains("invalid-filename")
        );

        let head = b"POST /v1/images HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nContent-Disposition: attachment; filename=\"";
        let request = [&head[..], name, b"\"\r\n\r\nbytes"].concat();
        let statuses = exchange(&api, request).await;
        assert!(
            matches!(statuses[..], [] | [400]),
            "in a header: {shown:?}: {statuses:?}"
        );
    }
    well_and_empty(ctx, &api).await;
}

async fn many_silent_connections(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut open = Vec::new();
    for n in 0..300 {
        let mut connection = RawConnection::open(api.address()).await;
        match n % 3 {
            0 => {}
            1 => drop(connection.send("POST /v1/images HTTP/1.1\r\nHost").await),
            _ => {
                let headers = [("Content-Type", "text/plain"), ("Content-Length", "1000")];
                connection.upload_head(&headers).await.send("some").await;
            }
        }
        open.push(connection);
    }
    // The others are served meanwhile.
    let id = api.upload_id(small_png(4)).await;
    api.content(&id).await.expect(200);
    api.delete(&id).await.expect(200);
    drop(open);
    ctx.outside().await.rest().await;
    ctx.outside().await.sql("DELETE FROM images").await;
    well_and_empty(ctx, &api).await;
}
