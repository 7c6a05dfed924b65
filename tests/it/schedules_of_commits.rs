//! The protocol's schedules by name: commits whose outcome is unknown, and requests that come twice.
//! Each interleaving is forced at the seams: nothing here is left to luck or to time.

use std::os::unix::process::ExitStatusExt;

use serde_json::{Value, json};
use standardwebhooks::Webhook;
use uuid::Uuid;

use crate::harness::{
    Api, Context, Filter, Reply, Times, Verdict, blocked_by_a_lock, cases, count_of,
    distinct_bytes, is_locking_look, one_batch, sha256_hex, text_of, uploading, uploading_with,
    within,
};

cases! {
    both: [
        unknown_commit_attach,
        unknown_commit_new,
        unknown_commit_of_a_webhook,
        crash_during_commit,
        no_answer_before_commit,
        an_outcome_that_stays_unknown_is_503,
        same_idempotency_key_twice,
        webhook_twice,
        webhook_before_upload,
    ],
    postgres_s3: [connection_dies_during_commit],
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwdGVzdC1zZWNyZXQ=";
/// How an image's id follows from tenant and `Idempotency-Key`; it must never change.
const IDEMPOTENCY_NAMESPACE: Uuid = Uuid::from_u128(0x5f0d_9c1e_7b1a_4d52_9a37_3f6c_2f84_e1b6);

async fn count(ctx: &mut Context, bytes: &[u8]) -> (i64, usize) {
    let outside = ctx.outside().await;
    let row = outside.stored(&sha256_hex(bytes)).await;
    let live = outside.images().await.into_iter();
    let live = live.filter(|image| image.deleted_at.is_none()).count();
    (row.expect("stored").reference_count, live)
}

/// The commit of a duplicate was not answered: whether it happened or not, it is run again with the
/// same image ids, and there is one image.
async fn unknown_commit_attach(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = distinct_bytes(2000);
    api.upload(bytes.clone()).await.expect(201);
    for (n, lost) in [Verdict::FailAfter, Verdict::Fail].into_iter().enumerate() {
        seams.decide(Filter::database("commit"), Times::Nth(1), lost);
        let reply = api.upload(bytes.clone()).await.expect(201);
        assert_eq!(reply.header("x-dedup").as_deref(), Some("hit"));
        assert_eq!(seams.met(), 1);
        seams.clear_rules();
        assert_eq!(count(ctx, &bytes).await, (n as i64 + 2, n + 2), "{lost:?}");
    }
}

/// The commit of a new content was not answered: as with a duplicate, and no second original.
async fn unknown_commit_new(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    for (n, lost) in [Verdict::FailAfter, Verdict::Fail].into_iter().enumerate() {
        let bytes = distinct_bytes(2000);
        // The first commit ends the look that finds nothing.
        let written = seams.hold(Filter::point("ObjectWritten"), Times::Next(1));
        let upload = uploading(&api, &bytes);
        written.reached(1).await;
        seams.decide(Filter::database("commit"), Times::Nth(1), lost);
        written.release();
        let reply = upload.await.expect("it is answered").expect(201);
        assert_eq!(reply.header("x-dedup").as_deref(), Some("miss"));
        seams.clear_rules();
        assert_eq!(count(ctx, &bytes).await, (1, n + 1), "{lost:?}");
    }
    assert_eq!(ctx.outside().await.originals().await.len(), 2);
}

/// The commit of a webhook's deletion was not answered: its receipt tells the next run what it did.
async fn unknown_commit_of_a_webhook(ctx: &mut Context) {
    ctx.set("WEBHOOKS__DELETIONS__SECRETS", &json!([SECRET]));
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = distinct_bytes(2000);
    api.upload(bytes.clone()).await.expect(201);
    for lost in [Verdict::FailAfter, Verdict::Fail] {
        let id = api.upload_id(bytes.clone()).await;
        seams.decide(Filter::database("commit"), Times::Nth(1), lost);
        let answer = deliver(&api, &format!("msg_{lost:?}"), &id).await;
        assert_eq!(outcome(&answer.expect(200)), "deleted", "{lost:?}");
        seams.clear_rules();
        assert_eq!(count(ctx, &bytes).await, (1, 1), "{lost:?}");
    }
}

/// The process dies at its COMMIT, before or after the effect: counts are whole, and the client finds
/// out by its `Idempotency-Key`.
async fn crash_during_commit(ctx: &mut Context) {
    let seams = ctx.seams();
    let bytes = distinct_bytes(2000);
    let mut api = ctx.start().await;
    api.upload(bytes.clone()).await.expect(201);
    for (n, death) in [Verdict::Crash, Verdict::CrashAfter]
        .into_iter()
        .enumerate()
    {
        let key = format!("crash-{n}");
        let header = [("idempotency-key", key.as_str())];
        seams.decide(Filter::database("commit"), Times::Nth(1), death);
        let upload = uploading_with(&api, &bytes, &header);
        assert_eq!(ctx.server().exited().await.signal(), Some(9));
        assert_eq!(upload.await.expect("sending does not panic").status, 0);
        seams.clear_rules();
        let images = n + 1 + usize::from(death == Verdict::CrashAfter);
        assert_eq!(
            count(ctx, &bytes).await,
            (images as i64, images),
            "{death:?}"
        );
        api = ctx.start().await;
        api.upload_with(bytes.clone(), &header).await.expect(201);
        assert_eq!(count(ctx, &bytes).await, (n as i64 + 2, n + 2), "{death:?}");
    }
}

/// A client is told of nothing that a crash at the commit would undo.
async fn no_answer_before_commit(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = distinct_bytes(2000);
    api.upload(bytes.clone()).await.expect(201);
    let commit = seams.hold(Filter::database("commit"), Times::Next(1));
    let committed = seams.hold(Filter::point("BatchCommitted"), Times::Next(1));
    let upload = uploading(&api, &bytes);
    commit.reached(1).await;
    let early = tokio::time::timeout(std::time::Duration::from_millis(500), committed.reached(1));
    assert!(early.await.is_err(), "it goes on before COMMIT returned");
    assert!(!upload.is_finished());
    ctx.server().kill();
    assert_eq!(upload.await.expect("sending does not panic").status, 0);
    commit.release();
    ctx.start().await;
    assert_eq!(count(ctx, &bytes).await, (1, 1));
}

/// No commit is answered until the time for it is over: the client is told to ask again, not that it was
/// done or that it was not.
async fn an_outcome_that_stays_unknown_is_503(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = distinct_bytes(2000);
    api.upload(bytes.clone()).await.expect(201);
    seams.decide(Filter::database("commit"), Times::All, Verdict::FailAfter);
    let header = [("idempotency-key", "unknown")];
    let reply = api.upload_with(bytes.clone(), &header).await;
    let reply = reply.problem(503, "unavailable");
    assert!(reply.header("retry-after").is_some());
    seams.clear_rules();
    api.upload_with(bytes.clone(), &header).await.expect(201);
    assert_eq!(count(ctx, &bytes).await, (2, 2));
}

/// PostgreSQL ends the session that waits in COMMIT for a standby: the commit has happened, and its
/// client is told that the connection broke. It is run again, and counts once.
async fn connection_dies_during_commit(ctx: &mut Context) {
    ctx.use_own_cluster().await;
    let api = ctx.start().await;
    let bytes = distinct_bytes(2000);
    api.upload(bytes.clone()).await.expect(201);
    let outside = ctx.outside().await;
    let wait_for = async |standby: &str| {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'");
        outside.sql(&set).await;
        outside.sql("SELECT pg_reload_conf()").await;
        let seen = format!(
            "SELECT count(*) FROM pg_settings
             WHERE name = 'synchronous_standby_names' AND setting = '{standby}'"
        );
        within(async {
            while count_of(&outside, &seen).await == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    };
    wait_for("nobody").await;
    let upload = uploading(&api, &bytes);
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event = 'SyncRep'";
    within(async {
        while count_of(&outside, end).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    wait_for("").await;
    let reply = upload.await.expect("it is answered").expect(201);
    assert_eq!(reply.header("x-dedup").as_deref(), Some("hit"));
    assert_eq!(count(ctx, &bytes).await, (2, 2));
    let metrics = api.get("/metrics").await.expect(200).text_whole();
    assert!(
        !metrics.contains("hapax_commit_unknown_total 0"),
        "{metrics}"
    );
}

/// Two nodes where the backend allows two; else the one node twice.
async fn two_nodes(ctx: &mut Context) -> Vec<Api> {
    match ctx.is_sqlite() {
        true => vec![ctx.start().await; 2],
        false => ctx.start_several(2),
    }
}

/// The same request twice at once, and both have looked before either has written: one image, one
/// reference, two equal answers.
async fn same_idempotency_key_twice(ctx: &mut Context) {
    let seams = ctx.seams();
    let nodes = two_nodes(ctx).await;
    let bytes = distinct_bytes(5000);
    nodes[0].upload(bytes.clone()).await.expect(201);
    let header = [("idempotency-key", "twice")];
    let replies = if ctx.is_sqlite() {
        let other = nodes[0].upload_id(distinct_bytes(10)).await;
        let both = || {
            let upload = || uploading_with(&nodes[0], &bytes, &header);
            vec![upload(), upload()]
        };
        one_batch(&seams, &nodes[0], &other, both).await
    } else {
        let written = seams.hold(Filter::point("BatchWritten"), Times::Next(1));
        let first = uploading_with(&nodes[0], &bytes, &header);
        written.reached(1).await;
        let second = uploading_with(&nodes[1], &bytes, &header);
        blocked_by_a_lock(&ctx.outside().await).await;
        written.release();
        vec![first.await.expect("sent"), second.await.expect("sent")]
    };
    let ids: Vec<String> = replies
        .into_iter()
        .map(|reply| reply.expect(201).image_id())
        .collect();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(count(ctx, &bytes).await, (2, 2));
}

async fn deliver(api: &Api, event_id: &str, image_id: &str) -> Reply {
    let at = chrono::Utc::now();
    let event = json!({ "type": "image.deleted", "timestamp": at, "data": { "id": image_id } });
    let (body, at) = (event.to_string(), at.timestamp());
    let signer = Webhook::new(SECRET).expect("a secret");
    let signature = signer.sign(event_id, at, body.as_bytes()).expect("signed");
    let at = at.to_string();
    let headers = [
        ("content-type", "application/json"),
        ("webhook-id", event_id),
        ("webhook-timestamp", at.as_str()),
        ("webhook-signature", signature.as_str()),
    ];
    api.post_raw("/v1/webhooks/deletions", &headers, body).await
}

fn delivering(api: &Api, event_id: &str, image_id: &str) -> tokio::task::JoinHandle<Reply> {
    let (api, event_id, image_id) = (api.clone(), event_id.to_owned(), image_id.to_owned());
    tokio::spawn(async move { deliver(&api, &event_id, &image_id).await })
}

fn outcome(reply: &Reply) -> String {
    text_of(&reply.json()["results"][0]["outcome"])
}

/// One delivery twice at once: the second has found no receipt and the image live before the first
/// commits. One effect, and the same answer to both.
async fn webhook_twice(ctx: &mut Context) {
    ctx.set("WEBHOOKS__DELETIONS__SECRETS", &json!([SECRET]));
    let seams = ctx.seams();
    let nodes = two_nodes(ctx).await;
    let bytes = distinct_bytes(5000);
    nodes[0].upload(bytes.clone()).await.expect(201);
    let gone = nodes[0].upload_id(bytes.clone()).await;
    let replies = if ctx.is_sqlite() {
        let other = nodes[0].upload_id(distinct_bytes(10)).await;
        let both = || {
            (0..2)
                .map(|_| delivering(&nodes[0], "msg_1", &gone))
                .collect()
        };
        one_batch(&seams, &nodes[0], &other, both).await
    } else {
        let second_node = ctx.servers()[1].pid();
        let written = seams.hold(Filter::point("BatchWritten"), Times::Next(1));
        let first = delivering(&nodes[0], "msg_1", &gone);
        written.reached(1).await;
        let look = Filter::new(is_locking_look).of(second_node);
        let looked = seams.hold(look, Times::Next(1));
        let second = delivering(&nodes[1], "msg_1", &gone);
        looked.reached(1).await;
        written.release();
        let first = first.await.expect("sent");
        looked.release();
        vec![first, second.await.expect("sent")]
    };
    let answers: Vec<Value> = replies.into_iter().map(|r| r.expect(200).json()).collect();
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0]["results"][0]["outcome"], "deleted");
    assert_eq!(count(ctx, &bytes).await, (1, 1));
}

/// A deletion overtakes the upload of its image, whose bytes are written and which is not committed: it
/// finds nothing, now and when it comes again, and the image stays.
async fn webhook_before_upload(ctx: &mut Context) {
    ctx.set("WEBHOOKS__DELETIONS__SECRETS", &json!([SECRET]));
    let seams = ctx.seams();
    let nodes = two_nodes(ctx).await;
    let bytes = distinct_bytes(5000);
    let id = Uuid::new_v5(&IDEMPOTENCY_NAMESPACE, b"default\0overtaken\x000").to_string();
    let written = seams.hold(Filter::point("ObjectWritten"), Times::Next(1));
    let upload = uploading_with(&nodes[0], &bytes, &[("idempotency-key", "overtaken")]);
    written.reached(1).await;
    let early = deliver(&nodes[1], "msg_2", &id).await.expect(200);
    assert_eq!(outcome(&early), "unknown");
    written.release();
    let reply = upload.await.expect("it is answered").expect(201);
    assert_eq!(reply.image_id(), id, "it was this image");
    let again = deliver(&nodes[1], "msg_2", &id).await.expect(200);
    assert_eq!(again.json(), early.json());
    assert_eq!(nodes[1].content(&id).await.expect(200).body, bytes);
}
