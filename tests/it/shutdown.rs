//! Stops: asked for, and not asked for.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;

use crate::harness::{Api, Context, RawConnection, cases, distinct_bytes, sha256_hex};

cases! {
    both: [
        sigterm_under_load,
        sigint_stops_as_well,
        a_drain_refuses_nothing_that_was_begun_and_ends_in_time,
        kill_nine_amid_two_hundred_uploads,
        kill_nine_amid_deletions,
    ],
}

/// Every upload that was started before the signal is answered, and the process exits with 0.
async fn sigterm_under_load(ctx: &mut Context) {
    let api = ctx.start().await;
    let bodies: Vec<Vec<u8>> = (0..40).map(|_| distinct_bytes(300_000)).collect();
    let mut begun = Vec::new();
    for body in &bodies {
        let mut connection = RawConnection::open(api.address()).await;
        connection
            .upload_head(&[
                ("Content-Type", "application/octet-stream"),
                ("Content-Length", &body.len().to_string()),
            ])
            .await
            .send(&body[..100_000])
            .await;
        begun.push(connection);
    }
    // The server has read what was sent: an answer on a later connection says so.
    api.get("/healthz").await.expect(200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    ctx.server().terminate();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let rests = begun
        .iter_mut()
        .zip(&bodies)
        .map(|(connection, body)| async move {
            for piece in body[100_000..].chunks(50_000) {
                connection.send(piece).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            connection
                .answer()
                .await
                .expect("a started upload is answered")
                .expect(201)
        });
    let replies = join_all(rests).await;
    let status = ctx.server().exited().await;
    assert_eq!(status.code(), Some(0), "{status}");
    for (reply, body) in replies.iter().zip(&bodies) {
        assert_eq!(reply.json()["content_hash"], sha256_hex(body));
    }
    let outside = ctx.outside().await;
    assert_eq!(outside.images().await.len(), 40);
}

async fn sigint_stops_as_well(ctx: &mut Context) {
    let api = ctx.start().await;
    let body = distinct_bytes(10_000);
    let mut connection = RawConnection::open(api.address()).await;
    connection
        .upload_head(&[("Content-Type", "text/plain"), ("Content-Length", "10000")])
        .await
        .send(&body[..5000])
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    ctx.server().signal("INT");
    tokio::time::sleep(Duration::from_millis(200)).await;
    connection.send(&body[5000..]).await;
    connection
        .answer()
        .await
        .expect("it is answered")
        .expect(201);
    assert_eq!(ctx.server().exited().await.code(), Some(0));
}

/// A client that never ends its upload does not keep the server from stopping, and a server that
/// drains says that it is not ready, or nothing at all.
async fn a_drain_refuses_nothing_that_was_begun_and_ends_in_time(ctx: &mut Context) {
    ctx.set("SERVER__DRAIN_TIMEOUT", "3s");
    let api = ctx.start().await;
    let mut connection = RawConnection::open(api.address()).await;
    connection
        .upload_head(&[("Content-Type", "text/plain"), ("Content-Length", "10000")])
        .await
        .send("and then nothing")
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    ctx.server().terminate();
    tokio::time::sleep(Duration::from_millis(300)).await;
    if let Ok(reply) = api
        .try_send(api.request(reqwest::Method::GET, "/readyz"))
        .await
    {
        assert_eq!(reply.status, 503, "{}", reply.text());
    }
    let began = std::time::Instant::now();
    ctx.server().exited().await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    drop(connection);
    ctx.start().await;
    let outside = ctx.outside().await;
    assert_eq!(outside.images().await, []);
}

/// Uploads until the server is gone; what was acknowledged.
async fn upload_until_gone(api: &Api, contents: &[Vec<u8>]) -> Vec<(String, usize)> {
    let uploads = contents
        .iter()
        .enumerate()
        .map(|(which, bytes)| async move {
            let request = api.request(reqwest::Method::POST, "/v1/images");
            let request = request
                .header("content-type", "application/octet-stream")
                .body(bytes.clone());
            let reply = api.try_send(request).await.ok()?;
            Some((reply.expect(201).image_id(), which))
        });
    let done = stream::iter(uploads)
        .buffer_unordered(32)
        .collect::<Vec<_>>()
        .await;
    done.into_iter().flatten().collect()
}

async fn kill_nine_amid_two_hundred_uploads(ctx: &mut Context) {
    ctx.set("UPLOAD__MEMORY_THRESHOLD", "64 KiB");
    // Every third content comes twice.
    let contents: Vec<Vec<u8>> = (0..200)
        .map(|n| match n % 3 {
            2 => crate::harness::seeded_bytes(90_000 + n / 6, 150_000),
            _ => distinct_bytes(100_000 + 300 * n as usize),
        })
        .collect();
    let mut acknowledged = Vec::new();
    for wait in [150, 400] {
        let api = ctx.start().await;
        let uploads = upload_until_gone(&api, &contents);
        let kill = async {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            ctx.server().kill();
        };
        acknowledged.extend(futures::join!(uploads, kill).0);
    }

    let api = ctx.start().await;
    for (id, which) in &acknowledged {
        let reply = api.content(id).await.expect(200);
        assert!(
            reply.body == contents[*which],
            "acknowledged image {id} is whole"
        );
    }
    ctx.outside().await.rest().await;
    ctx.hapax(&["verify", "--deep"]).exits_with(0);
}

async fn kill_nine_amid_deletions(ctx: &mut Context) {
    let api = ctx.start().await;
    let contents: Vec<Vec<u8>> = (0..100).map(|_| distinct_bytes(2000)).collect();
    let uploaded = upload_until_gone(&api, &contents).await;
    assert_eq!(uploaded.len(), 100);
    let deletions = uploaded.iter().map(|(id, _)| {
        let request = api.request(reqwest::Method::DELETE, &format!("/v1/images/{id}"));
        let (api, id) = (api.clone(), id.clone());
        async move {
            let reply = api.try_send(request).await.ok()?;
            reply.expect(200);
            Some(id)
        }
    });
    let deletions = stream::iter(deletions)
        .buffer_unordered(16)
        .collect::<Vec<_>>();
    let kill = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        ctx.server().kill();
    };
    let acknowledged: Vec<String> = futures::join!(deletions, kill)
        .0
        .into_iter()
        .flatten()
        .collect();

    let api = ctx.start().await;
    for id in &acknowledged {
        api.image(id).await.problem(410, "image-deleted");
    }
    ctx.outside().await.rest().await;
    ctx.hapax(&["verify", "--deep"]).exits_with(0);
}
