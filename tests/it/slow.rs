//! Cases that take long or much: run when `HAPAX_TEST_SLOW` is set, by `.ci/run`.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream;
use sha2::{Digest, Sha256};

use crate::harness::{Api, Context, RawConnection, cases, seeded_bytes};

cases! {
    both: [sixty_four_uploads_of_64_mib_in_bounded_memory],
    sqlite_local: [clients_that_stop_are_cut],
}

const MIB: u64 = 1024 * 1024;
const BODY_BYTES: usize = 64 * MIB as usize;
const PIECE_BYTES: usize = 256 * 1024;
const BUDGET_BYTES: u64 = 256 * MIB;

/// A body of its own for every client, made while it is sent: this process keeps one piece of each.
async fn upload_64_mib(api: Api, seed: u64) -> (String, String) {
    let mut hash = Sha256::new();
    let mut piece = seeded_bytes(seed, PIECE_BYTES);
    for number in 0..BODY_BYTES / PIECE_BYTES {
        piece[..8].copy_from_slice(&number.to_le_bytes());
        hash.update(&piece);
    }
    let pieces = (0..BODY_BYTES / PIECE_BYTES).map(move |number| {
        piece[..8].copy_from_slice(&number.to_le_bytes());
        Ok::<_, Infallible>(Bytes::copy_from_slice(&piece))
    });
    let request = api
        .request(reqwest::Method::POST, "/v1/images")
        .header("content-type", "application/octet-stream")
        .header("content-length", BODY_BYTES)
        .body(reqwest::Body::wrap_stream(stream::iter(pieces)));
    let reply = api.send(request).await.expect(201);
    (reply.image_id(), hex::encode(hash.finalize()))
}

async fn sixty_four_uploads_of_64_mib_in_bounded_memory(ctx: &mut Context) {
    ctx.set("UPLOAD__MEMORY_BUDGET", "256 MiB");
    // 4 GiB to a slow disk: this case is about memory, not about time.
    for (name, value) in [
        ("UPLOAD__LEASE", "10m"),
        ("UPLOAD__PUT_DEADLINE", "10m"),
        ("STORAGE__S3__OPERATION_TIMEOUT", "5m"),
        ("UPLOAD__IDLE_TIMEOUT", "5m"),
    ] {
        ctx.set(name, value);
    }
    let api = ctx.start().await;
    let idle = ctx.server().resident_bytes().0;
    let uploads = join_all((0..64).map(|seed| upload_64_mib(api.clone(), 1000 + seed))).await;
    let (_, highest) = ctx.server().resident_bytes();
    println!(
        "\n{}: 64 uploads of 64 MiB at once: {} MiB resident at most ({} MiB idle, limit {} MiB)",
        ctx.backend,
        highest / MIB,
        idle / MIB,
        (BUDGET_BYTES + 96 * MIB) / MIB,
    );
    assert!(
        highest <= BUDGET_BYTES + 96 * MIB,
        "{} MiB resident",
        highest / MIB
    );
    for (id, hash) in &uploads {
        let image = api.image(id).await.expect(200).json();
        assert_eq!(image["content_hash"], *hash);
        assert_eq!(image["file_size"], BODY_BYTES);
    }
    // The end check reads all of them back; the disk gets its room again afterwards.
    let ids: Vec<String> = uploads.into_iter().map(|(id, _)| id).collect();
    assert_eq!(
        api.content(&ids[0]).await.expect(200).body.len(),
        BODY_BYTES
    );
    api.delete_many(&ids[1..]).await.expect(200);
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// A second head that never ends, and an answer that nobody takes: the library waits for neither's end,
/// so the server cuts them after the 85 s that an idle connection and a head have together.
async fn clients_that_stop_are_cut(ctx: &mut Context) {
    let api = ctx.start().await;
    let large = seeded_bytes(7, BODY_BYTES / 2);
    let id = api.upload_id(large.clone()).await;

    let mut dripping = RawConnection::open(api.address()).await;
    dripping
        .send("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    assert_eq!(dripping.answer().await.expect("an answer").status, 200);
    dripping.send("GET /healthz HTTP/1.1\r\n").await;
    let mut deaf = RawConnection::open(api.address()).await;
    let request = format!("GET /v1/images/{id}/content HTTP/1.1\r\nHost: h\r\n\r\n");
    deaf.send(request).await;
    // This one takes its time as well, but it takes what comes.
    let mut slow = RawConnection::open(api.address()).await;
    let request =
        format!("GET /v1/images/{id}/content HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    slow.send(request).await;
    let slow = async {
        let mut bytes = 0;
        for _ in 0..100 {
            bytes += slow.take_some(200 * 1024).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        bytes + slow.drained_within(Duration::from_secs(30)).await
    };
    let drip = async {
        for _ in 0..19 {
            dripping.send("X-A: b\r\n").await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        dripping.drained_within(Duration::from_secs(5)).await
    };
    let (slow_bytes, _) = futures::join!(slow, drip);
    assert!(
        slow_bytes > large.len(),
        "the slow one was cut: {slow_bytes}"
    );
    let deaf_bytes = deaf.drained_within(Duration::from_secs(5)).await;
    assert!(deaf_bytes < large.len(), "all of it was sent: {deaf_bytes}");
}
