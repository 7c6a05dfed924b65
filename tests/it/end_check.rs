//! The check that every case ends with, checked itself: it sees each thing it is there to see.

use migration::{Migrator, MigratorTrait};

use crate::harness::{Context, Outside, cases, sha256_hex};

cases! {
    both: [
        a_sound_store_passes,
        a_stray_object_is_seen,
        a_missing_object_is_seen,
        a_truncated_object_is_seen,
        a_wrong_count_is_seen,
        a_wrong_counter_is_seen,
        open_work_is_seen,
        unreferenced_past_its_grace_is_seen,
    ],
}

const KEY: &str = "ab/some/object";

/// One original with one image, made by hand.
async fn sound_store(ctx: &mut Context) -> Outside {
    ctx.without_end_check("no server ever ran on these rows");
    let outside = ctx.outside().await;
    Migrator::up(&outside.database, None).await.expect("up");
    let prefix = ctx.key_prefix();
    let hash = sha256_hex(b"bytes");
    let (id, blob) = match ctx.is_sqlite() {
        true => ("unhex('00000000000000000000000000000001')", "unhex"),
        false => ("'00000000-0000-0000-0000-000000000001'::uuid", "hex"),
    };
    let hash = match blob {
        "unhex" => format!("unhex('{hash}')"),
        _ => format!("'\\x{hash}'::bytea"),
    };
    let time = match ctx.is_sqlite() {
        true => "'2026-01-01T00:00:00.000+00:00'",
        false => "now()",
    };
    outside
        .sql(&format!(
            "INSERT INTO original_images
             (id, scope, content_hash, file_size, s3_key, state, reference_count, put_deadline, stored_at)
             VALUES ({id}, 'default', {hash}, 5, '{prefix}{KEY}', 'stored', 1, {time}, {time})"
        ))
        .await;
    outside
        .sql(&format!(
            "INSERT INTO images (id, original_image_id, content_hash, file_size)
             VALUES ({id}, {id}, {hash}, 5)"
        ))
        .await;
    outside
        .sql(
            "INSERT INTO usage_counters (owner, slot, images, logical_bytes, originals, stored_bytes)
             VALUES ('default', 0, 1, 5, 1, 5)",
        )
        .await;
    outside
        .plant_object(&format!("{prefix}{KEY}"), b"bytes")
        .await;
    outside
}

async fn sees(outside: &Outside, what: &str) {
    let wrong = outside.wrong().await;
    assert!(
        wrong.iter().any(|text| text.contains(what)),
        "{what}: {wrong:?}"
    );
}

async fn a_sound_store_passes(ctx: &mut Context) {
    let outside = sound_store(ctx).await;
    assert_eq!(outside.wrong().await, Vec::<String>::new());
}

async fn a_stray_object_is_seen(ctx: &mut Context) {
    let outside = sound_store(ctx).await;
    outside
        .plant_object(&format!("{}cd/stray", ctx.key_prefix()), b"?")
        .await;
    sees(&outside, "cd/stray has no stored row").await;
}

async fn a_missing_object_is_seen(ctx: &mut Context) {
    let outside = sound_store(ctx).await;
    outside
        .take_object(&format!("{}{KEY}", ctx.key_prefix()))
        .await;
    sees(&outside, "its object is None").await;
}

async fn a_truncated_object_is_seen(ctx: &mut Context) {
    let outside = sound_store(ctx).await;
    outside
        .plant_object(&format!("{}{KEY}", ctx.key_prefix()), b"byte")
        .await;
    sees(&outside, "its object is Some(4)").await;
}

async fn a_wrong_count_is_seen(ctx: &mut Context) {
    let outside = sound_store(ctx).await;
    outside
        .sql("UPDATE original_images SET reference_count = 2")
        .await;
    sees(&outside, "counts 2, has 1").await;
}

async fn a_wrong_counter_is_seen(ctx: &mut Context) {
    let outside = sound_store(ctx).await;
    outside.sql("UPDATE usage_counters SET images = 2").await;
    sees(&outside, "the counters of \"default\"").await;
}

async fn open_work_is_seen(ctx: &mut Context) {
    let outside = sound_store(ctx).await;
    outside.sql("DELETE FROM images").await;
    outside
        .sql("UPDATE original_images SET state = 'deleting', reference_count = 0")
        .await;
    sees(&outside, "is Deleting").await;
}

async fn unreferenced_past_its_grace_is_seen(ctx: &mut Context) {
    let outside = sound_store(ctx).await;
    outside.sql("DELETE FROM images").await;
    outside
        .sql("UPDATE original_images SET reference_count = 0, zero_since = created_at")
        .await;
    sees(&outside, "past its grace").await;
}
