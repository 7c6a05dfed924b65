//! `hapax verify` against damage of every kind, beside the running server.

use std::time::{Duration, Instant};

use sea_orm::EntityTrait;
use serde_json::Value;

use crate::harness::{
    Action, Api, Context, Operation, Outside, cases, distinct_bytes, seeded_bytes, sha256_hex,
    small_png,
};

cases! {
    both: [
        a_sound_store,
        a_missing_object_from_repair_to_clean,
        an_object_of_the_wrong_size,
        wrong_bytes_only_when_deep,
        a_sample_is_the_same_for_the_same_seed,
        a_stray_is_handed_to_the_reaper,
        too_many_strays_are_left_alone,
        a_count_that_is_too_high_or_too_low,
        an_image_row_that_is_gone,
        usage_counters_are_set_right,
        an_interrupted_run_is_resumed,
        resuming_at_another_depth_is_refused,
        everything_that_is_wrong_at_once,
    ],
    postgres_s3: [a_row_between_list_and_select, a_read_that_fails_is_not_missing],
}

pub(crate) async fn sound_store(ctx: &mut Context) -> Api {
    let api = ctx.start().await;
    for seed in 0..5 {
        api.upload(small_png(seed)).await.expect(201);
        api.upload(small_png(seed)).await.expect(201);
    }
    api
}

/// The key of a content that is stored.
pub(crate) async fn key_of(outside: &Outside, bytes: &[u8]) -> String {
    let row = outside.stored(&sha256_hex(bytes)).await;
    row.expect("stored").s3_key
}

/// Plants an object that no row knows; its key.
pub(crate) async fn plant_stray(ctx: &mut Context, bytes: &[u8]) -> String {
    let hash = sha256_hex(bytes);
    let generation = uuid::Uuid::new_v4();
    let key = format!("{}{}/{hash}/{generation}", ctx.key_prefix(), &hash[..2]);
    ctx.outside().await.plant_object(&key, bytes).await;
    key
}

/// What was found, by its word.
fn problems(output: &Value) -> Vec<&str> {
    let findings = output["findings"].as_array().expect("a list");
    findings
        .iter()
        .map(|finding| finding["problem"].as_str().expect("a word"))
        .collect()
}

/// Waits until the command has kept such progress.
async fn kept(outside: &Outside, is_there: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let row = entity::verify_passes::Entity::find_by_id("command")
            .one(&outside.database)
            .await
            .expect("the table can be read")
            .expect("the row is there");
        if row.progress.as_ref().is_some_and(&is_there) {
            return;
        }
        assert!(Instant::now() < deadline, "not kept: {row:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_sound_store(ctx: &mut Context) {
    sound_store(ctx).await;
    ctx.hapax(&["verify"]).exits_with(0);
    let deep = ctx
        .hapax(&["verify", "--deep", "--json"])
        .exits_with(0)
        .json();
    assert_eq!(deep["ok"], true, "{deep}");
    assert_eq!(deep["complete"], true, "{deep}");
    assert!(problems(&deep).is_empty(), "{deep}");
    assert_eq!(deep["hashed"], 5, "{deep}");
    // Also without a server.
    ctx.server().stop().await;
    ctx.hapax(&["verify", "--deep"]).exits_with(0);
}

/// verify --repair → upload → healed → verify clean.
async fn a_missing_object_from_repair_to_clean(ctx: &mut Context) {
    let api = sound_store(ctx).await;
    let outside = ctx.outside().await;
    let key = key_of(&outside, &small_png(2)).await;
    outside.take_object(&key).await;
    let found = ctx.hapax(&["verify", "--json"]).exits_with(1).json();
    assert_eq!(found["ok"], false, "{found}");
    assert_eq!(problems(&found), ["missing_object"], "{found}");
    let row = outside.stored(&sha256_hex(&small_png(2))).await;
    assert_eq!(row.expect("stored").damaged_at, None, "it only reports");
    ctx.hapax(&["verify", "--repair"]).exits_with(1);
    let row = outside.stored(&sha256_hex(&small_png(2))).await;
    assert!(row.expect("stored").damaged_at.is_some());
    let healed = api.upload(small_png(2)).await.expect(201);
    assert_eq!(healed.header("x-dedup").as_deref(), Some("repaired"));
    outside.rest().await;
    let clean = ctx.hapax(&["verify", "--deep", "--json"]).exits_with(0);
    assert_eq!(clean.json()["hashed"], 5);
}

async fn an_object_of_the_wrong_size(ctx: &mut Context) {
    let api = sound_store(ctx).await;
    let outside = ctx.outside().await;
    let bytes = small_png(1);
    let key = key_of(&outside, &bytes).await;
    for (wrong, length) in [(&bytes[..9], 9), (&[7; 4000][..], 4000)] {
        outside.plant_object(&key, wrong).await;
        let found = ctx.hapax(&["verify", "--json"]).exits_with(1).json();
        assert_eq!(problems(&found), ["wrong_size"], "{found}");
        assert_eq!(found["findings"][0]["actual"], length, "{found}");
        assert_eq!(found["findings"][0]["expected"], bytes.len(), "{found}");
        // Reading it too says no more.
        let deep = ctx.hapax(&["verify", "--deep", "--json"]).exits_with(1);
        assert_eq!(problems(&deep.json()), ["wrong_size"]);
    }
    ctx.hapax(&["verify", "--repair"]).exits_with(1);
    let healed = api.upload(bytes).await.expect(201);
    assert_eq!(healed.header("x-dedup").as_deref(), Some("repaired"));
    outside.rest().await;
    ctx.hapax(&["verify", "--deep"]).exits_with(0);
}

async fn wrong_bytes_only_when_deep(ctx: &mut Context) {
    let api = sound_store(ctx).await;
    let outside = ctx.outside().await;
    let bytes = small_png(3);
    let key = key_of(&outside, &bytes).await;
    let mut rotten = bytes.clone();
    rotten[20] ^= 1;
    outside.plant_object(&key, &rotten).await;
    ctx.hapax(&["verify"]).exits_with(0);
    let found = ctx
        .hapax(&["verify", "--deep", "--repair", "--json"])
        .exits_with(1)
        .json();
    assert_eq!(problems(&found), ["wrong_bytes"], "{found}");
    assert_eq!(found["findings"][0]["actual"], sha256_hex(&rotten));
    let healed = api.upload(bytes).await.expect(201);
    assert_eq!(healed.header("x-dedup").as_deref(), Some("repaired"));
    outside.rest().await;
    ctx.hapax(&["verify", "--deep"]).exits_with(0);
}

async fn a_sample_is_the_same_for_the_same_seed(ctx: &mut Context) {
    let api = ctx.start().await;
    for seed in 0..40 {
        api.upload(seeded_bytes(7000 + seed, 100)).await.expect(201);
    }
    let hashed = |seed: &str| {
        let arguments = [
            "verify", "--deep", "--sample", "25%", "--seed", seed, "--json",
        ];
        let output = ctx.hapax(&arguments).exits_with(0).json();
        output["hashed"].as_u64().expect("a number")
    };
    let first = hashed("3");
    assert_eq!(first, hashed("3"));
    assert_eq!(first + hashed("4") + hashed("5") + hashed("6"), 40);
    // By default it is the day's.
    let output = ctx.hapax(&["verify", "--deep", "--sample", "25%"]);
    let output = output.exits_with(0);
    assert!(
        output.stdout.contains("a sample of 25%, seed "),
        "{output:?}"
    );
}

async fn a_stray_is_handed_to_the_reaper(ctx: &mut Context) {
    sound_store(ctx).await;
    let outside = ctx.outside().await;
    let key = plant_stray(ctx, b"stray").await;
    let found = ctx.hapax(&["verify", "--json"]).exits_with(1).json();
    assert_eq!(problems(&found), ["stray"], "{found}");
    assert_eq!(found["findings"][0]["key"], key, "{found}");
    assert_eq!(outside.object_count().await, 6, "it only reports");
    ctx.hapax(&["verify", "--repair"]).exits_with(1);
    // The object goes at once; its row when no PUT can land any more.
    let deadline = Instant::now() + Duration::from_secs(20);
    while outside.object_count().await > 5 {
        assert!(Instant::now() < deadline, "the reaper deletes it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ctx.hapax(&["verify"]).exits_with(0);
    // A PUT that lands late is deleted again.
    outside.plant_object(&key, b"stray").await;
    ctx.hapax(&["verify"]).exits_with(0);
    outside.rest().await;
    assert_eq!(outside.object_count().await, 5);
    // What is not Hapax's own is never touched.
    let foreign = format!("{}somebody/elses.txt", ctx.key_prefix());
    outside.plant_object(&foreign, b"text").await;
    ctx.hapax(&["verify", "--repair"]).exits_with(0);
    assert_eq!(outside.object_count().await, 6);
    outside.take_object(&foreign).await;
}

/// Rule R12: more than max(100, 1 %) of a page are not believed.
async fn too_many_strays_are_left_alone(ctx: &mut Context) {
    sound_store(ctx).await;
    let outside = ctx.outside().await;
    let mut keys = Vec::new();
    for number in 0..101 {
        keys.push(plant_stray(ctx, &seeded_bytes(8000 + number, 20)).await);
    }
    let found = ctx
        .hapax(&["verify", "--repair", "--json"])
        .exits_with(1)
        .json();
    assert_eq!(problems(&found)[0], "too_many_strays", "{found}");
    assert_eq!(found["strays"], 101, "{found}");
    assert_eq!(found["repaired"], 0, "{found}");
    let rows = outside.originals().await;
    assert_eq!(rows.len(), 5, "none got a row");
    assert_eq!(outside.object_count().await, 106);
    // One fewer is believed.
    outside.take_object(&keys[0]).await;
    let found = ctx.hapax(&["verify", "--repair", "--json"]).exits_with(1);
    assert_eq!(found.json()["repaired"], 100);
    outside.rest().await;
    ctx.hapax(&["verify"]).exits_with(0);
}

async fn a_count_that_is_too_high_or_too_low(ctx: &mut Context) {
    let api = sound_store(ctx).await;
    let outside = ctx.outside().await;
    for count in ["7", "1"] {
        let statement = format!("UPDATE original_images SET reference_count = {count}");
        outside.sql(&statement).await;
        let found = ctx.hapax(&["verify", "--json"]).exits_with(1).json();
        assert_eq!(problems(&found), ["wrong_count"; 5], "{found}");
        assert_eq!(found["findings"][0]["live_images"], 2, "{found}");
        assert_eq!(found["findings"][0]["state"], "stored", "{found}");
        assert_eq!(found["findings"][0]["reference_count"].to_string(), count);
        let repaired = ctx.hapax(&["verify", "--repair", "--json"]).exits_with(1);
        assert_eq!(repaired.json()["repaired"], 5);
        ctx.hapax(&["verify"]).exits_with(0);
    }
    let original = api.original(&sha256_hex(&small_png(0))).await.expect(200);
    assert_eq!(original.json()["reference_count"], 2);
}

/// Of a tenant whose rows somebody moved by hand, or that an older version changed.
async fn usage_counters_are_set_right(ctx: &mut Context) {
    let api = sound_store(ctx).await;
    let right = api.get("/v1/stats").await.expect(200).json();
    let outside = ctx.outside().await;
    outside
        .sql("UPDATE usage_counters SET images = images + 3, stored_bytes = 0")
        .await;
    let wrong = api.get("/v1/stats").await.expect(200).json();
    assert_ne!(wrong["images"], right["images"], "{wrong}");
    for (arguments, left) in [
        (&["verify", "--json"][..], 1),
        (&["verify", "--repair", "--json"], 0),
        (&["verify", "--json"], 0),
    ] {
        let told = ctx.hapax(arguments).exits_with(0).json();
        assert_eq!(told["wrong_usage"], left, "{arguments:?}: {told}");
        assert_eq!(problems(&told), [""; 0], "{told}");
    }
    assert_eq!(api.get("/v1/stats").await.expect(200).json(), right);
}

/// Somebody deleted images by hand: the count falls to what is left, and with none left the original
/// goes.
async fn an_image_row_that_is_gone(ctx: &mut Context) {
    let api = ctx.start().await;
    let (kept, gone) = (distinct_bytes(300), distinct_bytes(300));
    api.upload(kept.clone()).await.expect(201);
    let second = api.upload_id(kept.clone()).await;
    let only = api.upload_id(gone).await;
    let outside = ctx.outside().await;
    for id in [second, only] {
        let id = match ctx.is_sqlite() {
            true => format!("unhex('{}')", id.replace('-', "")),
            false => format!("'{id}'::uuid"),
        };
        outside
            .sql(&format!("DELETE FROM images WHERE id = {id}"))
            .await;
    }
    // The counters of usage are not what this is about.
    outside
        .sql(
            "UPDATE usage_counters SET images = images - 2, logical_bytes = logical_bytes - 600
             WHERE owner = 'default' AND slot = (SELECT min(slot) FROM usage_counters
                WHERE owner = 'default')",
        )
        .await;
    let found = ctx
        .hapax(&["verify", "--repair", "--json"])
        .exits_with(1)
        .json();
    assert_eq!(problems(&found), ["wrong_count"; 2], "{found}");
    outside.rest().await;
    assert_eq!(outside.object_count().await, 1);
    let row = outside.stored(&sha256_hex(&kept)).await.expect("stored");
    assert_eq!(row.reference_count, 1);
    ctx.hapax(&["verify"]).exits_with(0);
}

async fn an_interrupted_run_is_resumed(ctx: &mut Context) {
    let api = ctx.start().await;
    for seed in 0..30 {
        api.upload(seeded_bytes(9000 + seed, 1000))
            .await
            .expect(201);
    }
    let outside = ctx.outside().await;
    let key = key_of(&outside, &seeded_bytes(9000, 1000)).await;
    outside.take_object(&key).await;
    // Rows beside objects take six seconds, and counts as long.
    let running = ctx.begin_hapax(&["verify", "--rate", "5", "--json"]);
    kept(&outside, |progress| progress["cursor"]["stage"] == "counts").await;
    running.terminate();
    let cut = running.end().exits_with(1);
    assert!(cut.stderr.contains("--resume"), "{cut:?}");
    let cut = cut.json();
    assert_eq!(problems(&cut), ["missing_object"], "{cut}");
    assert_eq!(
        (&cut["complete"], &cut["ok"]),
        (&false.into(), &false.into())
    );
    assert_eq!(cut["rows"], 30, "{cut}");
    // It finds nothing again, but remembers what was found.
    let rest = ctx.hapax(&["verify", "--resume", "--json"]).exits_with(1);
    assert!(rest.stderr.contains("going on"), "{rest:?}");
    let rest = rest.json();
    assert!(problems(&rest).is_empty(), "{rest}");
    assert_eq!(rest["complete"], true, "{rest}");
    for (figure, expected) in [
        ("rows", 30),
        ("counts", 30),
        ("problems", 1),
        ("missing", 1),
    ] {
        assert_eq!(rest[figure], expected, "{figure}: {rest}");
    }
    // With nothing left to resume it begins anew.
    let anew = ctx.hapax(&["verify", "--resume", "--json"]).exits_with(1);
    assert_eq!(problems(&anew.json()), ["missing_object"]);
    outside.plant_object(&key, &seeded_bytes(9000, 1000)).await;
    ctx.hapax(&["verify", "--resume"]).exits_with(0);
}

async fn resuming_at_another_depth_is_refused(ctx: &mut Context) {
    sound_store(ctx).await;
    let slow = [
        "verify", "--deep", "--sample", "50%", "--seed", "9", "--rate", "1",
    ];
    let running = ctx.begin_hapax(&slow);
    let outside = ctx.outside().await;
    kept(&outside, |_| true).await;
    running.terminate();
    running.end().exits_with(1);
    for other in [
        &["verify", "--resume"][..],
        &["verify", "--resume", "--deep"],
        &[
            "verify", "--resume", "--deep", "--sample", "50%", "--seed", "10",
        ],
    ] {
        let refused = ctx.hapax(other).exits_with(2);
        assert!(
            refused.stderr.contains("--sample 50% --seed 9"),
            "{refused:?}"
        );
    }
    // The seed need not be said again.
    ctx.hapax(&["verify", "--resume", "--deep", "--sample", "50%"])
        .exits_with(0);
}

async fn everything_that_is_wrong_at_once(ctx: &mut Context) {
    let api = sound_store(ctx).await;
    let outside = ctx.outside().await;
    let images: Vec<Vec<u8>> = (0..5).map(small_png).collect();
    outside
        .take_object(&key_of(&outside, &images[0]).await)
        .await;
    let short = key_of(&outside, &images[1]).await;
    outside.plant_object(&short, b"short").await;
    let mut rotten = images[2].clone();
    rotten[30] ^= 0x40;
    let key = key_of(&outside, &images[2]).await;
    outside.plant_object(&key, &rotten).await;
    let key = key_of(&outside, &images[3]).await;
    outside
        .sql(&format!(
            "UPDATE original_images SET reference_count = 5 WHERE s3_key = '{key}'"
        ))
        .await;
    plant_stray(ctx, b"nobody's").await;
    let found = ctx
        .hapax(&["verify", "--deep", "--repair", "--json"])
        .exits_with(1)
        .json();
    let mut words = problems(&found);
    words.sort_unstable();
    assert_eq!(
        words,
        [
            "missing_object",
            "stray",
            "wrong_bytes",
            "wrong_count",
            "wrong_size"
        ],
        "{found}"
    );
    assert_eq!(
        (&found["problems"], &found["repaired"]),
        (&5.into(), &5.into())
    );
    for bytes in images {
        api.upload(bytes).await.expect(201);
    }
    outside.rest().await;
    ctx.hapax(&["verify", "--deep"]).exits_with(0);
}

/// scrub-lists-before-commit, forced: the listing is taken, then an upload is acknowledged, then its
/// row is read beside a listing that does not have it.
async fn a_row_between_list_and_select(ctx: &mut Context) {
    let api = sound_store(ctx).await;
    let mut listed = ctx.arm(Operation::List, 1, Action::HoldAfter);
    let upload = async {
        listed.reached(1).await;
        api.upload(small_png(77)).await.expect(201);
        let replaced = api.upload_id(distinct_bytes(50)).await;
        api.delete(&replaced).await.expect(200);
        listed.release();
    };
    let verify = ctx.hapax_beside(&["verify", "--deep", "--repair", "--json"]);
    let (output, ()) = futures::join!(verify, upload);
    let output = output.exits_with(0).json();
    assert_eq!(output["objects"], 5, "{output}");
    assert!(output["second_looks"].as_u64() >= Some(1), "{output}");
}

async fn a_read_that_fails_is_not_missing(ctx: &mut Context) {
    sound_store(ctx).await;
    let outside = ctx.outside().await;
    let key = key_of(&outside, &small_png(2)).await;
    outside.take_object(&key).await;
    for status in [500, 403] {
        let armed = ctx.arm(Operation::Head, usize::MAX, Action::Refuse(status));
        let found = ctx
            .hapax_beside(&["verify", "--repair", "--json"])
            .await
            .exits_with(1)
            .json();
        assert_eq!(problems(&found), ["unreadable"], "{found}");
        ctx.disarm();
        drop(armed);
    }
    outside.plant_object(&key, &small_png(2)).await;
    let armed = ctx.arm(Operation::Get, usize::MAX, Action::Refuse(500));
    let found = ctx
        .hapax_beside(&["verify", "--deep", "--repair", "--json"])
        .await
        .exits_with(1)
        .json();
    assert_eq!(problems(&found), ["unreadable"; 5], "{found}");
    ctx.disarm();
    drop(armed);
    let rows = outside.originals().await;
    assert!(rows.iter().all(|row| row.damaged_at.is_none()));
    ctx.hapax(&["verify", "--deep"]).exits_with(0);
}
