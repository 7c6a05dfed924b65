//! The protocol's schedules by name that both kinds of store can show, by many tries at the same race
//! where nothing can be held. `schedules_at_the_store` has those that are forced at the S3 server.

use std::time::Duration;

use futures::future::join_all;

use crate::harness::{
    Action, Api, Backend, Context, Dice, Operation, Reply, cases, distinct_bytes, seeded_bytes,
    sha256_hex, small_png, text_of,
};

cases! {
    both: [
        seed_loss,
        seed_double_delete,
        seed_restrict_fk,
        attach_vs_claim_last_reference,
        queue_window,
        epq_trap,
        disconnect_between_steps,
        scrub_lists_before_commit,
        wrong_bucket,
        poison_key,
        heal_missing_object,
        heal_missing_object_with_several_references,
    ],
}

/// U1 uploads h, D1 deletes it, U2 uploads h while the deletion is on its way: U2's image lives.
async fn seed_loss(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = seeded_bytes(1, 30_000);
    let mut id = api.upload_id(bytes.clone()).await;
    for round in 0..60 {
        let (deleted, uploaded) = futures::join!(api.delete(&id), api.upload(bytes.clone()));
        deleted.expect(200);
        id = uploaded.expect(201).image_id();
        tokio::time::sleep(Duration::from_millis(round % 7 * 3)).await;
        assert!(
            api.content(&id).await.expect(200).body == bytes,
            "round {round}"
        );
    }
}

/// A second DELETE of one image, even at the same moment, frees nothing of anybody else.
async fn seed_double_delete(ctx: &mut Context) {
    let api = ctx.start().await;
    for _ in 0..10 {
        let bytes = distinct_bytes(3000);
        let (one, other) = (
            api.upload_id(bytes.clone()).await,
            api.upload_id(bytes.clone()).await,
        );
        let bulk = [one.clone(), one.clone()];
        let (singles, bulk) = futures::join!(
            join_all((0..8).map(|_| api.delete(&one))),
            api.delete_many(&bulk)
        );
        let mut effects = 0;
        for reply in singles {
            effects += usize::from(reply.expect(200).json()["already_deleted"] == false);
        }
        for result in bulk.expect(200).json()["results"]
            .as_array()
            .expect("a list")
        {
            effects += usize::from(result["outcome"] == "deleted");
        }
        assert_eq!(effects, 1);
        let original = api.original(&sha256_hex(&bytes)).await.expect(200).json();
        assert_eq!(original["reference_count"], 1);
        assert_eq!(api.content(&other).await.expect(200).body, bytes);
    }
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

/// The last reference goes while another comes: whoever is second sees what the first did.
async fn attach_vs_claim_last_reference(ctx: &mut Context) {
    let api = ctx.start().await;
    for round in 0..8 {
        let bytes = seeded_bytes(500 + round, 5000);
        let mut ids: Vec<String> = Vec::new();
        for _ in 0..10 {
            let deletions = join_all(ids.iter().map(|id| api.delete(id)));
            let uploads = join_all((0..2).map(|_| api.upload(bytes.clone())));
            let (deleted, uploaded) = futures::join!(deletions, uploads);
            for reply in deleted {
                reply.expect(200);
            }
            ids = uploaded
                .into_iter()
                .map(|reply| reply.expect(201).image_id())
                .collect();
            for id in &ids {
                assert!(api.content(id).await.expect(200).body == bytes);
            }
        }
    }
}

/// An upload between "the count is 0" and the clean-up job: the job finds a reference and leaves it.
async fn queue_window(ctx: &mut Context) {
    ctx.set_grace(Duration::from_secs(3600));
    let api = ctx.start().await;
    let bytes = distinct_bytes(1000);
    let id = api.upload_id(bytes.clone()).await;
    api.delete(&id).await.expect(200);
    let dry = ctx
        .hapax(&["cleanup", "--older-than", "0s", "--dry-run"])
        .exits_with(0);
    assert!(dry.stdout.contains(&sha256_hex(&bytes)), "{dry:?}");
    let id = api.upload_id(bytes.clone()).await;
    let live = ctx.hapax(&["cleanup", "--older-than", "0s"]).exits_with(0);
    assert!(!live.stdout.contains(&sha256_hex(&bytes)), "{live:?}");
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
}

/// References come and go between a reaper's look and its lock, again and again.
async fn epq_trap(ctx: &mut Context) {
    ctx.set("CLEANUP__INTERVAL", "10ms");
    let api = ctx.start().await;
    let contents: Vec<Vec<u8>> = (0..2).map(|n| seeded_bytes(600 + n, 2000)).collect();
    let client = |seed: u64| {
        let (api, contents) = (api.clone(), &contents);
        async move {
            let mut dice = Dice::new(seed);
            for _ in 0..40 {
                let bytes = &contents[dice.below(2)];
                let id = api.upload_id(bytes.clone()).await;
                assert!(api.content(&id).await.expect(200).body == *bytes);
                api.delete(&id).await.expect(200);
            }
        }
    };
    let clients = join_all((0..6).map(client));
    let cleaning = async {
        for _ in 0..8 {
            ctx.hapax_beside(&["cleanup", "--older-than", "0s"])
                .await
                .exits_with(0);
        }
    };
    futures::join!(clients, cleaning);
}

/// The client leaves somewhere between its last byte and the answer: the image is there whole, or
/// not at all.
async fn disconnect_between_steps(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut dice = Dice::new(8);
    for round in 0..60 {
        let bytes = seeded_bytes(800 + round % 20, 20_000);
        let request = api
            .request(reqwest::Method::POST, "/v1/images")
            .header("content-type", "application/octet-stream")
            .body(bytes);
        let patience = Duration::from_micros(200 * dice.below(60) as u64);
        let _ = tokio::time::timeout(patience, api.try_send(request)).await;
    }
    // What nobody was told of is found by the list, and can be deleted like everything else.
    let ids = api
        .get("/v1/images?limit=1000")
        .await
        .expect(200)
        .image_ids();
    api.delete_many(&ids).await.expect(200);
    let outside = ctx.outside().await;
    outside.rest().await;
    let late = api
        .get("/v1/images?limit=1000")
        .await
        .expect(200)
        .image_ids();
    assert_eq!(outside.object_count().await > 0, !late.is_empty());
}

/// A scrub beside uploads and deletions never takes work in progress for damage.
async fn scrub_lists_before_commit(ctx: &mut Context) {
    let api = ctx.start().await;
    let working = async {
        for round in 0..40 {
            let uploads = (0..6).map(|n| api.upload(seeded_bytes(900 + round % 9 * 6 + n, 4000)));
            let replies = join_all(uploads).await;
            let ids: Vec<String> = replies
                .into_iter()
                .map(|r| r.expect(201).image_id())
                .collect();
            api.delete_many(&ids[..5]).await.expect(200);
        }
    };
    let scrubbing = async {
        for _ in 0..6 {
            ctx.hapax_beside(&["verify", "--deep", "--repair"])
                .await
                .exits_with(0);
        }
    };
    futures::join!(working, scrubbing);
}

/// The database was made for another store: nothing is deleted, and everybody is told.
async fn wrong_bucket(ctx: &mut Context) {
    let api = ctx.start().await;
    let ids = [
        api.upload_id(small_png(1)).await,
        api.upload_id(small_png(2)).await,
    ];
    ctx.server().stop().await;
    let outside = ctx.outside().await;
    let key = format!("{}.hapax/store-id", ctx.key_prefix());
    let right = outside.read_object(&key).await;
    outside
        .plant_object(&key, uuid::Uuid::new_v4().to_string().as_bytes())
        .await;

    for command in [
        &["verify", "--repair"][..],
        &["cleanup", "--older-than", "0s"],
    ] {
        let output = ctx.hapax(command).exits_with(1);
        let said = format!("{}{}", output.stdout, output.stderr).to_lowercase();
        assert!(said.contains("store"), "{command:?}: {output:?}");
    }
    match ctx.try_start() {
        // Refusing to serve is one right answer; serving without reaping is the other.
        Err(output) => assert!(output.stderr.contains("store"), "{output:?}"),
        Ok(api) => {
            api.delete(&ids[0]).await.expect(200);
            tokio::time::sleep(Duration::from_secs(2)).await;
            ctx.server().stop().await;
        }
    }
    assert_eq!(
        outside.object_count().await,
        2,
        "nothing is deleted in a stranger's store"
    );
    outside.plant_object(&key, &right).await;
    let api = ctx.start().await;
    api.delete_many(&ids).await.expect(200);
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
}

/// One object that cannot be deleted does not keep the others from going.
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
        ctx.arm(
            Operation::DeleteMany,
            usize::MAX,
            Action::RefuseKeysEndingWith(poison.clone()),
        );
        ctx.arm(
            Operation::Delete,
            usize::MAX,
            Action::RefuseKeysEndingWith(poison.clone()),
        );
    }
    api.delete_many(&ids).await.expect(200);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let rows = outside.originals().await;
        if rows.len() == 1 && rows[0].attempts > 1 {
            assert_eq!(rows[0].s3_key, poison);
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{rows:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(outside.object_count().await, 1);
    // New work goes on as well.
    let id = api.upload_id(distinct_bytes(1000)).await;
    api.delete(&id).await.expect(200);
    let gone = async {
        while outside.originals().await.len() > 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .expect("the reaper is not blocked");
    if ctx.backend == Backend::SqliteLocal {
        std::fs::remove_dir_all(&object).expect("the folder is there");
        std::fs::rename(&aside, &object).expect("its name is free");
    } else {
        ctx.disarm();
    }
}

async fn damage(ctx: &mut Context, api: &Api, bytes: &[u8], id: &str) -> Reply {
    let outside = ctx.outside().await;
    let row = outside.stored(&sha256_hex(bytes)).await.expect("stored");
    outside.take_object(&row.s3_key).await;
    let reply = api.content(id).await.problem(500, "content-damaged");
    let row = outside
        .stored(&sha256_hex(bytes))
        .await
        .expect("still stored");
    assert!(row.damaged_at.is_some());
    reply
}

/// An object is missing: readers are told, and the next upload of its bytes heals it.
async fn heal_missing_object(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(40);
    let first = api.upload(bytes.clone()).await.expect(201).json();
    let id = text_of(&first["id"]);
    damage(ctx, &api, &bytes, &id).await;
    let text = api.get("/metrics").await.expect(200).text_whole();
    assert!(text.contains("hapax_missing_objects_total 1"), "{text}");

    let reply = api.upload(bytes.clone()).await.expect(201);
    assert_eq!(reply.header("x-dedup").as_deref(), Some("repaired"));
    assert_eq!(
        reply.json()["original_image_id"],
        first["original_image_id"]
    );
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
    assert_eq!(api.content(&reply.image_id()).await.expect(200).body, bytes);
    let row = ctx
        .outside()
        .await
        .stored(&sha256_hex(&bytes))
        .await
        .expect("stored");
    assert_eq!((row.reference_count, row.damaged_at), (2, None));
}

async fn heal_missing_object_with_several_references(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(41);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(api.upload_id(bytes.clone()).await);
    }
    damage(ctx, &api, &bytes, &ids[0]).await;
    api.delete(&ids[1]).await.expect(200);
    // Several at once: the bytes are put right once or more, and counted exactly.
    for reply in join_all((0..8).map(|_| api.upload(bytes.clone()))).await {
        ids.push(reply.expect(201).image_id());
    }
    let row = ctx
        .outside()
        .await
        .stored(&sha256_hex(&bytes))
        .await
        .expect("stored");
    assert_eq!((row.reference_count, row.damaged_at), (10, None));
    ids.remove(1);
    for id in &ids {
        assert_eq!(api.content(id).await.expect(200).body, bytes);
    }
}
