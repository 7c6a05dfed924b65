//! What is swept: each scenario as clients, an operator and the reapers play it. What comes before
//! `begin` meets no fault.
//!
//! The scenario of `hapax backfill` belongs here as soon as there is that command.

use super::gates::Reaper::{Deletions, Leases, Orphans};
use super::world::World;

/// Content that is not there.
pub(super) async fn new_upload(world: &mut World<'_>) {
    let bytes = world.bytes(1);
    world.begin();
    world.upload("new", &bytes).await;
}

/// Content that is there.
pub(super) async fn duplicate(world: &mut World<'_>) {
    let bytes = world.bytes(1);
    world.upload("first", &bytes).await;
    world.begin();
    world.upload("second", &bytes).await;
}

/// A reference by hash, without the bytes.
pub(super) async fn reference(world: &mut World<'_>) {
    let bytes = world.bytes(1);
    world.upload("first", &bytes).await;
    world.begin();
    world.reference("second", &bytes).await;
}

/// A write whose answer is lost: it is given up, and the next generation takes its place.
pub(super) async fn second_generation(world: &mut World<'_>) {
    let bytes = world.bytes(1);
    world.begin();
    world.lose_next_write();
    world.upload("new", &bytes).await;
    world.reap(Deletions).await;
    world.let_time_pass().await;
    world.reap(Deletions).await;
}

/// Several files in one request: one is there already, one comes twice.
pub(super) async fn several_files(world: &mut World<'_>) {
    let [old, new, other] = [1, 2, 3].map(|which| world.bytes(which));
    world.upload("first", &old).await;
    world.begin();
    let files = [&new[..], &old[..], &other[..], &new[..]];
    world.upload_files("several", &files).await;
}

/// The last reference goes, then the row, the object, and the row for good.
pub(super) async fn last_delete(world: &mut World<'_>) {
    let bytes = world.bytes(1);
    let id = world.upload("first", &bytes).await;
    world.begin();
    world.delete(&id).await;
    world.reap(Orphans).await;
    world.reap(Deletions).await;
}

/// The last reference goes, and the content comes back before a reaper saw it.
pub(super) async fn delete_and_upload_again(world: &mut World<'_>) {
    let bytes = world.bytes(1);
    let id = world.upload("first", &bytes).await;
    world.begin();
    world.delete(&id).await;
    world.upload("second", &bytes).await;
    world.reap(Orphans).await;
}

/// The content comes back when a reaper has claimed the row, and not yet deleted the object.
pub(super) async fn upload_after_the_claim(world: &mut World<'_>) {
    let bytes = world.bytes(1);
    let id = world.upload("first", &bytes).await;
    world.delete(&id).await;
    world.begin();
    world.reap(Orphans).await;
    world.upload("second", &bytes).await;
    world.reap(Deletions).await;
}

/// Three references of one content, the only one of another, one of two of a third.
pub(super) async fn bulk_delete(world: &mut World<'_>) {
    let [a, b, c] = [1, 2, 3].map(|which| world.bytes(which));
    let files = [&a[..], &a[..], &a[..], &b[..], &c[..], &c[..]];
    let mut ids = world.upload_files("all", &files).await;
    ids.pop();
    world.begin();
    world.delete_many(&ids).await;
    world.reap(Orphans).await;
    world.reap(Deletions).await;
}

/// One delivery, sent twice: one effect, one answer.
pub(super) async fn webhook_twice(world: &mut World<'_>) {
    let [a, b] = [1, 2].map(|which| world.bytes(which));
    let ids = world.upload_files("all", &[&a, &a, &b]).await;
    world.begin();
    let first = world.webhook("event", &ids[1..]).await;
    let again = world.webhook("event", &ids[1..]).await;
    assert_eq!(first, again);
}

/// `hapax cleanup`, beside a server.
pub(super) async fn clean_up(world: &mut World<'_>) {
    let [a, b, kept] = [1, 2, 3].map(|which| world.bytes(which));
    let ids = world.upload_files("all", &[&a, &b, &kept]).await;
    world.delete_many(&ids[..2]).await;
    world.begin();
    world.cleanup().await;
}

/// A damaged object is noticed by a read, and replaced by the next upload of its bytes.
pub(super) async fn heal(world: &mut World<'_>) {
    let bytes = world.bytes(1);
    let id = world.upload("first", &bytes).await;
    world.damage(&id, &bytes).await;
    world.begin();
    world.read_damaged(&id).await;
    world.upload("second", &bytes).await;
    world.truth.healed();
    world.reap(Deletions).await;
}

/// A writer died between its PUT and its commit; the same content was stored by another since.
pub(super) async fn expired_lease(world: &mut World<'_>) {
    let bytes = world.bytes(1);
    world.lose_next_write();
    world.fail_next_giving_up();
    world.upload("new", &bytes).await;
    world.outside.let_leases_run_out().await;
    world.begin();
    world.reap(Leases).await;
    // Once before the deadline of its PUT, once after: only then the row goes (rule R8).
    world.reap(Deletions).await;
    world.let_time_pass().await;
    world.reap(Deletions).await;
}

/// What is refused has no effect, whatever fails on the way to the refusal.
pub(super) async fn refused(world: &mut World<'_>) {
    let [bytes, other] = [1, 2].map(|which| world.bytes(which));
    world.upload("taken", &bytes).await;
    world.begin();
    world.upload_under_a_used_key("taken", &other).await;
    let nobody = uuid::Uuid::from_u128(7).to_string();
    let path = format!("/v1/images/{nobody}");
    let delete = |api: &crate::harness::Api| api.request(reqwest::Method::DELETE, &path);
    world.ask(404, delete).await.problem(404, "unknown-image");
    let unknown = serde_json::json!({ "content_hash": crate::harness::sha256_hex(&other) });
    let reference = |api: &crate::harness::Api| {
        api.request(reqwest::Method::POST, "/v1/images")
            .json(&unknown)
    };
    world
        .ask(404, reference)
        .await
        .problem(404, "unknown-content");
}
