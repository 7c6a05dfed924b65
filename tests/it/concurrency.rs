//! Many clients at once, on one node and on two: one copy of every content, and every reference counted.

use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::harness::{
    Api, Backend, Context, Dice, FilePart, cases, distinct_bytes, seeded_bytes, sha256_hex,
};

cases! {
    both: [
        sixty_four_uploads_of_one_new_file,
        sixty_four_uploads_of_one_new_file_in_several_forms,
        sixty_four_different_files,
        many_references_at_once,
        deletions_of_all_references_at_once,
        storm_on_few_hashes,
        storm_of_requests_with_several_files,
    ],
    postgres_s3: [
        sixty_four_uploads_from_two_nodes,
        both_nodes_serve_what_either_stored,
        storm_from_two_nodes,
        two_nodes_start_at_once,
    ],
}

/// How long a storm blows.
const STORM: Duration = Duration::from_secs(8);

async fn one_object_with_count(ctx: &mut Context, hash: &str, count: i64) {
    let outside = ctx.outside().await;
    let row = outside.stored(hash).await.expect("stored");
    assert_eq!(row.reference_count, count);
    outside.rest().await;
    assert_eq!(outside.object_count().await, 1);
}

async fn sixty_four_uploads_of_one_new_file(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(200_000);
    let replies = join_all((0..64).map(|_| api.upload(bytes.clone()))).await;
    let mut misses = 0;
    for reply in replies {
        let reply = reply.expect(201);
        misses += usize::from(reply.header("x-dedup").as_deref() == Some("miss"));
    }
    assert_eq!(misses, 1, "one upload stored it, the others found it");
    one_object_with_count(ctx, &sha256_hex(&bytes), 64).await;
}

async fn sixty_four_uploads_of_one_new_file_in_several_forms(ctx: &mut Context) {
    ctx.set("UPLOAD__MEMORY_THRESHOLD", "100 KiB");
    let api = ctx.start().await;
    let bytes = distinct_bytes(200_000);
    let raw = join_all((0..32).map(|_| api.upload(bytes.clone())));
    let part = FilePart::new("same", bytes.clone());
    let files = [part.clone(), part];
    let forms = join_all((0..16).map(|_| api.upload_files(&files, None)));
    let (raw, forms) = futures::join!(raw, forms);
    for reply in raw.into_iter().chain(forms) {
        reply.expect(201);
    }
    one_object_with_count(ctx, &sha256_hex(&bytes), 64).await;
}

async fn sixty_four_different_files(ctx: &mut Context) {
    let api = ctx.start().await;
    let contents: Vec<Vec<u8>> = (0..64).map(|n| distinct_bytes(1000 + n)).collect();
    let uploads = contents.iter().map(|bytes| api.upload(bytes.clone()));
    for (reply, bytes) in join_all(uploads).await.into_iter().zip(&contents) {
        assert_eq!(reply.expect(201).json()["content_hash"], sha256_hex(bytes));
    }
    let outside = ctx.outside().await;
    assert_eq!(outside.object_count().await, 64);
}

async fn many_references_at_once(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(1000);
    api.upload(bytes.clone()).await.expect(201);
    let body = serde_json::json!({ "content_hash": sha256_hex(&bytes) });
    for reply in join_all((0..99).map(|_| api.post("/v1/images", &body))).await {
        reply.expect(201);
    }
    one_object_with_count(ctx, &sha256_hex(&bytes), 100).await;
}

async fn deletions_of_all_references_at_once(ctx: &mut Context) {
    let api = ctx.start().await;
    let bytes = distinct_bytes(1000);
    let uploads = join_all((0..64).map(|_| api.upload(bytes.clone()))).await;
    let ids: Vec<String> = uploads
        .into_iter()
        .map(|reply| reply.expect(201).image_id())
        .collect();
    // Each image twice: only one of the two counts.
    let deletions = ids.iter().chain(&ids).map(|id| api.delete(id));
    let mut first = 0;
    for reply in join_all(deletions).await {
        first += usize::from(reply.expect(200).json()["already_deleted"] == false);
    }
    assert_eq!(first, 64);
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.originals().await, []);
    assert_eq!(outside.object_count().await, 0);
}

/// A client that uploads, deletes and reads a few contents until the storm is over. What it was told
/// must hold at every moment; it returns what it still has.
async fn blow(api: Api, contents: &[Vec<u8>], seed: u64) -> Vec<(String, usize)> {
    let mut dice = Dice::new(seed);
    let mut live: Vec<(String, usize)> = Vec::new();
    let end = Instant::now() + STORM;
    while Instant::now() < end {
        let roll = dice.below(100);
        if roll < 45 || live.is_empty() {
            let which = dice.below(contents.len());
            let reply = api.upload(contents[which].clone()).await.expect(201);
            live.push((reply.image_id(), which));
        } else if roll < 85 {
            let (id, _) = live.swap_remove(dice.below(live.len()));
            let reply = api.delete(&id).await.expect(200).json();
            assert_eq!(reply["already_deleted"], false, "{reply}");
        } else {
            let (id, which) = &live[dice.below(live.len())];
            let reply = api.content(id).await.expect(200);
            assert!(reply.body == contents[*which], "image {id} is whole");
        }
    }
    live
}

async fn storm(ctx: &mut Context, nodes: &[Api]) {
    let contents: Vec<Vec<u8>> = (0..4).map(|n| seeded_bytes(77_000 + n, 20_000)).collect();
    let clients = (0..24).map(|n| blow(nodes[n % nodes.len()].clone(), &contents, n as u64));
    let left = join_all(clients).await.concat();
    let outside = ctx.outside().await;
    outside.rest().await;
    let images = outside.images().await;
    assert!(
        images.len() > 100,
        "the storm was a breeze: {} images",
        images.len()
    );
    for (which, bytes) in contents.iter().enumerate() {
        let expected = left.iter().filter(|(_, content)| *content == which).count() as i64;
        let row = outside.stored(&sha256_hex(bytes)).await;
        assert_eq!(
            row.map_or(0, |row| row.reference_count),
            expected,
            "content {which}"
        );
    }
}

async fn storm_on_few_hashes(ctx: &mut Context) {
    let api = ctx.start().await;
    storm(ctx, &[api]).await;
}

/// Requests that share contents in any order must neither block each other for ever nor miscount.
async fn storm_of_requests_with_several_files(ctx: &mut Context) {
    let api = ctx.start().await;
    let contents: Vec<Vec<u8>> = (0..4).map(|n| seeded_bytes(78_000 + n, 5_000)).collect();
    let client = |seed: u64| {
        let (api, contents) = (api.clone(), &contents);
        async move {
            let mut dice = Dice::new(seed);
            for _ in 0..12 {
                let files: Vec<FilePart> = (0..1 + dice.below(5))
                    .map(|_| FilePart::new("f", contents[dice.below(4)].clone()))
                    .collect();
                let ids = api.upload_files(&files, None).await.expect(201).image_ids();
                assert_eq!(ids.len(), files.len());
                if dice.below(4) > 0 {
                    let reply = api.delete_many(&ids).await.expect(200).json();
                    let results = reply["results"].as_array().expect("a list");
                    assert!(
                        results.iter().all(|result| result["outcome"] == "deleted"),
                        "{reply}"
                    );
                }
            }
        }
    };
    join_all((0..16).map(client)).await;
}

async fn sixty_four_uploads_from_two_nodes(ctx: &mut Context) {
    let nodes = [ctx.start().await, ctx.start().await];
    assert_eq!(ctx.backend, Backend::PostgresS3);
    for _ in 0..3 {
        let bytes = distinct_bytes(200_000);
        let uploads = (0..64).map(|n| nodes[n % 2].upload(bytes.clone()));
        for reply in join_all(uploads).await {
            reply.expect(201);
        }
        let outside = ctx.outside().await;
        let row = outside.stored(&sha256_hex(&bytes)).await.expect("stored");
        assert_eq!(row.reference_count, 64);
    }
    let outside = ctx.outside().await;
    outside.rest().await;
    assert_eq!(outside.object_count().await, 3);
}

/// After a 201 every node serves the image, after a deletion none does.
async fn both_nodes_serve_what_either_stored(ctx: &mut Context) {
    let nodes = [ctx.start().await, ctx.start().await];
    for round in 0..10 {
        let (here, there) = (&nodes[round % 2], &nodes[(round + 1) % 2]);
        let bytes = distinct_bytes(10_000);
        let id = here.upload_id(bytes.clone()).await;
        assert_eq!(there.content(&id).await.expect(200).body, bytes);
        let again = there.upload(bytes.clone()).await.expect(201);
        assert_eq!(again.header("x-dedup").as_deref(), Some("hit"));
        there.delete(&id).await.expect(200);
        here.content(&id).await.problem(410, "image-deleted");
        here.delete(&again.image_id()).await.expect(200);
        there
            .image(&again.image_id())
            .await
            .problem(410, "image-deleted");
    }
}

async fn storm_from_two_nodes(ctx: &mut Context) {
    let nodes = [ctx.start().await, ctx.start().await];
    storm(ctx, &nodes).await;
}

/// Both migrate an empty database; one after the other.
async fn two_nodes_start_at_once(ctx: &mut Context) {
    let nodes = ctx.start_several(3);
    for api in &nodes {
        api.get("/readyz").await.expect(200);
    }
    let bytes = distinct_bytes(1000);
    for api in &nodes {
        api.upload(bytes.clone()).await.expect(201);
    }
    one_object_with_count(ctx, &sha256_hex(&bytes), 3).await;
}
