//! Races that the schedules by name force, met here as a busy server meets them: by many tries at the
//! same moment. `schedules_of_…` and `schedules_at_the_store` have those that are forced.

use std::time::Duration;

use futures::future::join_all;

use crate::harness::{Context, Dice, cases, distinct_bytes, seeded_bytes, sha256_hex};

cases! {
    both: [
        deletions_beside_uploads_of_the_same,
        deletions_of_one_image_at_once,
        last_references_come_and_go,
        references_come_and_go_under_a_busy_reaper,
        clients_leave_at_any_moment,
        scrubs_beside_work,
    ],
}

/// U1 uploads h, D1 deletes it, U2 uploads h while the deletion is on its way: U2's image lives.
async fn deletions_beside_uploads_of_the_same(ctx: &mut Context) {
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
async fn deletions_of_one_image_at_once(ctx: &mut Context) {
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

/// The last reference goes while another comes: whoever is second sees what the first did.
async fn last_references_come_and_go(ctx: &mut Context) {
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

/// References come and go between a reaper's look and its lock, again and again.
async fn references_come_and_go_under_a_busy_reaper(ctx: &mut Context) {
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
async fn clients_leave_at_any_moment(ctx: &mut Context) {
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
async fn scrubs_beside_work(ctx: &mut Context) {
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
