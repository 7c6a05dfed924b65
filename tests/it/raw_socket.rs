//! Requests that no proper client sends, written to the socket byte by byte: broken heads, lies about
//! lengths, smuggled requests, slow and endless ones. `raw_bodies` has the same for what
//! comes after a head, `bad_bodies` what is wrong within a body that comes as it should.
//!
//! Where the HTTP library itself refuses (`docs/api.md`, "Errors"), the answer is a bare status or a
//! closed connection; everywhere else it is a problem document. After each case: nothing is left, the
//! server is well, and its memory is what it was.

use std::time::{Duration, Instant};

use crate::harness::{Api, Context, RawConnection, cases, small_png};

cases! {
    sqlite_local: [
        smuggled_requests_are_never_served,
        heads_that_are_no_http,
        header_floods,
        lengths_that_lie,
        chunks_that_lie,
        endless_extensions_and_trailers,
        trailers_change_nothing,
        a_client_that_closes_its_half_gets_its_answer,
        pipelined_requests_are_answered_in_order,
        nothing_after_a_refused_body_is_served,
        a_refusal_comes_before_the_body,
        a_slow_head,
    ],
}

/// More than a server of these tests needs, less than any of the floods sends or announces.
const MEMORY_LIMIT: u64 = 200 * 1024 * 1024;

/// The server answers, holds no more memory than it may, and nothing was stored.
pub(crate) async fn well_and_empty(ctx: &mut Context, api: &Api) {
    api.get("/healthz").await.expect(200);
    api.get("/readyz").await.expect(200);
    let (_, highest) = ctx.server().resident_bytes();
    assert!(highest < MEMORY_LIMIT, "{highest} bytes of memory");
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.images().await, [], "no image");
    assert_eq!(outside.object_count().await, 0, "no object");
    ctx.spool_is_empty().await;
}

/// One request as it is; every answer until the server closes.
pub(crate) async fn exchange(api: &Api, request: impl AsRef<[u8]>) -> Vec<u16> {
    let mut connection = RawConnection::open(api.address()).await;
    connection.send(request).await.finish_sending().await;
    let replies = connection.answers_until_close().await;
    replies.iter().map(|reply| reply.status).collect()
}

/// Two readings of where a request ends are how a second one passes a proxy unseen.
async fn smuggled_requests_are_never_served(ctx: &mut Context) {
    let api = ctx.start().await;
    let id = api.upload_id(small_png(1)).await;
    let smuggled = format!("DELETE /v1/images/{id} HTTP/1.1\r\nHost: hapax\r\n\r\n");
    let length = smuggled.len();
    for framing in [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}\nTransfer-Encoding: chunked\r\n"),
        format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: 0\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: 0, {length}\r\n"),
        "Content-Length: +0\r\n".to_owned(),
        "Content-Length: -0\r\n".to_owned(),
        "Content-Length: 0x0\r\n".to_owned(),
        "Content-Length: \r\n".to_owned(),
        "Content-Length: 99999999999999999999999\r\n".to_owned(),
        format!("Content-Length : {length}\r\n"),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        "Transfer-Encoding: \"chunked\"\r\n".to_owned(),
        "Transfer-Encoding:\r\n chunked\r\n".to_owned(),
        "Transfer-Encoding: identity\r\n".to_owned(),
        "X-Folded: a\r\n b\r\n".to_owned(),
        "Host: other\r\n".to_owned(),
    ] {
        let head = format!("POST /v1/images HTTP/1.1\r\nHost: hapax\r\n{framing}\r\n");
        // Once for those who read chunks, once for those who read a length.
        for body in [format!("0\r\n\r\n{smuggled}"), smuggled.clone()] {
            let statuses = exchange(&api, head.clone() + &body).await;
            assert!(
                matches!(statuses[..], [] | [400]),
                "{framing:?}: {statuses:?}"
            );
        }
    }
    api.image(&id).await.expect(200);
    api.delete(&id).await.expect(200);
    ctx.outside().await.rest().await;
    ctx.outside().await.sql("DELETE FROM images").await;
    well_and_empty(ctx, &api).await;
}

async fn heads_that_are_no_http(ctx: &mut Context) {
    let api = ctx.start().await;
    let tls = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    for head in [
        &b"\r\n\r\n\r\n"[..],
        &tls,
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: h\r\n\r\n",
        b"GET  /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: h\r\nNo colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: h\r\nX\0: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: h\r\n: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\rHost: h\r\r",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"POST /v1/images HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let statuses = exchange(&api, head).await;
        let shown = String::from_utf8_lossy(head);
        assert!(
            matches!(statuses[..], [] | [400]),
            "{shown:?}: {statuses:?}"
        );
    }
    // Odd, and HTTP all the same: these are problems.
    for (target, status) in [
        ("*", 404),
        ("/%", 404),
        ("//v1/images", 404),
        ("/\u{e9}", 404),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut connection = RawConnection::open(api.address()).await;
        connection.send(head).await.finish_sending().await;
        if let Some(reply) = connection.answer().await
            && reply.status != 400
        {
            assert_eq!(reply.status, status, "{target}");
            assert_eq!(
                reply.header("content-type").as_deref(),
                Some("application/problem+json")
            );
        }
    }
    well_and_empty(ctx, &api).await;
}

async fn header_floods(ctx: &mut Context) {
    let api = ctx.start().await;
    let head = |headers: String| format!("GET /v1/images HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    assert_eq!(exchange(&api, head("X-A: b\r\n".repeat(90))).await, [200]);
    for headers in [
        "X-A: b\r\n".repeat(97),
        "X-A: b\r\n".repeat(100_000),
        format!("X-A: {}\r\n", "b".repeat(200_000)),
        format!("{}: b\r\n", "X".repeat(200_000)),
        format!("X-A: {}", "b".repeat(3_000_000)),
    ] {
        let shown = format!("{headers:.20} of {} bytes", headers.len());
        let statuses = exchange(&api, head(headers)).await;
        assert!(
            matches!(statuses[..], [] | [400 | 431]),
            "{shown}: {statuses:?}"
        );
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(100_000));
    let statuses = exchange(&api, long).await;
    assert!(
        matches!(statuses[..], [] | [400 | 404 | 414 | 431]),
        "{statuses:?}"
    );
    well_and_empty(ctx, &api).await;
}

async fn lengths_that_lie(ctx: &mut Context) {
    let api = ctx.start().await;
    let post = |length: &str, body: &str| {
        format!(
            "POST /v1/images HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    // Longer than what comes: incomplete. The largest number there is: over the limit at once.
    assert_eq!(exchange(&api, post("6", "hello")).await, [400]);
    for length in ["67108865", "9223372036854775808", "18446744073709551615"] {
        assert_eq!(
            exchange(&api, post(length, "hello")).await,
            [413],
            "{length}"
        );
    }
    // The rest of a body that was declared too short is no request, and none of the file.
    let mut connection = RawConnection::open(api.address()).await;
    connection
        .send(post("5", "hello, world"))
        .await
        .finish_sending()
        .await;
    let replies = connection.answers_until_close().await;
    assert_eq!(replies[0].status, 201);
    assert_eq!(replies[0].json()["file_size"], 5);
    assert!(replies[1..].iter().all(|reply| reply.status == 400));
    let id = replies[0].image_id();
    assert_eq!(&api.content(&id).await.expect(200).body[..], b"hello");
    api.delete(&id).await.expect(200);
    ctx.outside().await.rest().await;
    ctx.outside().await.sql("DELETE FROM images").await;
    well_and_empty(ctx, &api).await;
}

/// What follows the head of a chunked upload; whatever it is, nothing of it is kept.
async fn refused_chunks(api: &Api, chunks: &[u8]) {
    let mut connection = RawConnection::open(api.address()).await;
    let headers = [
        ("Content-Type", "text/plain"),
        ("Transfer-Encoding", "chunked"),
    ];
    connection.upload_head(&headers).await.send(chunks).await;
    connection.finish_sending().await;
    for reply in connection.answers_until_close().await {
        let shown = String::from_utf8_lossy(chunks);
        assert!(
            matches!(reply.status, 400 | 413),
            "{shown:.60}: {}",
            reply.status
        );
    }
}

async fn chunks_that_lie(ctx: &mut Context) {
    let api = ctx.start().await;
    for chunks in [
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000000\r\nhello\r\n0\r\n\r\n",
        "0000000000000000000000000000005\r\nhel",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\n",
    ] {
        refused_chunks(&api, chunks.as_bytes()).await;
    }
    well_and_empty(ctx, &api).await;
}

/// The library reads and drops them without any bound: they bring no byte of the body, so the limit on
/// silence ends them.
async fn endless_extensions_and_trailers(ctx: &mut Context) {
    ctx.set("UPLOAD__IDLE_TIMEOUT", "1s");
    let api = ctx.start().await;
    for (begin, more) in [("5;", "name=value"), ("5\r\nhello\r\n0\r\n", "X-A: b\r\n")] {
        let mut connection = RawConnection::open(api.address()).await;
        let headers = [
            ("Content-Type", "text/plain"),
            ("Transfer-Encoding", "chunked"),
        ];
        connection.upload_head(&headers).await.send(begin).await;
        let flood = more.repeat(20_000);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1500) {
            connection.send(&flood).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if let Some(reply) = connection.answer().await {
            reply.problem(408, "body-too-slow");
        }
    }
    well_and_empty(ctx, &api).await;
}

async fn trailers_change_nothing(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut connection = RawConnection::open(api.address()).await;
    let headers = [
        ("Content-Type", "text/plain"),
        ("Transfer-Encoding", "chunked"),
    ];
    connection
        .upload_head(&headers)
        .await
        .send("5;ext=1\r\nhello\r\n0\r\nContent-Length: 1\r\nAuthorization: x\r\n\r\n")
        .await
        // The connection is in step: the next request is read as one.
        .send("GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    let replies = connection.answers_until_close().await;
    assert_eq!(
        replies.iter().map(|r| r.status).collect::<Vec<_>>(),
        [201, 200]
    );
    let content = api.content(&replies[0].image_id()).await.expect(200);
    assert_eq!(&content.body[..], b"hello");
}

async fn a_client_that_closes_its_half_gets_its_answer(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(2);
    let mut connection = RawConnection::open(api.address()).await;
    let length = bytes.len().to_string();
    connection
        .upload_head(&[("Content-Type", "image/png"), ("Content-Length", &length)])
        .await
        .send(&bytes)
        .await
        .finish_sending()
        .await;
    let replies = connection.answers_until_close().await;
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].status, 201, "{}", replies[0].text());
}

async fn pipelined_requests_are_answered_in_order(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut text = String::new();
    for n in 0..40 {
        let (head, body) = match n % 2 {
            0 => ("POST /v1/images", format!("content {n}")),
            _ => ("GET /v1/stats", String::new()),
        };
        let length = body.len();
        text += &format!(
            "{head} HTTP/1.1\r\nHost: h\r\nX-Request-Id: n{n}\r\nContent-Type: text/plain\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
    }
    let mut connection = RawConnection::open(api.address()).await;
    connection.send(text).await.finish_sending().await;
    let replies = connection.answers_until_close().await;
    assert_eq!(replies.len(), 40);
    for (n, reply) in replies.iter().enumerate() {
        assert_eq!(reply.header("x-request-id"), Some(format!("n{n}")));
        assert_eq!(reply.status, if n % 2 == 0 { 201 } else { 200 });
    }
}

/// A refused body is not a place to hide a request in, and ends its connection.
async fn nothing_after_a_refused_body_is_served(ctx: &mut Context) {
    let api = ctx.start().await;
    let id = api.upload_id(small_png(3)).await;
    let hidden = format!("DELETE /v1/images/{id} HTTP/1.1\r\nHost: hapax\r\n\r\n");
    let length = hidden.len();
    for (head, status) in [
        (
            format!(
                "Content-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: {length}"
            ),
            415,
        ),
        (
            "Content-Type: text/plain\r\nContent-Length: 99999999999".to_owned(),
            413,
        ),
        (
            format!("Content-Type: multipart/form-data\r\nContent-Length: {length}"),
            400,
        ),
        (
            format!(
                "Content-Type: text/plain\r\nRepr-Digest: sha-256=x\r\nContent-Length: {length}"
            ),
            400,
        ),
    ] {
        let request =
            format!("POST /v1/images HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n{hidden}{hidden}");
        let mut connection = RawConnection::open(api.address()).await;
        connection.send(request).await.finish_sending().await;
        let replies = connection.answers_until_close().await;
        assert_eq!(replies[0].status, status, "{head}");
        // What the library had read already is answered, and not done.
        assert!(
            replies[1..]
                .iter()
                .all(|reply| matches!(reply.status, 400 | 503))
        );
        assert_eq!(replies[0].header("connection").as_deref(), Some("close"));
    }
    api.image(&id).await.expect(200);
    api.delete(&id).await.expect(200);
    ctx.outside().await.rest().await;
    ctx.outside().await.sql("DELETE FROM images").await;
    well_and_empty(ctx, &api).await;
}

async fn a_refusal_comes_before_the_body(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut connection = RawConnection::open(api.address()).await;
    let headers = [
        ("Content-Type", "text/plain"),
        ("Content-Length", "99999999999"),
        ("Expect", "100-continue"),
    ];
    connection.upload_head(&headers).await;
    let reply = connection.answer().await.expect("an answer");
    reply.problem(413, "body-too-large");
    well_and_empty(ctx, &api).await;
}

/// Ten seconds for a head, however many bytes of it drip in.
async fn a_slow_head(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut connection = RawConnection::open(api.address()).await;
    let began = Instant::now();
    connection.send("GET /healthz HTTP/1.1\r\n").await;
    while began.elapsed() < Duration::from_secs(9) {
        connection.send("X-A: b\r\n").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let statuses: Vec<u16> = connection
        .answers_until_close()
        .await
        .iter()
        .map(|reply| reply.status)
        .collect();
    assert_eq!(statuses, [408]);
    assert!(began.elapsed() < Duration::from_secs(15));
    well_and_empty(ctx, &api).await;
}
