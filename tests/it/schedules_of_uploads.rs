//! The protocol's schedules by name: what happens between a body's end and its commit. Each
//! interleaving is forced at the seams: nothing here is left to luck or to time.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;

use crate::harness::{
    Api, Context, Event, Filter, Outside, RawConnection, SeamControl, Times, Verdict, cases,
    distinct_bytes, dropped_by, sha256_hex, uploading, within,
};

cases! {
    both: [
        seed_crash_after_put,
        crash_before_put,
        late_put_after_delete,
        put_stored_but_not_answered,
        put_refused_every_time,
        paused_writer_past_deadline,
        paused_writer_whose_row_was_condemned,
        two_nodes_same_new_hash,
        disconnect_between_steps,
        a_slow_body_costs_no_call,
    ],
    postgres_s3: [paused_writer_finds_the_content_stored],
}

/// What is given up is removed for good when no PUT can land any more: soon, here.
fn give_up_soon(ctx: &mut Context) {
    ctx.set("STORAGE__S3__OPERATION_TIMEOUT", "1s");
    ctx.set("UPLOAD__LEASE", "2s");
    ctx.set("UPLOAD__PUT_DEADLINE", "3s");
}

async fn nothing_is_left(outside: &Outside) {
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
    assert_eq!(outside.originals().await, []);
}

/// The server dies between the PUT and its commit: the object has a row, and goes.
async fn seed_crash_after_put(ctx: &mut Context) {
    give_up_soon(ctx);
    let seams = ctx.seams();
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    seams.decide(
        Filter::point("ObjectWritten"),
        Times::Nth(1),
        Verdict::Crash,
    );
    let upload = uploading(&api, &distinct_bytes(10_000));
    assert_eq!(ctx.server().exited().await.signal(), Some(9));
    upload.await.expect("sending does not panic");
    assert_eq!(outside.object_count().await, 1, "the object is there");
    ctx.start().await;
    nothing_is_left(&outside).await;
    assert_eq!(outside.images().await, []);
}

/// The server dies between the intent and the PUT: only a row is there, and goes.
async fn crash_before_put(ctx: &mut Context) {
    give_up_soon(ctx);
    let seams = ctx.seams();
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    seams.decide(Filter::store("put"), Times::Nth(1), Verdict::Crash);
    let upload = uploading(&api, &distinct_bytes(10_000));
    assert_eq!(ctx.server().exited().await.signal(), Some(9));
    upload.await.expect("sending does not panic");
    assert_eq!(outside.originals().await.len(), 1, "the row is there");
    assert_eq!(outside.object_count().await, 0);
    ctx.start().await;
    nothing_is_left(&outside).await;
}

/// A PUT whose answer never came lands after the DELETE of its key: the row is still there, and the
/// object goes with a second DELETE past `put_deadline`.
async fn late_put_after_delete(ctx: &mut Context) {
    ctx.set("STORAGE__S3__OPERATION_TIMEOUT", "1s");
    ctx.set("UPLOAD__LEASE", "2s");
    ctx.set("UPLOAD__PUT_DEADLINE", "6s");
    let seams = ctx.seams();
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    let bytes = distinct_bytes(10_000);
    let put = seams.hold(Filter::store("put"), Times::Next(1));
    let deleted = seams.hold(Filter::point("ObjectsDeleted"), Times::Next(1));
    let upload = uploading(&api, &bytes);
    let late = put.reached(1).await[0].detail.clone();
    put.release_with(Verdict::Fail);
    let id = upload.await.expect("it is answered").expect(201).image_id();
    // The first generation was given up, and its key deleted.
    deleted.reached(1).await;
    outside.plant_object(&late, &bytes).await;
    deleted.release();
    outside.rest().await;
    assert!(!outside.objects().await.contains_key(&late));
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
}

/// The store has the bytes, but its answer was lost: another generation is stored, the first goes.
async fn put_stored_but_not_answered(ctx: &mut Context) {
    give_up_soon(ctx);
    let seams = ctx.seams();
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    let bytes = distinct_bytes(10_000);
    let put = seams.hold(Filter::store("put"), Times::Next(1));
    let upload = uploading(&api, &bytes);
    let first = put.reached(1).await[0].detail.clone();
    put.release_with(Verdict::FailAfter);
    upload.await.expect("it is answered").expect(201);
    let row = outside.stored(&sha256_hex(&bytes)).await.expect("stored");
    assert_ne!(row.s3_key, first, "one PUT for each key");
    outside.rest().await;
    assert_eq!(outside.object_count().await, 1);
}

/// After three tries, each with a key of its own, the client is told to come again; nothing is left,
/// and coming again works.
async fn put_refused_every_time(ctx: &mut Context) {
    give_up_soon(ctx);
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = distinct_bytes(10_000);
    seams.forget();
    seams.decide(Filter::store("put"), Times::All, Verdict::Fail);
    let reply = api.upload(bytes.clone()).await.problem(503, "unavailable");
    assert!(reply.header("retry-after").is_some());
    let puts: Vec<String> = seams
        .events()
        .into_iter()
        .filter(|event| event.kind == "store" && event.name == "put")
        .map(|event| event.detail)
        .collect();
    let keys: BTreeSet<&String> = puts.iter().collect();
    assert_eq!((puts.len(), keys.len()), (3, 3), "{puts:#?}");
    seams.clear_rules();
    nothing_is_left(&ctx.outside().await).await;
    api.upload(bytes).await.expect(201);
}

/// A writer that slept before its PUT until its lease and its deadline were over: its row is gone when
/// the PUT lands. It inserts the row again, for the reaper, and starts over.
async fn paused_writer_past_deadline(ctx: &mut Context) {
    give_up_soon(ctx);
    let seams = ctx.seams();
    let slow = ctx.start().await;
    if !ctx.is_sqlite() {
        ctx.start().await;
    }
    let outside = ctx.outside().await;
    let bytes = distinct_bytes(10_000);
    let put = seams.hold(Filter::store("put"), Times::Next(1));
    let upload = uploading(&slow, &bytes);
    let lost = put.reached(1).await[0].detail.clone();
    // It may be the other node's reapers that remove the row.
    nothing_is_left(&outside).await;
    put.release();
    let id = upload.await.expect("it is answered").expect(201).image_id();
    outside.rest().await;
    assert!(!outside.objects().await.contains_key(&lost));
    assert_eq!(slow.content(&id).await.expect(200).body, bytes);
}

/// A writer that slept after its PUT: its lease ran out, its row is `deleting`, the object still there
/// and the DELETE about to be sent. It may not commit, whatever its own clock says.
async fn paused_writer_whose_row_was_condemned(ctx: &mut Context) {
    give_up_soon(ctx);
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = distinct_bytes(10_000);
    let written = seams.hold(Filter::point("ObjectWritten"), Times::Next(1));
    let delete = seams.hold(Filter::store("delete"), Times::Next(1));
    let upload = uploading(&api, &bytes);
    let lost = written.reached(1).await[0].detail.clone();
    assert_eq!(delete.reached(1).await[0].detail, lost);
    written.release();
    let id = upload.await.expect("it is answered").expect(201).image_id();
    delete.release();
    ctx.outside().await.rest().await;
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
}

/// As `paused_writer_past_deadline`, and meanwhile another node has stored the content: the writer gives
/// its own row up before it attaches, or its object would stay.
async fn paused_writer_finds_the_content_stored(ctx: &mut Context) {
    give_up_soon(ctx);
    let seams = ctx.seams();
    let nodes = ctx.start_several(2);
    let slow = ctx.servers()[0].pid();
    let outside = ctx.outside().await;
    let bytes = distinct_bytes(10_000);
    let put = seams.hold(Filter::store("put").of(slow), Times::Next(1));
    let upload = uploading(&nodes[0], &bytes);
    let lost = put.reached(1).await[0].detail.clone();
    nothing_is_left(&outside).await;
    let other = nodes[1].upload_id(bytes.clone()).await;
    put.release();
    let reply = upload.await.expect("it is answered").expect(201);
    assert_eq!(reply.header("x-dedup").as_deref(), Some("hit"));
    outside.rest().await;
    assert!(!outside.objects().await.contains_key(&lost));
    assert_eq!(nodes[0].content(&other).await.expect(200).body, bytes);
}

/// Both write the same new content at the same time: one of the two is kept, for both. On PostgreSQL the
/// second node promotes its row while the first has promoted its own and not committed.
async fn two_nodes_same_new_hash(ctx: &mut Context) {
    let seams = ctx.seams();
    let bytes = distinct_bytes(10_000);
    let uploads = match ctx.is_sqlite() {
        true => one_flight(ctx, &seams, &bytes).await,
        false => {
            let nodes = ctx.start_several(2);
            let pids = [ctx.servers()[0].pid(), ctx.servers()[1].pid()];
            let put = seams.hold(Filter::point("ObjectWritten"), Times::Next(2));
            let uploads = [uploading(&nodes[0], &bytes), uploading(&nodes[1], &bytes)];
            put.reached(2).await;
            let first = Filter::point("BatchWritten").of(pids[0]);
            let first = seams.hold(first, Times::Next(1));
            let second = Filter::point("BatchLooked").of(pids[1]);
            let second = seams.hold(second, Times::Next(1));
            put.release();
            first.reached(1).await;
            second.reached(1).await;
            let promote = Filter::database("statement")
                .with("stored_at =")
                .of(pids[1]);
            let promote = seams.hold(promote, Times::Next(1));
            second.release();
            promote.reached(1).await;
            promote.release();
            first.release();
            uploads
        }
    };
    let mut originals = BTreeSet::new();
    for upload in uploads {
        let image = upload.await.expect("it is answered").expect(201).json();
        originals.insert(image["original_image_id"].to_string());
    }
    assert_eq!(originals.len(), 1);
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 1);
    let row = outside.stored(&sha256_hex(&bytes)).await.expect("stored");
    assert_eq!(row.reference_count, 2);
}

/// SQLite has one server: the second upload finds the first in flight, and waits for it.
async fn one_flight(
    ctx: &mut Context,
    seams: &SeamControl,
    bytes: &[u8],
) -> [tokio::task::JoinHandle<crate::harness::Reply>; 2] {
    let api = ctx.start().await;
    let written = seams.hold(Filter::point("ObjectWritten"), Times::All);
    let first = uploading(&api, bytes);
    written.reached(1).await;
    let missing = seams.hold(Filter::point("ContentMissing"), Times::Next(1));
    let second = uploading(&api, bytes);
    missing.reached(1).await;
    missing.release();
    written.release();
    within(async {
        while !(first.is_finished() && second.is_finished()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let puts = seams.events().into_iter();
    assert_eq!(puts.filter(|event| event.name == "put").count(), 1);
    [first, second]
}

/// The client leaves between two steps, each of them in turn, and the server has noticed: the work that
/// its whole body began goes on to its end.
async fn disconnect_between_steps(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    for point in [
        "BodyHashed",
        "ContentMissing",
        "IntentCommitted",
        "ObjectWritten",
        "BatchWritten",
        "BatchCommitted",
    ] {
        let bytes = distinct_bytes(5000);
        let held = seams.hold(Filter::point(point), Times::Next(1));
        let connection = send_whole(&api, &bytes).await;
        held.reached(1).await;
        dropped_by(ctx.server(), connection).await;
        held.release();
        let hash = sha256_hex(&bytes);
        within(async {
            while outside.stored(&hash).await.is_none() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        let row = outside.stored(&hash).await.expect("stored");
        assert_eq!(row.reference_count, 1, "left at {point}");
    }
}

async fn send_whole(api: &Api, bytes: &[u8]) -> RawConnection {
    let mut connection = RawConnection::open(api.address()).await;
    let length = bytes.len().to_string();
    let head = [
        ("Content-Type", "application/octet-stream"),
        ("Content-Length", length.as_str()),
    ];
    connection.upload_head(&head).await.send(bytes).await;
    connection
}

/// A client that is slow keeps nobody at the store or at the database: until its last byte there is no
/// call.
async fn a_slow_body_costs_no_call(ctx: &mut Context) {
    ctx.set("CLEANUP__INTERVAL", "1h");
    let seams = ctx.seams();
    let api = ctx.start().await;
    seams.quiet(std::time::Duration::from_millis(300)).await;
    let bytes = distinct_bytes(200_000);
    let mut connection = RawConnection::open(api.address()).await;
    let head = [
        ("Content-Type", "application/octet-stream"),
        ("Content-Length", "200000"),
    ];
    connection
        .upload_head(&head)
        .await
        .send(&bytes[..150_000])
        .await;
    // Another client's whole upload passes meanwhile.
    api.upload(distinct_bytes(10)).await.expect(201);
    seams.quiet(std::time::Duration::from_millis(300)).await;
    seams.forget();
    let hashed = seams.hold(Filter::point("BodyHashed"), Times::Next(1));
    connection.send(&bytes[150_000..]).await;
    hashed.reached(1).await;
    let calls: Vec<Event> = seams.events().into_iter().filter(Event::is_call).collect();
    assert_eq!(calls, [], "before the body was whole");
    hashed.release();
    connection.answer().await.expect("an answer").expect(201);
}
