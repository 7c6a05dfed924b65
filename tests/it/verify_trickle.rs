//! The verification that `serve` does by itself.

use std::time::{Duration, Instant};

use crate::harness::{Api, Context, cases, seeded_bytes, sha256_hex, small_png};
use crate::verify::{key_of, plant_stray, sound_store};

cases! {
    both: [
        it_tells_what_is_wrong_and_repairs_nothing,
        it_goes_on_after_a_restart,
        it_can_be_turned_off,
        it_does_not_keep_a_server_from_stopping,
    ],
    postgres_s3: [one_node_at_a_time],
}

/// Passes that follow each other, as fast as they may.
fn eager(ctx: &mut Context) {
    ctx.set("VERIFY__INTERVAL", "1s");
    ctx.set("VERIFY__RATE", "1000000");
    ctx.set("VERIFY__DEEP_SAMPLE", "100%");
}

async fn passes(ctx: &mut Context) -> i64 {
    let outside = ctx.outside().await;
    background(&outside).await.passes
}

async fn background(outside: &crate::harness::Outside) -> entity::verify_passes::Model {
    use sea_orm::EntityTrait;
    entity::verify_passes::Entity::find_by_id("background")
        .one(&outside.database)
        .await
        .expect("the table can be read")
        .expect("the row is there")
}

/// Waits for a whole pass that begins from now on.
async fn a_pass(ctx: &mut Context) {
    let from = passes(ctx).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while passes(ctx).await < from + 2 {
        assert!(Instant::now() < deadline, "passes come to their end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Gauges are refreshed now and then.
async fn wait_for_gauge(api: &Api, name: &str, expected: f64) {
    let deadline = Instant::now() + Duration::from_secs(75);
    loop {
        let found = api.metric(name).await;
        if found == expected {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{name} is {found}, not {expected}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn it_tells_what_is_wrong_and_repairs_nothing(ctx: &mut Context) {
    eager(ctx);
    let api = sound_store(ctx).await;
    let outside = ctx.outside().await;
    a_pass(ctx).await;
    let row = background(&outside).await;
    assert_eq!(row.result.expect("a result")["problems"], 0);

    outside
        .take_object(&key_of(&outside, &small_png(1)).await)
        .await;
    let mut rotten = small_png(2);
    rotten[40] ^= 2;
    let key = key_of(&outside, &small_png(2)).await;
    outside.plant_object(&key, &rotten).await;
    let key = key_of(&outside, &small_png(3)).await;
    let count = format!("UPDATE original_images SET reference_count = 9 WHERE s3_key = '{key}'");
    outside.sql(&count).await;
    let stray = plant_stray(ctx, b"nobody's").await;
    a_pass(ctx).await;
    let result = background(&outside).await.result.expect("a result");
    for (figure, expected) in [("missing", 2), ("strays", 1), ("wrong_counts", 1)] {
        assert_eq!(result[figure], expected, "{figure}: {result}");
    }
    // What a read would have marked is marked, and nothing else was touched.
    for (seed, damaged) in [(0, false), (1, true), (2, true), (3, false)] {
        let row = outside.stored(&sha256_hex(&small_png(seed))).await;
        assert_eq!(row.expect("stored").damaged_at.is_some(), damaged, "{seed}");
    }
    assert!(outside.objects().await.contains_key(&stray));
    assert_eq!(outside.originals().await.len(), 5);
    let log = std::fs::read_to_string(&ctx.server().log).expect("there is a log");
    for word in ["missing_object", "wrong_bytes", "wrong_count", "stray"] {
        assert!(
            log.contains(&format!("problem=\"{word}\"")),
            "{word} is in the log"
        );
    }
    for (name, expected) in [
        ("hapax_blob_missing", 2.0),
        ("hapax_stray_objects", 1.0),
        ("hapax_refcount_mismatch", 1.0),
        ("hapax_verify_unreadable", 0.0),
    ] {
        wait_for_gauge(&api, name, expected).await;
    }
    assert!(api.metric("hapax_verify_last_pass_timestamp_seconds").await > 1.7e9);

    // An operator mends it; the next pass is clean, and so are the gauges.
    ctx.hapax(&["verify", "--repair"]).exits_with(1);
    for seed in [1, 2] {
        let healed = api.upload(small_png(seed)).await.expect(201);
        assert_eq!(healed.header("x-dedup").as_deref(), Some("repaired"));
    }
    a_pass(ctx).await;
    for name in [
        "hapax_blob_missing",
        "hapax_stray_objects",
        "hapax_refcount_mismatch",
    ] {
        wait_for_gauge(&api, name, 0.0).await;
    }
}

/// A node that is killed in the middle of a pass leaves where it was.
async fn it_goes_on_after_a_restart(ctx: &mut Context) {
    ctx.set("VERIFY__INTERVAL", "1s");
    ctx.set("VERIFY__RATE", "10");
    let api = ctx.start().await;
    for seed in 0..20 {
        api.upload(seeded_bytes(11_000 + seed, 100))
            .await
            .expect(201);
    }
    let outside = ctx.outside().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let kept = loop {
        // The objects are done, which at ten a second buys two seconds before the counts.
        match background(&outside).await.progress {
            Some(progress)
                if progress["cursor"]["stage"] == "counts" && progress["summary"]["rows"] == 20 =>
            {
                break progress;
            }
            _ => {}
        }
        assert!(Instant::now() < deadline, "a pass is under way");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let passes = background(&outside).await.passes;
    ctx.server().kill();
    // Not seen by a pass that goes on after the objects.
    let key = key_of(&outside, &seeded_bytes(11_000, 100)).await;
    let bytes = outside.read_object(&key).await;
    outside.take_object(&key).await;
    ctx.start().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while background(&outside).await.passes == passes {
        assert!(Instant::now() < deadline, "it comes to its end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    outside.plant_object(&key, &bytes).await;
    let result = background(&outside).await.result.expect("a result");
    assert_eq!(
        (&result["rows"], &result["missing"]),
        (&20.into(), &0.into()),
        "{kept} {result}"
    );
    // A pass after it may have seen the hole.
    ctx.set("VERIFY__ENABLED", "false");
    ctx.server().stop().await;
    ctx.hapax(&["verify", "--deep", "--repair"]);
    ctx.hapax(&["verify", "--deep"]).exits_with(0);
}

async fn it_can_be_turned_off(ctx: &mut Context) {
    eager(ctx);
    ctx.set("VERIFY__ENABLED", "false");
    sound_store(ctx).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let outside = ctx.outside().await;
    let row = background(&outside).await;
    assert_eq!((row.passes, row.claim, row.started_at), (0, None, None));
}

/// A long read, and a long pause: neither makes a stop wait.
async fn it_does_not_keep_a_server_from_stopping(ctx: &mut Context) {
    eager(ctx);
    ctx.set("VERIFY__READ_RATE", "64 KiB");
    let api = ctx.start().await;
    api.upload(seeded_bytes(12_000, 8 << 20)).await.expect(201);
    let outside = ctx.outside().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let progress = background(&outside).await.progress;
        if progress.is_some_and(|progress| progress["cursor"]["stage"] == "bytes") {
            break;
        }
        assert!(Instant::now() < deadline, "it begins to read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    ctx.server().stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    // Whoever starts next goes on at once.
    let row = background(&outside).await;
    assert_eq!(row.progress.expect("under way")["cursor"]["stage"], "bytes");
    assert!(row.not_before <= chrono::Utc::now());
    ctx.set("VERIFY__ENABLED", "false");
}

/// Several nodes make no more passes than one, and each pass looks at everything once.
async fn one_node_at_a_time(ctx: &mut Context) {
    ctx.set("VERIFY__INTERVAL", "2s");
    ctx.set("VERIFY__RATE", "200");
    let apis = ctx.start_several(3);
    for seed in 0..50 {
        apis[seed % 3]
            .upload(seeded_bytes(13_000 + seed as u64, 100))
            .await
            .expect(201);
    }
    a_pass(ctx).await;
    let outside = ctx.outside().await;
    let (first, began) = (background(&outside).await, Instant::now());
    let result = first.result.expect("a result");
    assert_eq!(
        (&result["rows"], &result["counts"]),
        (&50.into(), &50.into()),
        "{result}"
    );
    tokio::time::sleep(Duration::from_secs(8)).await;
    let made = background(&outside).await.passes - first.passes;
    let most = began.elapsed().as_secs() as i64 / 2 + 1;
    assert!((1..=most).contains(&made), "{made} passes, {most} at most");
}
