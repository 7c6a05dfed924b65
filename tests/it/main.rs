//! The capabilities of Hapax, shown on the real server binary: every case on SQLite with the local
//! store, and again on PostgreSQL with S3.
//!
//! The binary starts what it needs by itself (a throw-away PostgreSQL cluster, an S3 server), and
//! every case ends with the check of `harness::outside`: nothing lost, nothing leaked, no wrong count.

mod harness;

mod bad_bodies;
mod commands;
mod concurrency;
mod content;
mod counting;
mod end_check;
mod failing;
mod health;
mod histories;
mod keys;
mod lifecycle;
mod linearizable;
mod listing;
mod queries;
mod races;
mod raw_bodies;
mod raw_socket;
mod recognition;
mod references;
mod roundtrip;
mod schedules_at_the_store;
#[cfg(feature = "seams")]
mod schedules_of_commits;
#[cfg(feature = "seams")]
mod schedules_of_deletions;
#[cfg(feature = "seams")]
mod schedules_of_reapers;
#[cfg(feature = "seams")]
mod schedules_of_scrubs;
#[cfg(feature = "seams")]
mod schedules_of_uploads;
mod schema;
#[cfg(feature = "seams")]
mod seams;
mod shutdown;
mod slow;
#[cfg(feature = "seams")]
mod sweep;
mod uploads;
mod usage;
mod verify;
mod verify_trickle;
mod webhooks;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A case mostly waits for its server; a few more than there are cores keep the cores busy.
    arguments.test_threads.get_or_insert(4);
    let mut cases = [
        end_check::cases(),
        schema::cases(),
        commands::cases(),
        verify::cases(),
        verify_trickle::cases(),
        health::cases(),
        lifecycle::cases(),
        uploads::cases(),
        recognition::cases(),
        bad_bodies::cases(),
        queries::cases(),
        raw_socket::cases(),
        raw_bodies::cases(),
        failing::cases(),
        references::cases(),
        listing::cases(),
        content::cases(),
        keys::cases(),
        webhooks::cases(),
        counting::cases(),
        usage::cases(),
        concurrency::cases(),
        races::cases(),
        schedules_at_the_store::cases(),
        shutdown::cases(),
        roundtrip::cases(),
        histories::cases(),
        linearizable::cases(),
    ]
    .concat();
    #[cfg(feature = "seams")]
    cases.extend(
        [
            seams::cases(),
            schedules_of_uploads::cases(),
            schedules_of_commits::cases(),
            schedules_of_deletions::cases(),
            schedules_of_reapers::cases(),
            schedules_of_scrubs::cases(),
        ]
        .concat(),
    );
    #[cfg(feature = "seams")]
    if std::env::var_os("HAPAX_TEST_SWEEP").is_some() {
        cases.extend(sweep::cases());
    }
    if std::env::var_os("HAPAX_TEST_SLOW").is_some() {
        cases.extend(slow::cases());
    }
    let exit_code = harness::run(&arguments, &cases);
    #[cfg(feature = "seams")]
    sweep::summary();
    exit_code
}
