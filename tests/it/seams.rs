//! The seams themselves: what a test decides over a call or a point is what happens to it. Every
//! schedule by name and the fault sweep stand on this.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use crate::harness::{Context, Event, Filter, Times, Verdict, cases, distinct_bytes};

cases! {
    both: [
        every_call_of_an_upload_is_announced,
        a_held_upload_waits_until_it_is_released,
        a_held_call_ends_as_an_error,
        a_failed_call_has_no_effect,
        a_call_failed_afterwards_has_its_effect,
        a_crash_is_a_kill,
    ],
    postgres_s3: [what_is_decided_for_one_process_leaves_another_alone],
}

/// Points and calls come in the protocol's order.
async fn every_call_of_an_upload_is_announced(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    seams.quiet(Duration::from_millis(50)).await;
    seams.forget();
    api.upload(distinct_bytes(3000)).await.expect(201);
    let events = seams.events();
    let position = |name: &str| {
        let found = events.iter().position(|event| event.name == name);
        found.unwrap_or_else(|| panic!("{name} is not in {events:#?}"))
    };
    let order = [
        "BodyHashed",
        "ContentMissing",
        "IntentCommitted",
        "put",
        "ObjectWritten",
    ];
    assert!(order.map(position).is_sorted(), "{events:#?}");
    let pid = ctx.server().pid();
    assert!(events.iter().all(|event| event.pid == pid), "{events:#?}");
    let commits = |events: &[Event]| events.iter().filter(|event| event.name == "commit").count();
    assert!(
        commits(&events) >= 2,
        "the look and the commit: {events:#?}"
    );
}

async fn a_held_upload_waits_until_it_is_released(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    let held = seams.hold(Filter::point("IntentCommitted"), Times::Next(1));
    let (uploading, bytes) = (api.clone(), distinct_bytes(3000));
    let upload = tokio::spawn(async move { uploading.upload(bytes).await });
    let key = held.reached(1).await[0].detail.clone();
    assert_eq!(outside.originals().await[0].s3_key, key);
    assert_eq!(outside.object_count().await, 0);
    assert!(!upload.is_finished());
    held.release();
    upload.await.expect("it is answered").expect(201);
    assert!(outside.objects().await.contains_key(&key));
}

/// A time-out: the bytes are there, the writer does not know, and takes another generation.
async fn a_held_call_ends_as_an_error(ctx: &mut Context) {
    give_up_soon(ctx);
    let seams = ctx.seams();
    let api = ctx.start().await;
    let outside = ctx.outside().await;
    let put = Filter::new(|event: &Event| event.name == "put");
    let held = seams.hold(put, Times::Next(1));
    let (uploading, bytes) = (api.clone(), distinct_bytes(3000));
    let upload = tokio::spawn(async move { uploading.upload(bytes).await });
    let first = held.reached(1).await[0].detail.clone();
    held.release_with(Verdict::FailAfter);
    upload.await.expect("it is answered").expect(201);
    let stored = outside.originals().await.into_iter();
    let mut stored = stored.filter(|row| row.reference_count == 1);
    assert_ne!(stored.next().expect("it is stored").s3_key, first);
}

/// What is given up is removed for good when no PUT can land any more: soon, here.
fn give_up_soon(ctx: &mut Context) {
    ctx.set("STORAGE__S3__OPERATION_TIMEOUT", "1s");
    ctx.set("UPLOAD__LEASE", "2s");
    ctx.set("UPLOAD__PUT_DEADLINE", "2s");
}

async fn a_failed_call_has_no_effect(ctx: &mut Context) {
    give_up_soon(ctx);
    let seams = ctx.seams();
    let api = ctx.start().await;
    seams.decide(Filter::store("put"), Times::All, Verdict::Fail);
    let bytes = distinct_bytes(3000);
    api.upload(bytes.clone()).await.problem(503, "unavailable");
    assert_eq!(ctx.outside().await.object_count().await, 0);
    seams.clear_rules();
    api.upload(bytes).await.expect(201);
}

/// A commit whose answer was lost is run again, and counts once.
async fn a_call_failed_afterwards_has_its_effect(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = distinct_bytes(3000);
    api.upload(bytes.clone()).await.expect(201);
    let inserts = Filter::calls().with("INSERT INTO images");
    seams.decide(inserts, Times::Nth(2), Verdict::Crash);
    let lost = Filter::database("commit");
    seams.decide(lost, Times::Nth(1), Verdict::FailAfter);
    let again = api.upload(bytes).await.expect(201);
    assert_eq!(again.header("x-dedup").as_deref(), Some("hit"));
    assert_eq!(seams.met(), 1, "it was not inserted a second time");
    let rows = ctx.outside().await.originals().await;
    assert_eq!(rows[0].reference_count, 2);
}

async fn a_crash_is_a_kill(ctx: &mut Context) {
    give_up_soon(ctx);
    let seams = ctx.seams();
    let outside = ctx.outside().await;
    let doomed = async |ctx: &mut Context, verdict| {
        seams.decide(Filter::store("put"), Times::Nth(1), verdict);
        let api = ctx.start().await;
        let request = api.request(reqwest::Method::POST, "/v1/images");
        let answer = api.try_send(request.body(distinct_bytes(3000))).await;
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(ctx.server().exited().await.signal(), Some(9));
    };
    doomed(ctx, Verdict::Crash).await;
    assert_eq!(outside.object_count().await, 0);
    doomed(ctx, Verdict::CrashAfter).await;
    assert_eq!(outside.object_count().await, 1);
    seams.clear_rules();
}

async fn what_is_decided_for_one_process_leaves_another_alone(ctx: &mut Context) {
    let seams = ctx.seams();
    let apis = ctx.start_several(2);
    let doomed = ctx.servers()[0].pid();
    let put = Filter::store("put").of(doomed).with("/");
    seams.decide(put, Times::All, Verdict::Crash);
    apis[1].upload(distinct_bytes(3000)).await.expect(201);
    let request = apis[0].request(reqwest::Method::POST, "/v1/images");
    let answer = apis[0].try_send(request.body(distinct_bytes(3000))).await;
    assert!(answer.is_err(), "{answer:?}");
    let status = ctx.servers()[0].exited().await;
    assert_eq!(status.signal(), Some(9));
}
