//! Large files that come again: recognised on their way, and not written. The local store's alone.

use std::time::{Duration, Instant};

use crate::harness::{Api, Context, FilePart, RawConnection, cases, distinct_bytes};

cases! {
    sqlite_local: [
        a_large_duplicate_is_recognised,
        what_only_begins_like_an_original_is_stored,
        an_original_that_goes_while_it_is_recognised_is_stored_again,
        a_lost_object_is_healed,
        an_object_that_was_broken_before_it_was_known_is_healed_by_the_second_upload,
    ],
}

/// More than stays in memory, and no whole number of anything.
const LENGTH: usize = 3_456_789;

/// Asks again and again until it is so.
async fn soon(mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !is_so().await {
        assert!(Instant::now() < deadline, "it is not so in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What was recognised so far, in bytes.
async fn recognised(api: &Api) -> u64 {
    api.metric("hapax_recognised_bytes_total").await as u64
}

/// Uploads until the server, which learns in the background, recognises what comes.
async fn is_known(api: &Api, bytes: &[u8]) -> Vec<String> {
    let before = recognised(api).await;
    let mut ids = Vec::new();
    soon(async || {
        ids.push(api.upload_id(bytes.to_vec()).await);
        recognised(api).await > before
    })
    .await;
    ids
}

async fn a_large_duplicate_is_recognised(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(LENGTH);
    let mut ids = is_known(&api, &bytes).await;
    let before = recognised(&api).await;
    let files = [FilePart::new("large", bytes.clone())];
    let metadata = Some(r#"{"album": 7}"#);
    let reply = api.upload_files(&files, metadata).await.expect(201);
    assert_eq!(reply.json()["images"][0]["deduplicated"], true);
    ids.extend(reply.image_ids());
    assert_eq!(recognised(&api).await, before + LENGTH as u64);
    for id in &ids {
        assert!(api.content(id).await.expect(200).body == bytes);
    }
    let row = ctx.outside().await.originals().await.remove(0);
    assert_eq!(row.reference_count, ids.len() as i64);
    ctx.spool_is_empty().await;
}

async fn what_only_begins_like_an_original_is_stored(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(LENGTH);
    is_known(&api, &bytes).await;
    let before = recognised(&api).await;
    for at in [200_000, 2_000_000, LENGTH - 1] {
        let mut another = bytes.clone();
        another[at] ^= 1;
        let reply = api.upload(another.clone()).await.expect(201);
        assert_eq!(reply.header("x-dedup").as_deref(), Some("miss"));
        let read = api.content(&reply.image_id()).await.expect(200).body;
        assert!(read == another, "{at}");
    }
    assert_eq!(recognised(&api).await, before);
}

/// The bytes that were not written are in the file that the server opened.
async fn an_original_that_goes_while_it_is_recognised_is_stored_again(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(LENGTH);
    let ids = is_known(&api, &bytes).await;
    let before = recognised(&api).await;

    let mut connection = RawConnection::open(api.address()).await;
    let length = LENGTH.to_string();
    let head = [
        ("content-type", "application/octet-stream"),
        ("content-length", &length),
    ];
    connection.upload_head(&head).await;
    let (first, rest) = bytes.split_at(LENGTH / 2);
    connection.send(first).await;
    // Until its first half is taken in.
    tokio::time::sleep(Duration::from_millis(500)).await;
    api.delete_many(&ids).await.expect(200);
    let outside = ctx.outside().await;
    soon(async || outside.object_count().await == 0).await;
    connection.send(rest).await;
    let reply = connection.answer().await.expect("an answer").expect(201);
    assert_eq!(reply.header("x-dedup").as_deref(), Some("miss"));
    assert_eq!(recognised(&api).await, before + LENGTH as u64);
    assert!(api.content(&reply.image_id()).await.expect(200).body == bytes);
    drop(connection);
    ctx.spool_is_empty().await;
}

async fn a_lost_object_is_healed(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(LENGTH);
    let ids = is_known(&api, &bytes).await;
    let outside = ctx.outside().await;
    let row = outside.originals().await.remove(0);
    outside.take_object(&row.s3_key).await;
    api.content(&ids[0]).await.problem(500, "content-damaged");
    let reply = api.upload(bytes.clone()).await.expect(201);
    assert_eq!(reply.header("x-dedup").as_deref(), Some("repaired"));
    assert!(api.content(&ids[0]).await.expect(200).body == bytes);
    is_known(&api, &bytes).await;
}

/// A process that learns of a file takes it to be sound. When the bytes are needed, it sees that it is not.
async fn an_object_that_was_broken_before_it_was_known_is_healed_by_the_second_upload(
    ctx: &mut Context,
) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(LENGTH);
    api.upload(bytes.clone()).await.expect(201);
    ctx.server().stop().await;
    let outside = ctx.outside().await;
    let key = outside.originals().await.remove(0).s3_key;
    let mut broken = bytes.clone();
    broken[LENGTH / 2] ^= 1;
    outside.plant_object(&key, &broken).await;

    let api = ctx.start().await;
    let ids = is_known(&api, &bytes).await;
    let repair = ["verify", "--deep", "--repair"];
    ctx.hapax_beside(&repair).await.exits_with(1);
    let refused = api.upload(bytes.clone()).await;
    assert!(refused.header("retry-after").is_some());
    refused.problem(503, "unavailable");
    let healed = api.upload(bytes.clone()).await.expect(201);
    assert_eq!(healed.header("x-dedup").as_deref(), Some("repaired"));
    for id in ids {
        assert!(api.content(&id).await.expect(200).body == bytes);
    }
    ctx.spool_is_empty().await;
}
