//! The protocol's schedules by name: deletions, and the reapers that follow them. Each interleaving is
//! forced at the seams: nothing here is left to luck or to time.

use std::time::Duration;

use sea_orm::{ConnectionTrait, TransactionTrait};

use crate::harness::{
    Action, Api, Backend, Context, Filter, Operation, Outside, SeamControl, Times,
    blocked_by_a_lock, cases, count_of, deleting, distinct_bytes, is_locking_look, one_batch,
    sha256_hex, uploading, within,
};

cases! {
    both: [
        seed_loss,
        seed_double_delete,
        seed_restrict_fk,
        late_delete_after_reupload,
        attach_vs_claim_last_reference,
        queue_window,
        grace_period_outlasts_the_reaper,
        epq_trap,
        poison_key,
        a_miscounted_original_is_left_alone,
        nothing_is_open_while_the_store_works,
    ],
    postgres_s3: [
        double_delete_of_the_last_reference,
        a_locked_row_keeps_nobody_waiting,
        a_clock_that_is_wrong_condemns_nothing,
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

/// Within its grace period an original without references is not the reaper's, however often it looks: a
/// database that is set back to before the deletion still finds the object.
async fn grace_period_outlasts_the_reaper(ctx: &mut Context) {
    ctx.set_grace(Duration::from_secs(3600));
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = distinct_bytes(1000);
    let id = api.upload_id(bytes.clone()).await;
    api.delete(&id).await.expect(200);
    // Two whole rounds of the reaper come after the deletion.
    let look = Filter::database("statement").with("\"zero_since\" <=");
    let look = look.with("LIMIT");
    let third = seams.hold(look, Times::Nth(3));
    third.reached(1).await;
    third.release();
    let outside = ctx.outside().await;
    let row = outside.stored(&sha256_hex(&bytes)).await.expect("kept");
    assert_eq!(row.reference_count, 0);
    assert_eq!(outside.object_count().await, 1);
    let again = api.upload(bytes).await.expect(201);
    assert_eq!(again.header("x-dedup").as_deref(), Some("resurrected"));
}

/// References come and go between a reaper's look at the rows and its lock on them: one content is
/// attached and detached again, one stays attached. PostgreSQL then looks at the locked row once more,
/// but not at what it was joined with.
async fn epq_trap(ctx: &mut Context) {
    if !ctx.is_sqlite() {
        // The reaper stops inside of its one statement, between the statement's snapshot and the locks.
        ctx.hapax(&["migrate", "up"]).exits_with(0);
        stop_in_statements(&ctx.outside().await).await;
    }
    let seams = ctx.seams();
    ctx.set("CLEANUP__INTERVAL", "1h");
    let api = ctx.start().await;
    let (passing, staying) = (distinct_bytes(2000), distinct_bytes(2001));
    let ids = [
        api.upload_id(passing.clone()).await,
        api.upload_id(staying.clone()).await,
    ];
    let outside = ctx.outside().await;
    let stop = outside.database.begin().await.expect("a transaction");
    let reaper = seams.hold(Filter::point("UnreferencedSought"), Times::All);
    if !ctx.is_sqlite() {
        reaper.release();
        let lock = "SELECT pg_advisory_xact_lock(7)";
        stop.execute_unprepared(lock).await.expect("it is free");
    }
    api.delete_many(&ids).await.expect(200);
    match ctx.is_sqlite() {
        true => drop(reaper.reached(1).await),
        false => blocked_by_a_lock(&outside).await,
    }
    let passed = within(api.upload(passing.clone())).await.expect(201);
    let stayed = within(api.upload(staying.clone())).await.expect(201);
    for reply in [&passed, &stayed] {
        assert_eq!(reply.header("x-dedup").as_deref(), Some("resurrected"));
    }
    within(api.delete(&passed.image_id())).await.expect(200);
    let ended = Filter::new(|event| ["commit", "rollback"].contains(&&*event.name));
    let round = seams.hold(ended, Times::Next(1));
    stop.rollback().await.expect("it was open");
    reaper.release();
    // SQLite's look and lock are one: the row that has no reference goes. PostgreSQL's statement has seen
    // both rows as they were before, and takes neither.
    let outcome = if ctx.is_sqlite() {
        "commit"
    } else {
        "rollback"
    };
    assert_eq!(round.reached(1).await[0].name, outcome);
    round.release();
    let id = stayed.image_id();
    assert_eq!(api.content(&id).await.expect(200).body, staying);
}

/// From now on the claim's `now()`, which the statement asks for each row between its snapshot and the
/// row's lock, waits for the advisory lock 7.
async fn stop_in_statements(outside: &Outside) {
    outside
        .sql(
            "CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
             BEGIN
               IF current_query() LIKE '%zero_since%SKIP LOCKED%' THEN
                 PERFORM pg_advisory_lock_shared(7);
                 PERFORM pg_advisory_unlock_shared(7);
               END IF;
               RETURN pg_catalog.now();
             END $$",
        )
        .await;
    outside
        .sql(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog',
             current_database()); END $$",
        )
        .await;
}

/// One object that cannot be deleted does not keep the others from going, and is left alone for longer
/// and longer.
async fn poison_key(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(api.upload_id(distinct_bytes(1000)).await);
    }
    let outside = ctx.outside().await;
    let poison = outside.originals().await[3].s3_key.clone();
    let object = ctx.path("objects").join(&poison);
    let aside = ctx.path("aside");
    if ctx.backend == Backend::SqliteLocal {
        std::fs::rename(&object, &aside).expect("the object is there");
        std::fs::create_dir(&object).expect("its name is free");
        std::fs::write(object.join("in-the-way"), "x").expect("the folder is there");
    } else {
        for operation in [Operation::DeleteMany, Operation::Delete] {
            let refuse = Action::RefuseKeysEndingWith(poison.clone());
            ctx.arm(operation, usize::MAX, refuse);
        }
    }
    api.delete_many(&ids).await.expect(200);
    within(async {
        loop {
            let rows = outside.originals().await;
            let pause = rows[0].next_try - chrono::Utc::now();
            // Not the two minutes for which a reaper has the row, and longer than its interval.
            if rows.len() == 1 && (1500..60_000).contains(&pause.num_milliseconds()) {
                assert_eq!(rows[0].s3_key, poison);
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(outside.object_count().await, 1);
    // New work goes on as well.
    let id = api.upload_id(distinct_bytes(1000)).await;
    api.delete(&id).await.expect(200);
    within(async {
        while outside.originals().await.len() > 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    if ctx.backend == Backend::SqliteLocal {
        std::fs::remove_dir_all(&object).expect("the folder is there");
        std::fs::rename(&aside, &object).expect("its name is free");
    } else {
        ctx.disarm();
    }
}

/// A row whose count says 0 though an image points at it, as after a restore of half a backup: the claim
/// looks at the images themselves, and leaves it.
async fn a_miscounted_original_is_left_alone(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = distinct_bytes(3000);
    let id = api.upload_id(bytes.clone()).await;
    let outside = ctx.outside().await;
    let claimed = seams.hold(Filter::point("UnreferencedClaimed"), Times::Next(1));
    outside
        .sql("UPDATE original_images SET reference_count = 0, zero_since = created_at")
        .await;
    // The usage counters agree with the rows: it is the rows that are wrong.
    outside
        .sql("INSERT INTO usage_counters (owner, slot, orphaned) VALUES ('default', 99, 1)")
        .await;
    assert_eq!(claimed.reached(1).await[0].detail, "0");
    claimed.release();
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
    ctx.hapax_beside(&["verify", "--repair"]).await;
    let row = outside.stored(&sha256_hex(&bytes)).await.expect("stored");
    assert_eq!(row.reference_count, 1);
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

/// Somebody has locked one of the rows that are due: the others are claimed all the same, at once.
async fn a_locked_row_keeps_nobody_waiting(ctx: &mut Context) {
    ctx.set_grace(Duration::from_secs(3600));
    ctx.set("DATABASE__LOCK_TIMEOUT", "3s");
    let api = ctx.start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(api.upload_id(distinct_bytes(1000)).await);
    }
    api.delete_many(&ids).await.expect(200);
    let outside = ctx.outside().await;
    let lock = outside.database.begin().await.expect("a transaction");
    let one = "SELECT id FROM original_images ORDER BY zero_since LIMIT 1 FOR UPDATE";
    lock.execute_unprepared(one).await.expect("it is free");
    let cleanup = &["cleanup", "--older-than", "0s"];
    ctx.hapax_beside(cleanup).await.exits_with(0);
    assert_eq!(outside.originals().await.len(), 1, "two were free");
    lock.rollback().await.expect("it was open");
    ctx.hapax_beside(cleanup).await.exits_with(0);
    assert_eq!(outside.originals().await, []);
}

/// A node whose clock is an hour ahead takes nobody's lease: the database's clock is compared.
async fn a_clock_that_is_wrong_condemns_nothing(ctx: &mut Context) {
    let seams = ctx.seams();
    let right = ctx.start().await;
    ctx.set("SEAMS_CLOCK_AHEAD_SECONDS", "3600");
    ctx.start().await;
    let ahead = ctx.server().pid();
    let intent = seams.hold(Filter::point("IntentCommitted"), Times::Next(1));
    let upload = uploading(&right, &distinct_bytes(3000));
    intent.reached(1).await;
    // Two whole rounds of the other node's lease reaper come after the row is there.
    let round = Filter::database("statement").with("lease_until").of(ahead);
    let third = seams.hold(round, Times::Nth(3));
    third.reached(1).await;
    drop(third);
    let outside = ctx.outside().await;
    let states: Vec<_> = outside
        .originals()
        .await
        .into_iter()
        .map(|row| row.state)
        .collect();
    assert_eq!(states, [entity::original_images::OriginalState::Pending]);
    intent.release();
    upload.await.expect("it is answered").expect(201);
}
