//! The protocol's schedules by name: what the reapers may take, and when. Each interleaving is forced at
//! the seams: nothing here is left to luck or to time.

use std::time::Duration;

use sea_orm::{ConnectionTrait, TransactionTrait};

use crate::harness::{
    Action, Backend, Context, Filter, Operation, Outside, Times, blocked_by_a_lock, cases,
    distinct_bytes, object_file, sha256_hex, uploading, within,
};

cases! {
    both: [
        grace_period_outlasts_the_reaper,
        epq_trap,
        poison_key,
        a_miscounted_original_is_left_alone,
    ],
    postgres_s3: [
        a_locked_row_keeps_nobody_waiting,
        a_clock_that_is_wrong_condemns_nothing,
    ],
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
    let object = ctx.path(&object_file(&poison));
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
    // Two whole rounds of the other node's lease reaper come after the row is there; its gauges ask for
    // `lease_until`, too.
    let round = Filter::database("statement").with("\"lease_until\" <");
    let round = round.of(ahead);
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
