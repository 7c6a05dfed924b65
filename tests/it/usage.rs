//! The numbers of `GET /v1/stats`: kept, not counted, and right however they came about.

use futures::future::join_all;
use serde_json::Value;

use crate::harness::{Api, Context, Dice, cases, distinct_bytes, small_png};

cases! {
    both: [
        numbers_follow_every_change,
        a_tenants_share_of_the_global_scope,
        counting_begins_with_what_is_there,
    ],
    postgres_s3: [tenants_and_nodes_at_once],
}

const NUMBERS: [&str; 5] = [
    "images",
    "originals",
    "logical_bytes",
    "stored_bytes",
    "orphaned",
];

async fn numbers(api: &Api) -> [i64; 5] {
    let stats = api.get("/v1/stats").await.expect(200).json();
    NUMBERS.map(|name| stats[name].as_i64().expect("a number"))
}

async fn numbers_follow_every_change(ctx: &mut Context) {
    ctx.set_grace(std::time::Duration::from_secs(3600));
    let api = ctx.start().await;
    assert_eq!(numbers(&api).await, [0; 5]);
    let bytes = distinct_bytes(1000);
    let first = api.upload_id(bytes.clone()).await;
    assert_eq!(numbers(&api).await, [1, 1, 1000, 1000, 0]);
    let second = api.upload_id(bytes.clone()).await;
    let other = api.upload_id(distinct_bytes(10)).await;
    assert_eq!(numbers(&api).await, [3, 2, 2010, 1010, 0]);
    api.delete(&first).await.expect(200);
    api.delete(&first).await.expect(200);
    assert_eq!(numbers(&api).await, [2, 2, 1010, 1010, 0]);
    api.delete_many(&[second, other]).await.expect(200);
    assert_eq!(numbers(&api).await, [0, 2, 0, 1010, 2]);
    // Taken back in its grace period.
    api.upload(bytes).await.expect(201);
    assert_eq!(numbers(&api).await, [1, 2, 1000, 1010, 1]);
    ctx.set_grace(std::time::Duration::ZERO);
    ctx.server().stop().await;
    let api = ctx.start().await;
    ctx.outside().await.rest().await;
    assert_eq!(numbers(&api).await, [1, 1, 1000, 1000, 0]);
}

async fn a_tenants_share_of_the_global_scope(ctx: &mut Context) {
    ctx.set("DEDUP__SCOPE", "global");
    ctx.set("AUTH__MODE", "keys");
    let api = ctx.start().await;
    let [a, b, all] = [("a", "read,write"), ("b", "read,write"), ("a", "admin")]
        .map(|(tenant, scopes)| api.with_token(&ctx.key(tenant, scopes)));
    let shared = distinct_bytes(1000);
    a.upload(shared.clone()).await.expect(201);
    a.upload(shared.clone()).await.expect(201);
    let of_b = b.upload_id(shared).await;
    a.upload(distinct_bytes(10)).await.expect(201);
    assert_eq!(numbers(&a).await, [3, 2, 2010, 1010, 0]);
    assert_eq!(numbers(&b).await, [1, 1, 1000, 1000, 0]);
    assert_eq!(numbers(&all).await, [4, 2, 3010, 1010, 0]);
    b.delete(&of_b).await.expect(200);
    assert_eq!(numbers(&b).await, [0; 5]);
    assert_eq!(numbers(&all).await, [3, 2, 2010, 1010, 0]);
}

/// A database of the version before the counters.
async fn counting_begins_with_what_is_there(ctx: &mut Context) {
    let api = ctx.start().await;
    for seed in 0..3 {
        api.upload(small_png(seed)).await.expect(201);
        api.upload(small_png(seed)).await.expect(201);
    }
    let before = numbers(&api).await;
    ctx.server().stop().await;
    // Down by one more than there are, up to the one that made the counters: by name, whatever follows.
    loop {
        ctx.hapax(&["migrate", "down"]).exits_with(0);
        let status = ctx.hapax(&["migrate", "status"]).exits_with(0).stdout;
        let counters = status.lines().find(|line| line.contains("usage_counters"));
        if counters.expect("it is a migration").contains("pending") {
            break;
        }
    }
    let api = ctx.start().await;
    assert_eq!(numbers(&api).await, before);
}

/// Batches of several tenants from two nodes lock each other's counters in one order, and lose nothing:
/// the check at the end counts again.
async fn tenants_and_nodes_at_once(ctx: &mut Context) {
    ctx.set("DEDUP__SCOPE", "global");
    ctx.set("AUTH__MODE", "keys");
    let nodes = ctx.start_several(2);
    let keys: Vec<String> = (0..4)
        .map(|n| ctx.key(&format!("tenant-{n}"), "read,write"))
        .collect();
    let clients = nodes
        .iter()
        .flat_map(|node| keys.iter().map(|key| node.with_token(key)));
    let clients: Vec<Api> = clients
        .flat_map(|client| [client.clone(), client])
        .collect();
    join_all(clients.iter().enumerate().map(async |(number, client)| {
        let mut dice = Dice::new(number as u64);
        let mut own: Vec<String> = Vec::new();
        for _ in 0..25 {
            match own.pop() {
                Some(id) if dice.below(3) == 0 => {
                    client.delete(&id).await.expect(200);
                }
                id => {
                    own.extend(id);
                    own.push(client.upload_id(small_png(dice.below(4) as u32)).await);
                }
            }
        }
    }))
    .await;
    for client in &clients[..4] {
        let stats: Value = client.get("/v1/stats").await.expect(200).json();
        assert!(stats["images"].as_i64() >= Some(0), "{stats}");
    }
}
