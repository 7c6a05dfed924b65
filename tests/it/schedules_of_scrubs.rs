//! The protocol's schedules by name: the scrub beside work in progress, the store of another database,
//! and damaged objects. Each interleaving is forced at the seams: nothing here is left to luck or time.

use futures::future::join_all;

use crate::harness::{
    Api, Context, Filter, Reply, Times, Verdict, cases, distinct_bytes, sha256_hex, small_png,
    text_of, uploading, within,
};

cases! {
    both: [
        scrub_lists_before_commit,
        scrub_beside_an_upload_it_did_not_list,
        scrub_beside_a_deletion,
        many_strays_are_not_believed,
        a_failed_read_is_not_a_missing_object,
        wrong_bucket,
        heal_missing_object,
        heal_missing_object_with_several_references,
        unknown_heal_commit,
    ],
}

/// The scrub lists an object whose upload is not committed yet, and looks for its row after that.
async fn scrub_lists_before_commit(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    api.upload(distinct_bytes(10)).await.expect(201);
    let bytes = distinct_bytes(10_000);
    // Whatever the scrub has read before it lists is from before the upload.
    let list = seams.hold(Filter::store("list"), Times::Next(1));
    let written = seams.hold(Filter::point("ObjectWritten"), Times::Next(1));
    let listed = seams.hold(Filter::point("ObjectsListed"), Times::Next(1));
    let scrub = ctx.hapax_beside(&["verify", "--repair"]);
    let upload = async {
        list.reached(1).await;
        let upload = uploading(&api, &bytes);
        written.reached(1).await;
        list.release();
        listed.reached(1).await;
        listed.release();
        upload.await
    };
    let (output, upload) = futures::join!(
        async {
            let output = scrub.await;
            written.release();
            output
        },
        upload
    );
    output.exits_with(0);
    let id = upload.expect("it is answered").expect(201).image_id();
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
}

/// An upload begins and ends between the listing and the look at its rows: the scrub did not list its
/// object, and asks for it before it says that it is missing.
async fn scrub_beside_an_upload_it_did_not_list(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let listed = seams.hold(Filter::point("ObjectsListed"), Times::Next(1));
    let scrub = ctx.hapax_beside(&["verify", "--repair"]);
    let upload = async {
        listed.reached(1).await;
        api.upload(distinct_bytes(3000)).await.expect(201);
        listed.release();
    };
    let (output, ()) = futures::join!(scrub, upload);
    output.exits_with(0);
    let rows = ctx.outside().await.originals().await;
    assert_eq!(rows[0].damaged_at, None);
}

/// An original goes, row and object, between the listing and the look at its rows: no stray.
async fn scrub_beside_a_deletion(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let id = api.upload_id(distinct_bytes(3000)).await;
    let outside = ctx.outside().await;
    let listed = seams.hold(Filter::point("ObjectsListed"), Times::Next(1));
    let scrub = ctx.hapax_beside(&["verify", "--repair"]);
    let deletion = async {
        assert_eq!(listed.reached(1).await[0].detail, "1");
        api.delete(&id).await.expect(200);
        outside.rest().await;
        listed.release();
    };
    let (output, ()) = futures::join!(scrub, deletion);
    output.exits_with(0);
}

/// More strays than can be believed: as after a restore of an old backup, all of them are reported and
/// none is deleted.
async fn many_strays_are_not_believed(ctx: &mut Context) {
    let api = ctx.start().await;
    api.upload(distinct_bytes(10)).await.expect(201);
    let outside = ctx.outside().await;
    let keys: Vec<String> = (0..101)
        .map(|n: u32| {
            let hash = sha256_hex(&n.to_le_bytes());
            let generation = uuid::Uuid::new_v4();
            format!("{}{}/{hash}/{generation}", ctx.key_prefix(), &hash[..2])
        })
        .collect();
    for key in &keys {
        outside.plant_object(key, b"?").await;
    }
    ctx.hapax_beside(&["verify", "--repair"])
        .await
        .exits_with(1);
    assert_eq!(outside.object_count().await, 102);
    assert_eq!(outside.originals().await.len(), 1, "none is the reaper's");
    for key in &keys {
        outside.take_object(key).await;
    }
}

/// The store does not answer a read: the client is told to ask again, and nothing is marked.
async fn a_failed_read_is_not_a_missing_object(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = distinct_bytes(3000);
    let id = api.upload_id(bytes.clone()).await;
    seams.decide(Filter::store("get"), Times::Nth(1), Verdict::Fail);
    api.content(&id).await.problem(503, "store-unavailable");
    let row = ctx.outside().await.stored(&sha256_hex(&bytes)).await;
    assert_eq!(row.expect("stored").damaged_at, None);
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
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
    let stranger = uuid::Uuid::new_v4().to_string();
    outside.plant_object(&key, stranger.as_bytes()).await;

    for command in [
        &["verify", "--repair"][..],
        &["cleanup", "--older-than", "0s"],
    ] {
        let output = ctx.hapax(command).exits_with(1);
        let said = format!("{}{}", output.stdout, output.stderr).to_lowercase();
        assert!(said.contains("store"), "{command:?}: {output:?}");
    }
    // It serves without reaping: two whole rounds look at what is due and leave it.
    let seams = ctx.seams();
    let api = ctx.start().await;
    api.delete(&ids[0]).await.expect(200);
    let asked = Filter::database("statement").with("FROM \"store_meta\"");
    seams.hold(asked, Times::Nth(3)).reached(1).await;
    let reaped = seams.events().into_iter();
    let mut reaped =
        reaped.filter(|event| event.name == "UnreferencedSought" || event.name == "delete");
    assert_eq!(reaped.next(), None);
    ctx.server().stop().await;
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

async fn damage(ctx: &mut Context, api: &Api, bytes: &[u8], id: &str) -> Reply {
    let outside = ctx.outside().await;
    let row = outside.stored(&sha256_hex(bytes)).await.expect("stored");
    outside.take_object(&row.s3_key).await;
    let reply = api.content(id).await.problem(500, "content-damaged");
    let row = outside.stored(&sha256_hex(bytes)).await;
    assert!(row.expect("still stored").damaged_at.is_some());
    reply
}

/// An object is missing: readers are told, and the next upload of its bytes heals it. The reader that
/// marks the row may come after the heal: it marks nothing then.
async fn heal_missing_object(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = small_png(40);
    let first = api.upload(bytes.clone()).await.expect(201).json();
    let id = text_of(&first["id"]);
    damage(ctx, &api, &bytes, &id).await;
    let text = api.get("/metrics").await.expect(200).text_whole();
    assert!(text.contains("hapax_missing_objects_total 1"), "{text}");

    let seen = seams.hold(Filter::point("DamageSeen"), Times::Next(1));
    let reader = api.clone();
    let late = tokio::spawn({
        let id = id.clone();
        async move { reader.content(&id).await }
    });
    seen.reached(1).await;
    let reply = api.upload(bytes.clone()).await.expect(201);
    assert_eq!(reply.header("x-dedup").as_deref(), Some("repaired"));
    assert_eq!(
        reply.json()["original_image_id"],
        first["original_image_id"]
    );
    seen.release();
    let late = late.await.expect("it is answered");
    late.problem(500, "content-damaged");
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
    assert_eq!(api.content(&reply.image_id()).await.expect(200).body, bytes);
    let row = ctx.outside().await.stored(&sha256_hex(&bytes)).await;
    let row = row.expect("stored");
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
    let row = ctx.outside().await.stored(&sha256_hex(&bytes)).await;
    let row = row.expect("stored");
    assert_eq!((row.reference_count, row.damaged_at), (10, None));
    ids.remove(1);
    for id in &ids {
        assert_eq!(api.content(id).await.expect(200).body, bytes);
    }
}

/// A heal commits and its upload never learns of it. The row that it wrote under is reaped, so its
/// writer would insert it again to have it deleted; but the key is the healed original's by now, and is
/// unique: the insert is refused, and the object stays.
async fn unknown_heal_commit(ctx: &mut Context) {
    let seams = ctx.seams();
    let api = ctx.start().await;
    let bytes = small_png(42);
    let id = api.upload_id(bytes.clone()).await;
    damage(ctx, &api, &bytes, &id).await;
    let written = seams.hold(Filter::point("ObjectWritten"), Times::Next(1));
    let upload = uploading(&api, &bytes);
    let key = written.reached(1).await[0].detail.clone();
    seams.decide(
        Filter::database("commit"),
        Times::Nth(1),
        Verdict::FailAfter,
    );
    seams.decide(Filter::database("commit"), Times::All, Verdict::Fail);
    written.release();
    let outside = ctx.outside().await;
    // Healed under the new key, and the row that brought it is gone.
    within(async {
        loop {
            let rows = outside.originals().await;
            if rows.len() == 1 && rows[0].s3_key == key {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    let again = Filter::database("statement").with("INSERT INTO \"original_images\"");
    let again = seams.hold(again.with("DO UPDATE SET \"state\""), Times::Next(1));
    again.reached(1).await;
    again.release();
    let reply = upload.await.expect("it is answered");
    reply.problem(503, "unavailable");
    seams.clear_rules();
    outside.rest().await;
    assert_eq!(outside.originals().await[0].s3_key, key);
    assert_eq!(api.content(&id).await.expect(200).body, bytes);
}
