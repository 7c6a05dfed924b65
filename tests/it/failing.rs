//! Dependencies that fail and come back: full disks, a database that stops, a store that refuses
//! connections. Each time: a clear 503 that says when to come again, nothing lost, nothing leaked, and
//! recovery without a restart.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::Value;

use crate::harness::{
    Action, Api, Context, Operation, Reply, cases, count_of, distinct_bytes, seeded_bytes,
    small_png,
};

cases! {
    both: [a_full_disk_under_the_spool],
    sqlite_local: [a_full_disk_under_the_store, a_full_disk_under_the_database],
    postgres_s3: [
        writes_are_refused_in_time_without_a_database,
        a_database_that_stops_during_a_put,
        a_database_that_restarts_under_load,
        connections_that_ended_are_replaced_unseen,
        few_connections_are_enough,
        a_store_that_refuses_connections,
        a_store_that_goes_away_during_a_put,
    ],
}

const MIB: u64 = 1024 * 1024;
/// Waiting for a connection to the database is given up after 10 s; a busy machine takes longer to say
/// so, but not as long as a client usually waits.
const REFUSED_WITHIN: Duration = Duration::from_secs(25);

/// A 503 with this code that says when to come again.
#[track_caller]
fn refused(reply: Reply, code: &str) -> Reply {
    let reply = reply.problem(503, code);
    assert!(reply.header("retry-after").is_some(), "when to come again");
    reply
}

async fn until_ready(api: &Api) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while api.get("/readyz").await.status != 200 {
        assert!(Instant::now() < deadline, "it does not become ready again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Why it is not ready, once it is not.
async fn unready_reason(api: &Api) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let reply = api.get("/readyz").await;
        if reply.status == 503 {
            return reply.json();
        }
        assert!(Instant::now() < deadline, "it stays ready");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn upload_as(api: &Api, key: &str, bytes: Vec<u8>) -> Reply {
    api.upload_with(bytes, &[("idempotency-key", key)]).await
}

/// Those that writers keep between their transactions, too, and those that were idle for long.
async fn connections_that_ended_are_replaced_unseen(ctx: &mut Context) {
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    let id = api.upload_id(distinct_bytes(900)).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()
                   AND application_name = 'hapax' AND state = 'idle'";
    for idle_for in [Duration::ZERO, Duration::from_millis(1500)] {
        tokio::time::sleep(idle_for).await;
        assert!(count_of(&outside, end).await > 0, "{idle_for:?}");
        api.upload(distinct_bytes(900)).await.expect(201);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    api.delete(&id).await.expect(200);
}

/// Writers keep none of them where there are only a few.
async fn few_connections_are_enough(ctx: &mut Context) {
    for connections in [1, 4] {
        ctx.set("DATABASE__MAX_CONNECTIONS", &connections);
        let api = ctx.start().await;
        let uploads = (0..20).map(async |_| {
            let id = api.upload_id(distinct_bytes(700)).await;
            api.content(&id).await.expect(200);
            api.delete(&id).await.expect(200);
        });
        join_all(uploads).await;
        assert!(ctx.server().stop().await.success());
    }
}

async fn a_full_disk_under_the_spool(ctx: &mut Context) {
    ctx.set("UPLOAD__MEMORY_THRESHOLD", "64 KiB");
    let api = ctx.start().await;
    let large = distinct_bytes(4 * MIB as usize);
    ctx.server().limit_file_size(Some(2 * MIB));
    for _ in 0..2 {
        let reply = upload_as(&api, "large", large.clone()).await;
        refused(reply, "spool-unavailable");
    }
    // What does not need the disk goes on.
    let id = api.upload_id(small_png(1)).await;
    api.content(&id).await.expect(200);
    ctx.spool_is_empty().await;

    ctx.server().limit_file_size(None);
    let reply = upload_as(&api, "large", large.clone()).await.expect(201);
    let content = api.content(&reply.image_id()).await.expect(200);
    assert_eq!(content.body, large);
}

async fn a_full_disk_under_the_store(ctx: &mut Context) {
    // The body stays in memory, so that only the object is a file.
    ctx.set("UPLOAD__MEMORY_THRESHOLD", "32 MiB");
    let api = ctx.start().await;
    let large = distinct_bytes(4 * MIB as usize);
    ctx.server().limit_file_size(Some(2 * MIB));
    refused(upload_as(&api, "large", large.clone()).await, "unavailable");
    let id = api.upload_id(small_png(2)).await;
    api.content(&id).await.expect(200);
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 1, "no half of an object");

    ctx.server().limit_file_size(None);
    let reply = upload_as(&api, "large", large.clone()).await.expect(201);
    let content = api.content(&reply.image_id()).await.expect(200);
    assert_eq!(content.body, large);
}

async fn a_full_disk_under_the_database(ctx: &mut Context) {
    let api = ctx.start().await;
    let id = api.upload_id(small_png(3)).await;
    // No page of the database or of its log can be written, and no line of the server's own log.
    ctx.server().limit_file_size(Some(4096));
    let began = Instant::now();
    let (new, duplicate, deletion) = futures::join!(
        upload_as(&api, "new", small_png(4)),
        upload_as(&api, "duplicate", small_png(3)),
        api.delete(&id),
    );
    for reply in [new, duplicate, deletion] {
        refused(reply, "unavailable");
    }
    assert!(
        began.elapsed() < 2 * REFUSED_WITHIN,
        "{:?}",
        began.elapsed()
    );
    // Whoever only reads notices nothing.
    api.image(&id).await.expect(200);
    api.content(&id).await.expect(200);
    api.get("/v1/stats").await.expect(200);

    ctx.server().limit_file_size(None);
    let new = upload_as(&api, "new", small_png(4)).await.expect(201);
    upload_as(&api, "duplicate", small_png(3)).await.expect(201);
    let deleted = api.delete(&id).await.expect(200).json();
    assert_eq!(deleted["original"]["reference_count"], 1);
    api.content(&new.image_id()).await.expect(200);
}

async fn writes_are_refused_in_time_without_a_database(ctx: &mut Context) {
    ctx.use_own_cluster().await;
    let api = ctx.start().await;
    let ids: Vec<String> = join_all((0..4).map(|n| api.upload_id(small_png(10 + n)))).await;
    ctx.own_cluster().stop();

    // More than one batch of every kind: nobody may wait behind somebody who waited in vain.
    let began = Instant::now();
    let uploads = join_all((0..20).map(|n| {
        let api = &api;
        async move { upload_as(api, &format!("k{n}"), seeded_bytes(n, 900)).await }
    }));
    let deletions = join_all(ids.iter().map(|id| api.delete(id)));
    let later = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let began = Instant::now();
        (api.upload(small_png(10)).await, began.elapsed())
    };
    let (uploads, deletions, (later, later_took)) = futures::join!(uploads, deletions, later);
    let took = began.elapsed();
    for reply in uploads.into_iter().chain(deletions).chain([later]) {
        refused(reply, "unavailable");
    }
    assert!(took < REFUSED_WITHIN, "{took:?}");
    assert!(later_took < REFUSED_WITHIN, "{later_took:?}");
    let reason = unready_reason(&api).await;
    assert!(reason.to_string().contains("database"), "{reason}");

    ctx.own_cluster().start();
    until_ready(&api).await;
    for n in 0..20 {
        upload_as(&api, &format!("k{n}"), seeded_bytes(n, 900))
            .await
            .expect(201);
    }
    for id in &ids {
        api.delete(id).await.expect(200);
    }
}

/// The bytes are in the store, and nobody can say so any more.
async fn a_database_that_stops_during_a_put(ctx: &mut Context) {
    ctx.use_own_cluster().await;
    let api = ctx.start().await;
    let bytes = distinct_bytes(5000);
    let mut hold = ctx.arm(Operation::Put, 1, Action::HoldAfter);
    let upload = tokio::spawn({
        let (api, bytes) = (api.clone(), bytes.clone());
        async move { upload_as(&api, "held", bytes).await }
    });
    hold.reached(1).await;
    ctx.own_cluster().stop();
    let began = Instant::now();
    drop(hold);
    refused(upload.await.expect("it does not panic"), "unavailable");
    assert!(began.elapsed() < REFUSED_WITHIN, "{:?}", began.elapsed());

    ctx.own_cluster().start();
    until_ready(&api).await;
    let reply = upload_as(&api, "held", bytes.clone()).await.expect(201);
    assert_eq!(api.content(&reply.image_id()).await.expect(200).body, bytes);
}

/// Every client comes again with its key until it has its answer; then every count is right.
async fn a_database_that_restarts_under_load(ctx: &mut Context) {
    ctx.use_own_cluster().await;
    let api = ctx.start().await;
    let contents: Vec<Vec<u8>> = (0..4).map(|_| distinct_bytes(3000)).collect();
    let client = async |client: usize| {
        for n in 0..15 {
            let bytes = &contents[(client + n) % contents.len()];
            let key = format!("client-{client}-{n}");
            let deadline = Instant::now() + Duration::from_secs(60);
            let id = loop {
                let reply = upload_as(&api, &key, bytes.clone()).await;
                if reply.status == 201 {
                    break reply.image_id();
                }
                refused(reply, "unavailable");
                assert!(Instant::now() < deadline, "{key} is never taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            };
            while n % 3 == 0 && api.delete(&id).await.status != 200 {
                assert!(Instant::now() < deadline, "{key} is never deleted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let restarts = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            ctx.own_cluster().stop();
            tokio::time::sleep(Duration::from_millis(700)).await;
            ctx.own_cluster().start();
        }
    };
    futures::join!(join_all((0..8).map(client)), restarts);
    // A connection that nobody used since the last restart says only now that it is gone.
    let deadline = Instant::now() + Duration::from_secs(60);
    let live = loop {
        let reply = api.get("/v1/stats").await;
        if reply.status == 200 {
            break reply.json();
        }
        refused(reply, "unavailable");
        assert!(Instant::now() < deadline, "it is never asked again");
    };
    assert_eq!(live["images"], 8 * 10);
    ctx.outside().await.end_holds().await;
}

async fn a_store_that_refuses_connections(ctx: &mut Context) {
    ctx.use_store_relay();
    let api = ctx.start().await;
    let stored = small_png(20);
    let id = api.upload_id(stored.clone()).await;
    let gone = api.upload_id(small_png(21)).await;

    ctx.store_relay().stop();
    let began = Instant::now();
    refused(upload_as(&api, "new", small_png(22)).await, "unavailable");
    refused(api.content(&id).await, "store-unavailable");
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    // What needs no bytes goes on, and the server is ready for it.
    api.upload(stored.clone()).await.expect(201);
    api.image(&id).await.expect(200);
    api.delete(&gone).await.expect(200);
    api.get("/readyz").await.expect(200);

    ctx.store_relay().start();
    assert_eq!(api.content(&id).await.expect(200).body, stored);
    upload_as(&api, "new", small_png(22)).await.expect(201);
    // The end check sees that what was deleted meanwhile has gone from the store.
}

async fn a_store_that_goes_away_during_a_put(ctx: &mut Context) {
    ctx.use_store_relay();
    let api = ctx.start().await;
    let bytes = distinct_bytes(400_000);
    let mut hold = ctx.arm(Operation::Put, 1, Action::HoldAfter);
    let upload = tokio::spawn({
        let (api, bytes) = (api.clone(), bytes.clone());
        async move { upload_as(&api, "cut", bytes).await }
    });
    hold.reached(1).await;
    ctx.store_relay().stop();
    refused(upload.await.expect("it does not panic"), "unavailable");
    drop(hold);
    ctx.store_relay().start();
    let reply = upload_as(&api, "cut", bytes.clone()).await.expect(201);
    assert_eq!(api.content(&reply.image_id()).await.expect(200).body, bytes);
}
