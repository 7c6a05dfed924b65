//! Lists, single images and deletions: the shapes of their answers.

use serde_json::{Value, json};

use crate::harness::{
    Context, assert_image, assert_keys, assert_time, cases, sha256_hex, small_png, text_of,
};

cases! {
    both: [
        an_image_reads_back_as_it_was_answered,
        a_list_pages_by_cursor,
        a_list_with_deleted_images,
        a_list_while_images_come_and_go,
        lists_that_cannot_be_given,
        a_deletion,
        bulk_deletion,
        bulk_deletion_of_the_same_image_twice,
        bulk_delete_three_references_one_original,
    ],
}

async fn an_image_reads_back_as_it_was_answered(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut uploaded = api.upload(small_png(1)).await.expect(201).json();
    let id = text_of(&uploaded["id"]);
    let image = api.image(&id).await.expect(200).json();
    assert_image(&image, false);
    uploaded
        .as_object_mut()
        .expect("an object")
        .remove("deduplicated");
    assert_eq!(image, uploaded);
    let listed = api.get("/v1/images").await.expect(200).json();
    assert_eq!(listed, json!({ "images": [image], "next_cursor": null }));
}

async fn a_list_pages_by_cursor(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut expected = Vec::new();
    for seed in 0..25 {
        expected.push(api.upload_id(small_png(seed % 5)).await);
    }
    expected.reverse();
    for limit in [1, 4, 7, 25, 1000] {
        let (mut found, mut cursor, mut pages) = (Vec::new(), None::<String>, 0);
        loop {
            let from = cursor
                .map(|cursor| format!("&cursor={cursor}"))
                .unwrap_or_default();
            let page = api
                .get(&format!("/v1/images?limit={limit}{from}"))
                .await
                .expect(200);
            assert_keys(&page.json(), &["images", "next_cursor"]);
            let ids = page.image_ids();
            assert!(ids.len() <= limit, "{limit}");
            found.extend(ids);
            pages += 1;
            match &page.json()["next_cursor"] {
                Value::Null => break,
                next => cursor = Some(text_of(next)),
            }
        }
        assert_eq!(
            found, expected,
            "newest first, each once, with {limit} a page"
        );
        assert!(
            pages <= 25_usize.div_ceil(limit) + 1,
            "{pages} pages of {limit}"
        );
    }
    let default = api.get("/v1/images").await.expect(200);
    assert_eq!(
        default.image_ids(),
        expected,
        "the default limit is no less than 25"
    );
}

async fn a_list_with_deleted_images(ctx: &mut Context) {
    let api = ctx.start().await;
    let kept = api.upload_id(small_png(1)).await;
    let deleted = api.upload_id(small_png(2)).await;
    api.delete(&deleted).await.expect(200);
    assert_eq!(
        api.get("/v1/images").await.expect(200).image_ids(),
        std::slice::from_ref(&kept)
    );
    let all = api.get("/v1/images?include_deleted=true").await.expect(200);
    assert_eq!(all.image_ids(), [deleted, kept]);
    let image = &all.json()["images"][0];
    assert_image(image, false);
    assert_time(&image["deleted_at"]);
    assert_eq!(
        image["content_hash"],
        sha256_hex(&small_png(2)),
        "usage history stays"
    );
}

async fn a_list_while_images_come_and_go(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut ids = Vec::new();
    for seed in 0..12 {
        ids.push(api.upload_id(small_png(seed)).await);
    }
    let first = api.get("/v1/images?limit=5").await.expect(200);
    let cursor = text_of(&first.json()["next_cursor"]);
    // What is new is on no later page; what the cursor names may be gone.
    api.upload(small_png(50)).await.expect(201);
    api.delete(&first.image_ids()[4]).await.expect(200);
    api.delete(&ids[3]).await.expect(200);
    let rest = api
        .get(&format!("/v1/images?limit=100&cursor={cursor}"))
        .await
        .expect(200);
    let expected: Vec<String> = [6, 5, 4, 2, 1, 0].map(|n: usize| ids[n].clone()).to_vec();
    assert_eq!(rest.image_ids(), expected);
}

async fn lists_that_cannot_be_given(ctx: &mut Context) {
    let api = ctx.start().await;
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=-1",
        "include_deleted=perhaps",
    ] {
        let reply = api.get(&format!("/v1/images?{query}")).await;
        reply.problem(400, "invalid-query");
    }
    for cursor in ["x", "AAAA", "%00", &"A".repeat(500)] {
        let reply = api.get(&format!("/v1/images?cursor={cursor}")).await;
        reply.problem(400, "invalid-cursor");
    }
}

async fn a_deletion(ctx: &mut Context) {
    ctx.set_grace(std::time::Duration::from_secs(3600));
    let api = ctx.start().await;
    let id = api.upload_id(small_png(3)).await;
    let reply = api.delete(&id).await.expect(200).json();
    assert_keys(&reply, &["id", "deleted_at", "already_deleted", "original"]);
    assert_keys(
        &reply["original"],
        &["id", "reference_count", "state", "purge_after"],
    );
    assert_eq!(reply["id"], id);
    assert_time(&reply["deleted_at"]);
    assert_time(&reply["original"]["purge_after"]);
}

async fn bulk_deletion(ctx: &mut Context) {
    let api = ctx.start().await;
    let (a, b) = (
        api.upload_id(small_png(4)).await,
        api.upload_id(small_png(5)).await,
    );
    let unknown = uuid::Uuid::new_v4().to_string();
    api.delete(&b).await.expect(200);
    let ids = [unknown.clone(), b.clone(), a.clone()];
    let reply = api.delete_many(&ids).await.expect(200).json();
    assert_eq!(
        reply,
        json!({ "results": [
            { "id": unknown, "outcome": "unknown" },
            { "id": b, "outcome": "already_deleted" },
            { "id": a, "outcome": "deleted" },
        ]})
    );
    let nothing = api.delete_many(&[]).await.expect(200).json();
    assert_eq!(nothing, json!({ "results": [] }));
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 0);
}

async fn bulk_deletion_of_the_same_image_twice(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(6);
    let (a, b) = (
        api.upload_id(bytes.clone()).await,
        api.upload_id(bytes.clone()).await,
    );
    let reply = api
        .delete_many(&[a.clone(), a.clone(), a.clone()])
        .await
        .expect(200)
        .json();
    let outcomes: Vec<String> = (0..3)
        .map(|n| text_of(&reply["results"][n]["outcome"]))
        .collect();
    assert_eq!(outcomes, ["deleted", "already_deleted", "already_deleted"]);
    let original = api.original(&sha256_hex(&bytes)).await.expect(200).json();
    assert_eq!(original["reference_count"], 1);
    api.content(&b).await.expect(200);
}

/// Each reference of a bulk deletion counts.
async fn bulk_delete_three_references_one_original(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = small_png(7);
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(api.upload_id(bytes.clone()).await);
    }
    api.delete_many(&ids[..3]).await.expect(200);
    let outside = ctx.outside().await;
    let row = outside
        .stored(&sha256_hex(&bytes))
        .await
        .expect("one reference is left");
    assert_eq!(row.reference_count, 1);
    api.delete_many(&ids).await.expect(200);
    outside.rest().await;
    assert_eq!(outside.originals().await, []);
    assert_eq!(outside.object_count().await, 0);
}
