//! Many clients at once on few images and few contents, while servers are killed; all that they see
//! is written down, and each image's history must be explained by some order of the calls that
//! respects time. Runs for `HAPAX_TEST_HISTORY_SECONDS` (default 20), drawn from
//! `HAPAX_TEST_HISTORY_SEED`.

mod checked;
mod checker;
mod client;
mod history;

use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::harness::{Context, Dice, cases};
use client::Clients;

cases! {
    both: [
        one_node_killed_again_and_again,
    ],
    postgres_s3: [
        two_nodes_killed_in_turn,
    ],
    sqlite_local: [
        right_histories_are_taken,
        a_lost_upload_is_refused,
        a_resurrected_image_is_refused,
        wrong_bytes_are_refused,
        a_double_effect_is_refused,
        wrong_counts_are_refused,
    ],
}

const CLIENTS: usize = 12;

async fn one_node_killed_again_and_again(ctx: &mut Context) {
    soak(ctx, 1).await;
}

async fn two_nodes_killed_in_turn(ctx: &mut Context) {
    soak(ctx, 2).await;
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(format!("HAPAX_TEST_HISTORY_{name}"));
    value.map_or(default, |value| value.parse().expect("a whole number"))
}

async fn soak(ctx: &mut Context, nodes: usize) {
    for (name, value) in [
        ("UPLOAD__LEASE", "3s"),
        ("UPLOAD__PUT_DEADLINE", "4s"),
        ("STORAGE__S3__OPERATION_TIMEOUT", "2s"),
    ] {
        ctx.set(name, value);
    }
    let (seconds, seed) = (setting("SECONDS", 20), setting("SEED", 1));
    let clients = Clients::new(ctx.start_several(nodes));
    let end = Instant::now() + Duration::from_secs(seconds);
    let working = join_all((0..CLIENTS).map(|n| {
        let seed = seed.wrapping_mul(1000).wrapping_add(n as u64);
        clients.work(Dice::new(seed), end)
    }));
    let (_, kills) = futures::join!(working, kill(ctx, &clients, Dice::new(!seed), end));
    clients.look_at_everything().await;
    let outside = ctx.outside().await;
    outside.end_holds().await;
    outside.rest().await;
    let figures = clients.verdict(&outside.images().await);
    let figures = figures.unwrap_or_else(|wrong| panic!("{wrong}"));
    println!(
        "{}, {nodes} nodes, {seconds} s: {figures}, {kills} kills",
        ctx.backend
    );
}

/// Kills one server after the other and starts it again, a while before the end for the last time.
async fn kill(ctx: &mut Context, clients: &Clients, mut dice: Dice, end: Instant) -> usize {
    let mut kills = 0;
    let mut pause = move |least: u64, spread| {
        tokio::time::sleep(Duration::from_millis(least + dice.below(spread) as u64))
    };
    // Of the servers ever started, those that run: one for each place among the nodes.
    let mut running: Vec<usize> = (0..clients.nodes()).collect();
    while Instant::now() + Duration::from_secs(4) < end {
        pause(1200, 2500).await;
        let node = kills % running.len();
        ctx.servers()[running[node]].kill();
        kills += 1;
        pause(1, 400).await;
        running[node] = ctx.servers().len();
        clients.replace(node, ctx.start_beside().await);
    }
    kills
}

/// The checker's own cases run no server.
macro_rules! checker_cases {
    ($($name:ident),* $(,)?) => { $(
        async fn $name(ctx: &mut Context) {
            ctx.without_end_check("no server runs");
            checked::$name();
        }
    )* };
}

checker_cases! {
    right_histories_are_taken,
    a_lost_upload_is_refused,
    a_resurrected_image_is_refused,
    wrong_bytes_are_refused,
    a_double_effect_is_refused,
    wrong_counts_are_refused,
}
