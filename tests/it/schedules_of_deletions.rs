//! The protocol's schedules by name: deletions of references, and what comes between. Each interleaving is
//! forced at the seams: nothing here is left to luck or to time.

use std::time::Duration;

use crate::harness::{
    Api, Context, Filter, SeamControl, Times, blocked_by_a_lock, cases, count_of, deleting,
    distinct_bytes, is_locking_look, one_batch, sha256_hex, uploading, within,
};

cases! {
    both: [
        seed_loss,
        seed_double_delete,
        seed_restrict_fk,
        late_delete_after_reupload,
        attach_vs_claim_last_reference,
        queue_window,
        nothing_is_open_while_the_store_works,
    ],
    postgres_s3: [
        double_delete_of_the_last_reference,
    ],
}

/// Two nodes where the backend allows two; else the one node twice.
async fn two_nodes(ctx: &mut Context) -> [Api; 2] {
    if ctx.is_sqlite() {
        let api = ctx.start().await;
        return [api.clone(), api];
    }
    let [one, other] = <[Api; 2]>::try_from(ctx.start_several(2)).expect("two were started");
    [one, other]
}

/// U1 uploads h. D1 deletes it: the count is 0, and the reaper has seen that. U2 uploads h, finds the
/// row, and is told so. D1's clean-up goes on: U2's image lives.
async fn seed_loss(ctx: &mut Context) {
    let seams = ctx.seams();
    let [one, other] = two_nodes(ctx).await;
    let bytes = distinct_bytes(30_000);
    let first = one.upload_id(bytes.clone()).await;
    let reaper = seams.hold(Filter::point("UnreferencedSought"), Times::All);
    one.delete(&first).await.expect(200);
    reaper.reached(1).await;
    let second = other.upload(bytes.clone()).await.expect(201);
    assert_eq!(second.header("x-dedup").as_deref(), Some("resurrected"));
    let nothing_claimed = seams.hold(Filter::database("rollback"), Times::Next(1));
    reaper.release();
    nothing_claimed.reached(1).await;
    nothing_claimed.release();
    let id = second.image_id();
    assert_eq!(one.content(&id).await.expect(200).body, bytes);
    let original = one.original(&sha256_hex(&bytes)).await.expect(200).json();
    assert_eq!(original["reference_count"], 1);
}

/// Two deletions of one image at the same moment: the second has read the image as live before the
/// first commits, and writes after it. It frees nothing of anybody else.
async fn seed_double_delete(ctx: &mut Context) {
    let seams = ctx.seams();
    let nodes = two_nodes(ctx).await;
    let bytes = distinct_bytes(3000);
    let kept = nodes[0].upload_id(bytes.clone()).await;
    let gone = nodes[0].upload_id(bytes.clone()).await;
    let replies = if ctx.is_sqlite() {
        // One writer, one shard: both in one batch is as close as they can come.
        let other = nodes[0].upload_id(distinct_bytes(10)).await;
        let both = || (0..2).map(|_| deleting(&nodes[0], &gone)).collect();
        one_batch(&seams, &nodes[0], &other, both).await
    } else {
        let second_node = ctx.servers()[1].pid();
        let written = seams.hold(Filter::point("BatchWritten"), Times::Next(1));
        let first = deleting(&nodes[0], &gone);
        written.reached(1).await;
        let look = Filter::new(is_locking_look).of(second_node);
        let looked = seams.hold(look, Times::Next(1));
        let second = deleting(&nodes[1], &gone);
        looked.reached(1).await;
        written.release();
        let first = first.await.expect("it is answered");
        looked.release();
        vec![first, second.await.expect("it is answered")]
    };
    let mut effects = 0;
    for reply in replies {
        effects += usize::from(reply.expect(200).json()["already_deleted"] == false);
    }
    assert_eq!(effects, 1);
    let original = nodes[1].original(&sha256_hex(&bytes)).await;
    assert_eq!(original.expect(200).json()["reference_count"], 1);
    assert_eq!(nodes[1].content(&kept).await.expect(200).body, bytes);
}

/// As above, and nothing else points at the original: under the lock the second deletion finds the
/// count at 0. What is old is its look at the image, not the count: nobody is told of a mismatch.
async fn double_delete_of_the_last_reference(ctx: &mut Context) {
    ctx.set_grace(Duration::from_secs(3600));
    let seams = ctx.seams();
    let nodes = two_nodes(ctx).await;
    let id = nodes[0].upload_id(distinct_bytes(3000)).await;
    let look = Filter::new(is_locking_look).of(ctx.servers()[1].pid());
    let looked = seams.hold(look, Times::Next(1));
    let second = deleting(&nodes[1], &id);
    looked.reached(1).await;
    let first = within(nodes[0].delete(&id)).await.expect(200).json();
    assert_eq!(first["already_deleted"], false);
    looked.release();
    let second = second.await.expect("it is answered").expect(200).json();
    assert_eq!(second["already_deleted"], true);
    let metrics = nodes[1].get("/metrics").await.expect(200).text_whole();
    assert!(
        metrics.contains("hapax_refcount_mismatches_total 0"),
        "{metrics}"
    );
}

/// Soft-deleted images do not keep the original's row from going after its bytes.
async fn seed_restrict_fk(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(3000);
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(api.upload_id(bytes.clone()).await);
    }
    for id in &ids {
        api.delete(id).await.expect(200);
    }
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.originals().await, []);
    assert_eq!(outside.images().await.len(), 5);
    // And the content can come again.
    let again = api.upload(bytes).await.expect(201);
    assert_eq!(again.header("x-dedup").as_deref(), Some("miss"));
}

/// The reaper's claim is committed and its DELETE about to be sent when the content comes again; the
/// DELETE lands after the new PUT.
async fn late_delete_after_reupload(ctx: &mut Context) {
    let seams = ctx.seams();
    let [one, other] = two_nodes(ctx).await;
    let bytes = distinct_bytes(10_000);
    let first = one.upload_id(bytes.clone()).await;
    let delete = seams.hold(Filter::store("delete"), Times::All);
    one.delete(&first).await.expect(200);
    let old_key = delete.reached(1).await[0].detail.clone();
    let second = other.upload(bytes.clone()).await.expect(201);
    assert_eq!(second.header("x-dedup").as_deref(), Some("miss"));
    delete.release();
    let outside = ctx.outside().await;
    outside.rest().await;
    let row = outside.stored(&sha256_hex(&bytes)).await.expect("stored");
    assert_ne!(row.s3_key, old_key, "a key is never used again");
    let id = second.image_id();
    assert_eq!(one.content(&id).await.expect(200).body, bytes);
}

/// The last reference went; one comes while the reaper claims. Whoever has the row's lock first wins,
/// and the other sees what it did.
async fn attach_vs_claim_last_reference(ctx: &mut Context) {
    let seams = ctx.seams();
    let nodes = two_nodes(ctx).await;
    let bytes = distinct_bytes(5000);
    let id = nodes[0].upload_id(bytes.clone()).await;
    let id = claim_first(ctx, &seams, &nodes, &bytes, &id).await;
    attach_first(ctx, &seams, &nodes, &bytes, &id).await;
}

async fn claim_first(
    ctx: &mut Context,
    seams: &SeamControl,
    nodes: &[Api; 2],
    bytes: &[u8],
    id: &str,
) -> String {
    let claim = seams.hold(Filter::point("UnreferencedLocked"), Times::All);
    nodes[0].delete(id).await.expect(200);
    claim.reached(1).await;
    let begun = seams.hold(Filter::database("begin"), Times::Next(1));
    let upload = uploading(&nodes[1], bytes);
    begun.reached(1).await;
    begun.release();
    if !ctx.is_sqlite() {
        blocked_by_a_lock(&ctx.outside().await).await;
    }
    assert!(!upload.is_finished());
    claim.release();
    let reply = upload.await.expect("it is answered").expect(201);
    assert_eq!(reply.header("x-dedup").as_deref(), Some("miss"));
    let id = reply.image_id();
    assert_eq!(nodes[0].content(&id).await.expect(200).body, bytes);
    id
}

async fn attach_first(
    ctx: &mut Context,
    seams: &SeamControl,
    nodes: &[Api; 2],
    bytes: &[u8],
    id: &str,
) {
    let reaper = seams.hold(Filter::point("UnreferencedSought"), Times::All);
    nodes[0].delete(id).await.expect(200);
    reaper.reached(1).await;
    let attach = seams.hold(Filter::point("BatchWritten"), Times::Next(1));
    let upload = uploading(&nodes[1], bytes);
    attach.reached(1).await;
    // PostgreSQL: the reaper passes the locked row and claims nothing. SQLite: it waits to begin.
    let passed = match ctx.is_sqlite() {
        true => Filter::database("begin"),
        false => Filter::database("rollback"),
    };
    let passed = seams.hold(passed, Times::Next(1));
    reaper.release();
    passed.reached(1).await;
    passed.release();
    attach.release();
    let reply = upload.await.expect("it is answered").expect(201);
    assert_eq!(reply.header("x-dedup").as_deref(), Some("resurrected"));
    let content = nodes[0].content(&reply.image_id()).await.expect(200);
    assert_eq!(content.body, bytes);
}

/// An upload between "the count is 0" and the clean-up job: the job has seen the row, finds a reference
/// when it comes to it, and leaves it.
async fn queue_window(ctx: &mut Context) {
    ctx.set_grace(Duration::from_secs(3600));
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = distinct_bytes(1000);
    let hash = sha256_hex(&bytes);
    let id = api.upload_id(bytes.clone()).await;
    api.delete(&id).await.expect(200);
    let dry = ctx
        .hapax(&["cleanup", "--older-than", "0s", "--dry-run"])
        .exits_with(0);
    assert!(dry.stdout.contains(&hash), "{dry:?}");
    let job = seams.hold(Filter::point("UnreferencedSought"), Times::All);
    let cleanup = ctx.hapax_beside(&["cleanup", "--older-than", "0s"]);
    let upload = async {
        job.reached(1).await;
        let reply = api.upload(bytes.clone()).await.expect(201);
        assert_eq!(reply.header("x-dedup").as_deref(), Some("resurrected"));
        job.release();
        reply.image_id()
    };
    let (live, id) = futures::join!(cleanup, upload);
    let live = live.exits_with(0);
    assert!(!live.stdout.contains(&hash), "{live:?}");
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
}

/// While the store works on a PUT or on a DELETE, the database is free for everybody else, and no
/// session has a transaction open.
async fn nothing_is_open_while_the_store_works(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    let sqlite = ctx.is_sqlite();
    let free = async || {
        within(api.upload(distinct_bytes(100))).await.expect(201);
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND state LIKE 'idle in transaction%'";
        assert!(sqlite || count_of(&outside, open).await == 0);
    };
    let put = seams.hold(Filter::store("put"), Times::Next(1));
    let upload = uploading(&api, &distinct_bytes(3000));
    put.reached(1).await;
    free().await;
    put.release();
    let id = upload.await.expect("it is answered").expect(201).image_id();
    let delete = seams.hold(Filter::store("delete"), Times::Next(1));
    api.delete(&id).await.expect(200);
    delete.reached(1).await;
    free().await;
    delete.release();
}
