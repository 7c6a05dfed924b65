//! The n-th-fault sweep: every scenario with every fault in every one of its calls of the database
//! and of the store, on the real server, and afterwards nothing lost, leaked or miscounted.
//!
//! A lane is one scenario with one fault. It runs the scenario once without, which counts its calls,
//! and then once for each call. `docs/reliability.md` tells how to run a single case again.

mod fault;
mod gates;
mod scenarios;
mod truth;
mod world;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use crate::harness::{Backend, Case, Context, Event, panic_text, scope};
use fault::{Fault, Planned};
use world::World;

/// Runs only the cases of this call.
const ONLY_CALL: &str = "HAPAX_SWEEP_CALL";

/// Cases that held so far: scenario, call and fault.
static HELD: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
/// Those of them whose fault met another call than was planned: calls that race change places.
static ELSEWHERE: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

type Script = for<'a> fn(&'a mut World<'_>) -> LocalBoxFuture<'a, ()>;

/// Every scenario by every fault, as test cases named like `new_upload_error`.
macro_rules! lanes {
    ($($scenario:ident),* $(,)?) => {
        pub(crate) fn cases() -> Vec<Case> {
            let mut cases = Vec::new();
            $(
                lane!(cases, $scenario, scope::both, "_error", Error);
                lane!(cases, $scenario, scope::both, "_lost", Lost);
                lane!(cases, $scenario, scope::both, "_hang", Hang);
                lane!(cases, $scenario, scope::both, "_crash", Crash);
                lane!(cases, $scenario, scope::both, "_crash_after", CrashAfter);
                lane!(cases, $scenario, scope::postgres_s3, "_late", Late);
            )*
            cases
        }
    };
}

macro_rules! lane {
    ($cases:ident, $scenario:ident, $backends:expr, $suffix:literal, $fault:ident) => {
        for backend in $backends {
            $cases.push(Case {
                module: "sweep",
                name: concat!(stringify!($scenario), $suffix),
                backend: *backend,
                body: |context| {
                    let script: Script = |world| Box::pin(scenarios::$scenario(world));
                    let name = concat!(stringify!($scenario), $suffix);
                    Box::pin(run_lane(context, name, script, Fault::$fault))
                },
            });
        }
    };
}

lanes! {
    new_upload,
    duplicate,
    reference,
    second_generation,
    several_files,
    last_delete,
    delete_and_upload_again,
    upload_after_the_claim,
    bulk_delete,
    webhook_twice,
    clean_up,
    heal,
    expired_lease,
    refused,
}

async fn run_lane(context: &mut Context, name: &'static str, script: Script, fault: Fault) {
    let backend = context.backend;
    let only = std::env::var(ONLY_CALL).ok();
    let only: Option<usize> = only.map(|call| call.parse().expect("a number"));
    let mut world = World::new(context, fault).await;
    let calls = run_case(&mut world, script, None).await;
    for (index, call) in calls.iter().enumerate() {
        let planned = Planned {
            fault,
            call: index + 1,
        };
        if !fault.applies_to(call) || only.is_some_and(|only| only != planned.call) {
            continue;
        }
        let case = run_case(&mut world, script, Some(planned));
        let outcome = AssertUnwindSafe(case).catch_unwind().await;
        let what = match outcome {
            Ok(met) => {
                HELD[backend as usize].fetch_add(1, Relaxed);
                if !met.get(index).is_some_and(|met| is_same(met, call)) {
                    ELSEWHERE[backend as usize].fetch_add(1, Relaxed);
                }
                continue;
            }
            Err(_) => panic_text(),
        };
        panic!(
            "{name}, call {} of {} ({call}), {fault}:\n{what}\n\
             again: {ONLY_CALL}={} ./tests/run --test it -- --exact {backend}::sweep::{name}",
            planned.call,
            calls.len(),
            planned.call,
        );
    }
}

/// One case, from rest to rest; the calls that its scenario made.
async fn run_case(world: &mut World<'_>, script: Script, planned: Option<Planned>) -> Vec<Event> {
    world.prepare(planned).await;
    script(world).await;
    let calls = world.calls();
    world.settle().await;
    world.rest_and_check().await;
    calls
}

/// Keys and ids differ from run to run, statements do not.
fn is_same(one: &Event, other: &Event) -> bool {
    let statement = |event: &Event| (event.kind == "database").then(|| event.detail.clone());
    (&one.kind, &one.name) == (&other.kind, &other.name) && statement(one) == statement(other)
}

/// One line a backend, if anything was swept there.
pub(crate) fn summary() {
    for backend in [Backend::SqliteLocal, Backend::PostgresS3] {
        let held = HELD[backend as usize].load(Relaxed);
        if held > 0 {
            let elsewhere = ELSEWHERE[backend as usize].load(Relaxed);
            println!(
                "fault sweep on {backend}: {held} cases (scenario, call, fault) held; in {elsewhere} \
                 of them the fault met another call than the run without a fault had there"
            );
        }
    }
}
