//! The life of an original: from its first reference to the end of its last. The names are those of
//! the design that Hapax grew from.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    Action, Backend, Context, LEGACY_URL, Operation, cases, distinct_bytes, object_file,
    sha256_hex, small_png,
};

cases! {
    both: [
        decrement_with_several_references,
        decrement_with_last_reference,
        cleanup_of_orphaned_originals,
        cleanup_honours_older_than,
        deletion_calls_the_refcount_path_and_reports,
        deletion_succeeds_though_the_store_delete_fails,
        legacy_image_without_an_original,
        three_images_on_one_original_deleted_one_by_one,
        within_its_grace_period_an_original_is_taken_back_into_use,
        a_restart_keeps_everything,
    ],
}

/// 3 → 2: the original stays.
async fn decrement_with_several_references(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(1);
    let hash = sha256_hex(&bytes);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(api.upload_id(bytes.clone()).await);
    }
    let outside = ctx.outside().await;
    assert_eq!(
        outside.stored(&hash).await.expect("stored").reference_count,
        3
    );

    api.delete(&ids[0]).await.expect(200);

    let row = outside.stored(&hash).await.expect("the original is kept");
    assert_eq!(row.reference_count, 2);
    assert_eq!(row.zero_since, None);
    outside.rest().await;
    assert_eq!(outside.object_count().await, 1);
    assert_eq!(api.content(&ids[1]).await.expect(200).body, bytes);
    api.content(&ids[0]).await.problem(410, "image-deleted");
}

/// 1 → 0: the original goes from the store and from the database.
async fn decrement_with_last_reference(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(2);
    let id = api.upload_id(bytes.clone()).await;
    let outside = ctx.outside().await;
    assert_eq!(outside.object_count().await, 1);

    api.delete(&id).await.expect(200);

    outside.rest().await;
    assert_eq!(outside.originals().await, []);
    assert_eq!(outside.object_count().await, 0);
    let images = outside.images().await;
    assert_eq!(images.len(), 1, "usage history stays");
    assert!(images[0].deleted_at.is_some());
    assert_eq!(images[0].file_size, Some(bytes.len() as i64));
    assert_eq!(
        images[0].content_hash.map(|hash| hash.to_string()),
        Some(sha256_hex(&bytes))
    );
    assert!(images[0].was_original_id.is_some());
    api.original(&sha256_hex(&bytes))
        .await
        .problem(404, "unknown-original");
}

/// `hapax cleanup` removes originals without a reference, at most `--limit` of them; `--dry-run`
/// prints exactly what the live run then does.
async fn cleanup_of_orphaned_originals(ctx: &mut Context) {
    // So long that the server's own reapers leave everything to the command.
    ctx.set_grace(Duration::from_secs(3600));
    let api = ctx.start().await;
    let kept = api.upload_id(small_png(100)).await;
    let mut orphaned = Vec::new();
    for seed in 0..7 {
        let bytes = small_png(200 + seed);
        let id = api.upload_id(bytes.clone()).await;
        let reply = api.delete(&id).await.expect(200).json();
        assert_eq!(reply["original"]["state"], "scheduled", "{reply}");
        orphaned.push(sha256_hex(&bytes));
    }
    let outside = ctx.outside().await;
    assert_eq!(outside.object_count().await, 8);

    let arguments = ["cleanup", "--older-than", "0s", "--limit", "3"];
    let dry = ctx
        .hapax(&["cleanup", "--older-than", "0s", "--limit", "3", "--dry-run"])
        .exits_with(0);
    assert_eq!(outside.object_count().await, 8, "a dry run deletes nothing");
    let live = ctx.hapax(&arguments).exits_with(0);
    assert_eq!(hashes_in(&dry.stdout), hashes_in(&live.stdout));
    let first = hashes_in(&live.stdout);
    assert_eq!(first.len(), 3, "{}", live.stdout);
    assert!(
        first.iter().all(|hash| orphaned.contains(hash)),
        "{first:?}"
    );
    assert_eq!(outside.object_count().await, 5);

    ctx.hapax(&["cleanup", "--older-than", "0s", "--limit", "100"])
        .exits_with(0);
    assert_eq!(outside.object_count().await, 1);
    assert_eq!(outside.originals().await.len(), 1);
    api.content(&kept).await.expect(200);
}

/// `--older-than` leaves younger orphans alone.
async fn cleanup_honours_older_than(ctx: &mut Context) {
    ctx.set_grace(Duration::from_secs(3600));
    let api = ctx.start().await;
    let id = api.upload_id(small_png(300)).await;
    api.delete(&id).await.expect(200);
    let outside = ctx.outside().await;

    let run = ctx.hapax(&["cleanup", "--older-than", "1h"]).exits_with(0);
    assert_eq!(hashes_in(&run.stdout), Vec::<String>::new());
    assert_eq!(outside.object_count().await, 1);
    // Without the option the default of 24 h holds.
    ctx.hapax(&["cleanup"]).exits_with(0);
    assert_eq!(outside.object_count().await, 1);
}

/// Content hashes in the order in which a command printed them.
fn hashes_in(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_hexdigit())
        .filter(|word| word.len() == 64)
        .map(str::to_owned)
        .collect()
}

/// The answer to a deletion says what became of the original.
async fn deletion_calls_the_refcount_path_and_reports(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(3);
    let first = api.upload_id(bytes.clone()).await;
    let second = api.upload_id(bytes.clone()).await;
    let original = api.original(&sha256_hex(&bytes)).await.expect(200).json();

    let reply = api.delete(&first).await.expect(200).json();
    assert_eq!(reply["already_deleted"], false, "{reply}");
    assert_eq!(reply["original"]["id"], original["id"], "{reply}");
    assert_eq!(reply["original"]["reference_count"], 1, "{reply}");
    assert_eq!(reply["original"]["state"], "retained", "{reply}");
    assert_eq!(reply["original"]["purge_after"], Value::Null, "{reply}");

    // Again: nothing is counted twice.
    let again = api.delete(&first).await.expect(200).json();
    assert_eq!(again["already_deleted"], true, "{again}");
    assert_eq!(again["deleted_at"], reply["deleted_at"], "{again}");
    assert_eq!(again["original"]["reference_count"], 1, "{again}");

    let last = api.delete(&second).await.expect(200).json();
    assert_eq!(last["original"]["reference_count"], 0, "{last}");
    assert_eq!(last["original"]["state"], "deleting", "{last}");
    ctx.outside().await.rest().await;
    let later = api.delete(&second).await.expect(200).json();
    assert_eq!(later["already_deleted"], true, "{later}");
}

/// The client's deletion does not wait for the store, and the bytes go when the store works again.
async fn deletion_succeeds_though_the_store_delete_fails(ctx: &mut Context) {
    let api = ctx.start().await;
    let id = api.upload_id(small_png(4)).await;
    let outside = ctx.outside().await;
    let key = outside.originals().await[0].s3_key.clone();
    let object = ctx.path(&object_file(&key));
    let aside = ctx.path("aside");
    if ctx.backend == Backend::SqliteLocal {
        // A folder with something in it cannot be unlinked, not even by root.
        std::fs::rename(&object, &aside).expect("the object is there");
        std::fs::create_dir(&object).expect("its name is free");
        std::fs::write(object.join("in-the-way"), "x").expect("the folder is there");
    } else {
        let always = Action::Refuse(500);
        ctx.arm(Operation::Delete, usize::MAX, always.clone());
        ctx.arm(Operation::DeleteMany, usize::MAX, always);
    }

    let reply = api.delete(&id).await.expect(200).json();
    assert_eq!(reply["original"]["state"], "deleting", "{reply}");
    api.image(&id).await.problem(410, "image-deleted");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rows = outside.originals().await;
    assert_eq!(rows.len(), 1, "the row is the only name of the bytes");
    assert!(
        rows[0].attempts > 0 && rows[0].last_error.is_some(),
        "{rows:?}"
    );
    assert_eq!(outside.object_count().await, 1);

    if ctx.backend == Backend::SqliteLocal {
        std::fs::remove_dir_all(&object).expect("the folder is there");
        std::fs::rename(&aside, &object).expect("its name is free");
    } else {
        ctx.disarm();
    }
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
    assert_eq!(outside.originals().await, []);
}

/// A row of an older application: readable, deletable, and never counted.
async fn legacy_image_without_an_original(ctx: &mut Context) {
    let outside = ctx.outside().await;
    outside
        .sql(
            "CREATE TABLE images (id integer PRIMARY KEY, original_url text, filename text,
             created_at text)",
        )
        .await;
    outside
        .sql(&format!(
            "INSERT INTO images (id, original_url, filename, created_at) VALUES
             (7, '{LEGACY_URL}', 'photo.jpg', '2020-02-03 04:05:06'),
             (8, 'javascript:alert(1)', 'not a location', NULL)"
        ))
        .await;
    let api = ctx.start().await;
    let id = "00000000-0000-0000-0000-000000000007";

    let image = api.image(id).await.expect(200).json();
    assert_eq!(image["original_image_id"], Value::Null, "{image}");
    assert_eq!(image["filename"], "photo.jpg", "{image}");
    let created = image["created_at"].as_str().expect("a time");
    assert!(created.starts_with("2020-02-03T04:05:06"), "{image}");
    let content = api.content(id).await;
    assert_eq!(
        content.header("location").as_deref(),
        Some(LEGACY_URL),
        "{content:?}"
    );
    assert!((300..400).contains(&content.status), "{content:?}");

    let nowhere = "00000000-0000-0000-0000-000000000008";
    api.content(nowhere).await.problem(404, "no-location");
    api.delete(nowhere).await.expect(200);

    let new = api.upload_id(small_png(5)).await;
    let listed = api.get("/v1/images").await.expect(200).image_ids();
    assert_eq!(listed, [new.clone(), id.to_owned()]);

    let reply = api.delete(id).await.expect(200).json();
    assert_eq!(reply["original"], Value::Null, "{reply}");
    assert_eq!(reply["already_deleted"], false, "{reply}");
    api.image(id).await.problem(410, "image-deleted");
    assert_eq!(
        api.delete(id).await.expect(200).json()["already_deleted"],
        true
    );
    let rows = outside.originals().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].reference_count, 1, "nobody else's count moved");
    api.content(&new).await.expect(200);
}

/// End to end: the object goes after the third deletion, and not before.
async fn three_images_on_one_original_deleted_one_by_one(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(200_000);
    let mut ids = Vec::new();
    for expected in [false, true, true] {
        let image = api.upload(bytes.clone()).await.expect(201).json();
        assert_eq!(image["deduplicated"], expected, "{image}");
        ids.push(image["id"].as_str().expect("an id").to_owned());
    }
    let outside = ctx.outside().await;
    for (deleted, id) in ids.iter().enumerate() {
        assert_eq!(outside.object_count().await, 1, "after {deleted} deletions");
        for live in &ids[deleted..] {
            assert_eq!(api.content(live).await.expect(200).body, bytes);
        }
        let reply = api.delete(id).await.expect(200).json();
        assert_eq!(reply["original"]["reference_count"], 2 - deleted, "{reply}");
        outside.rest().await;
    }
    assert_eq!(outside.object_count().await, 0);
    assert_eq!(outside.originals().await, []);
}

/// The second upload finds the bytes that nobody referenced any more.
async fn within_its_grace_period_an_original_is_taken_back_into_use(ctx: &mut Context) {
    ctx.set_grace(Duration::from_secs(3600));
    let api = ctx.start().await;
    let bytes = small_png(6);
    let id = api.upload_id(bytes.clone()).await;
    let reply = api.delete(&id).await.expect(200).json();
    assert_eq!(reply["original"]["state"], "scheduled", "{reply}");
    let purge_after = reply["original"]["purge_after"].as_str().expect("a time");
    let purge_after = chrono::DateTime::parse_from_rfc3339(purge_after).expect("RFC 3339");
    let minutes = (purge_after.to_utc() - chrono::Utc::now()).num_minutes();
    assert!((58..=60).contains(&minutes), "{reply}");

    let reply = api.upload(bytes).await.expect(201);
    assert_eq!(reply.header("x-dedup").as_deref(), Some("resurrected"));
    assert_eq!(reply.json()["deduplicated"], true);
    let rows = ctx.outside().await.originals().await;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].reference_count, rows[0].zero_since), (1, None));
}

/// Images, counts and bytes outlive the process.
async fn a_restart_keeps_everything(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(7);
    let id = api.upload_id(bytes.clone()).await;
    let before = api.image(&id).await.expect(200).json();
    assert!(ctx.server().stop().await.success(), "a stop ends with 0");

    let api = ctx.start().await;
    assert_eq!(api.image(&id).await.expect(200).json(), before);
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
    let again = api.upload(bytes).await.expect(201);
    assert_eq!(again.header("x-dedup").as_deref(), Some("hit"));
}
