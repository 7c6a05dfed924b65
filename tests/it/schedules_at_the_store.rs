//! The protocol's schedules on the wire: forced by holding, refusing and un-answering S3 calls at the
//! gate, by stopping and killing servers, and by cutting the database's connections.

use std::time::Duration;

use futures::future::join_all;

use crate::harness::{
    Action, Api, Context, FilePart, Hold, Operation, Reply, cases, distinct_bytes, seeded_bytes,
    sha256_hex,
};

cases! {
    postgres_s3: [
        a_delete_held_on_the_wire,
        a_crash_before_the_put_is_answered,
        a_put_lands_after_its_sender_died,
        a_delete_lands_after_its_time_out,
        a_put_lands_after_its_time_out,
        puts_done_and_answered_by_an_error,
        puts_refused_every_time,
        a_writer_frozen_past_its_deadline,
        two_nodes_put_at_once,
        one_node_dies_and_the_other_tidies_up,
        connections_are_cut_while_batches_run,
        a_client_leaves_while_the_put_is_held,
        a_scrub_while_the_put_is_held,
    ],
}

/// Sends an upload while the case goes on; its answer, if one comes before the connection ends.
fn upload_in_background(api: &Api, bytes: Vec<u8>) -> impl Future<Output = Option<Reply>> + use<> {
    let request = api
        .request(reqwest::Method::POST, "/v1/images")
        .header("content-type", "application/octet-stream")
        .body(bytes);
    let api = api.clone();
    let task = tokio::spawn(async move { api.try_send(request).await.ok() });
    async { task.await.expect("sending does not panic") }
}

async fn a_delete_held_on_the_wire(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(30_000);
    let id = api.upload_id(bytes.clone()).await;
    let mut held = hold_deletes(ctx, Action::HoldBefore);
    api.delete(&id).await.expect(200);
    held.reached(1).await;

    let second = api.upload(bytes.clone()).await.expect(201);
    assert_eq!(
        second.header("x-dedup").as_deref(),
        Some("miss"),
        "a new generation"
    );
    held.release();
    ctx.disarm();
    ctx.outside().await.rest().await;
    assert_eq!(
        api.content(&second.image_id()).await.expect(200).body,
        bytes
    );
}

/// Holds the next deletion of objects, whichever call it comes by.
fn hold_deletes(ctx: &Context, action: Action) -> Hold {
    ctx.arm(Operation::DeleteMany, 1, action)
}

/// The server dies between the PUT and its commit: the object has a row, and goes.
async fn a_crash_before_the_put_is_answered(ctx: &mut Context) {
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    let mut held = ctx.arm(Operation::Put, 1, Action::HoldAfter);
    let upload = upload_in_background(&api, distinct_bytes(10_000));
    held.reached(1).await;
    assert_eq!(outside.object_count().await, 1, "the object is there");
    ctx.server().kill();
    held.release();
    upload.await;
    ctx.start().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
    assert_eq!(outside.images().await, []);
}

async fn a_put_lands_after_its_sender_died(ctx: &mut Context) {
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    let mut held = ctx.arm(Operation::Put, 1, Action::HoldBefore);
    let upload = upload_in_background(&api, distinct_bytes(10_000));
    held.reached(1).await;
    ctx.server().kill();
    upload.await;
    ctx.start().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The request was on the wire: it lands after the server that sent it died.
    held.release();
    tokio::time::sleep(Duration::from_millis(300)).await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
}

/// The reaper's DELETE is on the wire when the content comes again; it lands after the new PUT.
async fn a_delete_lands_after_its_time_out(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(10_000);
    let id = api.upload_id(bytes.clone()).await;
    let mut held = hold_deletes(ctx, Action::HoldBefore);
    api.delete(&id).await.expect(200);
    held.reached(1).await;
    // Longer than the server waits for an answer: it does not know what became of the call.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let second = api.upload_id(bytes.clone()).await;
    held.release();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(api.content(&second).await.expect(200).body, bytes);
}

/// A PUT that timed out lands after its row was given up: the object does not stay.
async fn a_put_lands_after_its_time_out(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(10_000);
    let mut held = ctx.arm(Operation::Put, 1, Action::HoldBefore);
    let reply = {
        let upload = api.upload(bytes.clone());
        let reached = held.reached(1);
        let (reply, ()) = futures::join!(upload, reached);
        reply.expect(201)
    };
    // The second generation is stored and even deleted again before the first PUT lands.
    api.delete(&reply.image_id()).await.expect(200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    held.release();
    let outside = ctx.outside().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(outside.object_count().await, 1, "the late one has landed");
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
    assert_eq!(outside.originals().await, []);
}

/// The store has the bytes, but said 500: another generation is stored, the first goes.
async fn puts_done_and_answered_by_an_error(ctx: &mut Context) {
    let api = ctx.start().await;
    for status in [500, 503, 403] {
        let bytes = distinct_bytes(10_000);
        let _armed = ctx.arm(Operation::Put, 1, Action::DoAndAnswer(status));
        let id = api.upload_id(bytes.clone()).await;
        assert_eq!(api.content(&id).await.expect(200).body, bytes);
        let row = ctx
            .outside()
            .await
            .stored(&sha256_hex(&bytes))
            .await
            .expect("stored");
        assert_eq!(row.reference_count, 1);
    }
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 3);
}

/// After three tries the client is told to come again; nothing is left, and coming again works.
async fn puts_refused_every_time(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(10_000);
    let before = ctx.s3_calls(Operation::Put);
    let armed = ctx.arm(Operation::Put, usize::MAX, Action::Refuse(503));
    let reply = api.upload(bytes.clone()).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.header("retry-after").is_some());
    assert_eq!(
        ctx.s3_calls(Operation::Put) - before,
        3,
        "a new generation for each try"
    );
    ctx.disarm();
    drop(armed);
    let files = [
        FilePart::new("a", bytes),
        FilePart::new("b", distinct_bytes(100)),
    ];
    api.upload_files(&files, None).await.expect(201);
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 2);
}

/// A node that is frozen until its lease and its deadline are over may not commit what it wrote.
async fn a_writer_frozen_past_its_deadline(ctx: &mut Context) {
    let slow = ctx.start().await;
    let quick = ctx.start().await;
    let bytes = distinct_bytes(10_000);
    let mut held = ctx.arm(Operation::Put, 1, Action::HoldAfter);
    let upload = upload_in_background(&slow, bytes.clone());
    held.reached(1).await;
    ctx.servers()[0].signal("STOP");
    held.release();
    let outside = ctx.outside().await;
    // The other node takes the row and its object.
    outside.rest().await;
    assert_eq!(outside.originals().await, []);
    let other = quick.upload_id(bytes.clone()).await;
    ctx.servers()[0].signal("CONT");
    let reply = upload.await.expect("the writer answers after all");
    if reply.status == 201 {
        assert_eq!(
            slow.content(&reply.image_id()).await.expect(200).body,
            bytes
        );
    } else {
        assert_eq!(reply.status, 503, "{}", reply.text());
    }
    assert_eq!(quick.content(&other).await.expect(200).body, bytes);
}

/// Both nodes write the same content at the same time: one of the two is kept, for both.
async fn two_nodes_put_at_once(ctx: &mut Context) {
    let nodes = [ctx.start().await, ctx.start().await];
    let bytes = distinct_bytes(10_000);
    let mut held = ctx.arm(Operation::Put, 2, Action::HoldAfter);
    let uploads = join_all(nodes.iter().map(|api| api.upload(bytes.clone())));
    let release = async {
        held.reached(2).await;
        held.release();
    };
    let (replies, ()) = futures::join!(uploads, release);
    let images: Vec<_> = replies
        .into_iter()
        .map(|reply| reply.expect(201).json())
        .collect();
    assert_eq!(
        images[0]["original_image_id"],
        images[1]["original_image_id"]
    );
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 1);
    let row = outside.stored(&sha256_hex(&bytes)).await.expect("stored");
    assert_eq!(row.reference_count, 2);
}

async fn one_node_dies_and_the_other_tidies_up(ctx: &mut Context) {
    let nodes = [ctx.start().await, ctx.start().await];
    let mut held = ctx.arm(Operation::Put, 5, Action::HoldAfter);
    let uploads: Vec<_> = (0..5)
        .map(|_| upload_in_background(&nodes[0], distinct_bytes(5000)))
        .collect();
    held.reached(5).await;
    ctx.servers()[0].kill();
    held.release();
    join_all(uploads).await;
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
    nodes[1].upload(distinct_bytes(10)).await.expect(201);
}

/// Connections of the database are cut while transactions run: answers are 201, or 503 and then the
/// retry with the same key finds out what happened.
async fn connections_are_cut_while_batches_run(ctx: &mut Context) {
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    let shared = distinct_bytes(2000);
    api.upload(shared.clone()).await.expect(201);
    let upload = |n: u64| {
        let (api, shared) = (api.clone(), &shared);
        async move {
            let bytes = if n.is_multiple_of(2) {
                shared.clone()
            } else {
                seeded_bytes(700 + n, 2000)
            };
            let key = format!("unknown-{n}");
            for _ in 0..200 {
                let reply = api
                    .upload_with(bytes.clone(), &[("idempotency-key", &key)])
                    .await;
                if reply.status == 201 {
                    return reply.image_id();
                }
                assert_eq!(reply.status, 503, "{}", reply.text());
                assert!(reply.header("retry-after").is_some());
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            panic!("no upload in 200 tries");
        }
    };
    let cut = async {
        for _ in 0..25 {
            outside
                .sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND state <> 'idle'
                     AND pid <> pg_backend_pid()",
                )
                .await;
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    };
    let waves = async {
        let mut ids = Vec::new();
        for wave in 0..8 {
            ids.extend(join_all((0..16).map(|n| upload(wave * 16 + n))).await);
        }
        ids
    };
    let (ids, ()) = futures::join!(waves, cut);
    let live = outside.images().await.len();
    assert_eq!(live, ids.len() + 1, "one image for each key, and the first");
    let row = outside.stored(&sha256_hex(&shared)).await.expect("stored");
    assert_eq!(row.reference_count, 1 + ids.len() as i64 / 2);
}

/// From the end of the body on no disconnect can drop the work.
async fn a_client_leaves_while_the_put_is_held(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(10_000);
    let mut held = ctx.arm(Operation::Put, 1, Action::HoldAfter);
    {
        let upload = api.upload(bytes.clone());
        let reached = held.reached(1);
        tokio::select! {
            _ = upload => panic!("it is held"),
            () = reached => {}
        }
        // Here the request is dropped, and its connection with it.
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    held.release();
    let outside = ctx.outside().await;
    outside.rest().await;
    let row = outside
        .stored(&sha256_hex(&bytes))
        .await
        .expect("stored all the same");
    assert_eq!(row.reference_count, 1);
}

async fn a_scrub_while_the_put_is_held(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(10_000);
    let mut held = ctx.arm(Operation::Put, 1, Action::HoldAfter);
    let upload = api.upload(bytes.clone());
    let scrub = async {
        held.reached(1).await;
        // The object is there, its row is not committed as stored.
        let output = ctx.hapax_beside(&["verify", "--repair"]).await;
        held.release();
        output.exits_with(0)
    };
    let (reply, _) = futures::join!(upload, scrub);
    let id = reply.expect(201).image_id();
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
}
