//! Every run there is.

use Size::{Long, Medium, Short};

use crate::config::{Config, Rule};
use crate::properties::{ATOMIC, COUNTED, NO_FALSE_ACK, NO_LEAK, NO_LOSS, ONCE, ONE_ROW};

/// How long a run takes, and so when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// With every `cargo test`.
    Short,
    /// With `all`.
    Medium,
    /// With `long`.
    Long,
}

/// A run of the full protocol, in which nothing may be found.
#[derive(Debug, Clone)]
pub struct FullRun {
    /// What is in it.
    pub config: Config,
    /// When it is made.
    pub size: Size,
}

/// A run with a rule left out, and the property that must be found not to hold.
#[derive(Debug, Clone)]
pub struct BrokenRun {
    /// What is in it.
    pub config: Config,
    /// The property.
    pub violates: &'static str,
}

/// The runs of the full protocol.
pub fn full_runs() -> Vec<FullRun> {
    [upload_runs(), fault_runs(), heal_runs(), request_runs()].concat()
}

fn run(size: Size, about: &'static str, config: Config) -> FullRun {
    FullRun {
        config: Config { about, ..config },
        size,
    }
}

fn uploads(name: &'static str, uploads: usize) -> Config {
    Config::new(name, uploads, &[0])
}

fn upload_runs() -> Vec<FullRun> {
    let twice_deleted = Config::new("uploads", 2, &[0, 0]);
    vec![
        run(Short, "2 uploads, 2 deletions of one image", twice_deleted),
        run(
            Short,
            "1 upload, 3 generations",
            uploads("retry-one", 1).with_rounds(3),
        ),
        run(
            Medium,
            "3 uploads, no crash",
            uploads("three-calm", 3).calm(),
        ),
        run(Medium, "3 uploads, 1 deletion", uploads("three", 3)),
        run(
            Long,
            "2 uploads, 2 generations each",
            uploads("retry", 2).with_rounds(2),
        ),
    ]
}

fn fault_runs() -> Vec<FullRun> {
    let late = uploads("zombie", 2).scrubbed().with_late_writers();
    let failing = |name| uploads(name, 2).failing_over();
    vec![
        run(
            Short,
            "a bucket that is scrubbed",
            uploads("scrub", 2).scrubbed(),
        ),
        run(
            Short,
            "scrub, and a paused writer wakes past its deadline",
            late,
        ),
        run(
            Short,
            "a key that cannot be deleted",
            uploads("poison", 2).poisoned(),
        ),
        run(
            Short,
            "failover to an asynchronous replica, no crash",
            failing("failover").calm(),
        ),
        run(
            Medium,
            "the same with scrub",
            failing("failover-scrub").calm().scrubbed(),
        ),
        run(
            Medium,
            "the same with scrub and crashes",
            failing("failover-crash").scrubbed(),
        ),
    ]
}

fn heal_runs() -> Vec<FullRun> {
    let failing = uploads("heal-failover", 2)
        .decaying(1)
        .failing_over()
        .calm()
        .scrubbed();
    vec![
        run(
            Short,
            "the store loses or spoils an object: heal",
            uploads("heal", 2).decaying(1),
        ),
        run(
            Medium,
            "heal, two damages, scrub",
            uploads("heal-scrub", 2).decaying(2).scrubbed(),
        ),
        run(Medium, "heal, failover, scrub, no crash", failing),
        run(
            Long,
            "heal, 3 uploads",
            uploads("heal-three", 3).decaying(1),
        ),
    ]
}

fn request_runs() -> Vec<FullRun> {
    let twin = files("twin", &[&[0, 0], &[0]], &[&[0, 1]]);
    let heals = files("files-heal", &[&[0, 1], &[1]], &[&[0]])
        .decaying(1)
        .calm();
    vec![
        run(
            Short,
            "two contents",
            files("hashes", &[&[0], &[1]], &[&[0], &[1]]),
        ),
        run(Short, "one file twice in a request, bulk deletion", twin),
        run(
            Short,
            "a request of 2 files, one of 1",
            files("files", &[&[0, 1], &[1]], &[&[1]]),
        ),
        run(Medium, "a request of 2 files, heal, no crash", heals),
    ]
}

fn files(name: &'static str, uploads: &[&[u8]], deletes: &[&[u8]]) -> Config {
    Config {
        uploads: uploads.iter().map(|files| files.to_vec()).collect(),
        deletes: deletes.iter().map(|images| images.to_vec()).collect(),
        ..Config::new(name, 0, &[])
    }
}

/// One run for each rule that can be left out.
pub fn broken_runs() -> Vec<BrokenRun> {
    let runs = [without_r1_to_r7(), without_r8_to_r15(), without_section_4()].concat();
    let broken = |(name, rule, violates, config): Broken| {
        let config = config.without(name, rule);
        BrokenRun { config, violates }
    };
    runs.into_iter().map(broken).collect()
}

type Broken = (&'static str, Rule, &'static str, Config);

fn pair() -> Config {
    uploads("", 2)
}

fn without_r1_to_r7() -> Vec<Broken> {
    let twice_deleted = Config::new("", 1, &[0, 0]);
    vec![
        (
            "R1 key is the hash",
            Rule::KeyPerGeneration,
            NO_LOSS,
            pair().calm(),
        ),
        ("R2 no intent row", Rule::IntentRow, NO_LEAK, pair()),
        (
            "R3 count, then image",
            Rule::OneTransaction,
            COUNTED,
            pair(),
        ),
        (
            "R4 reaper reads, then claims",
            Rule::ConditionalClaim,
            NO_LOSS,
            pair(),
        ),
        (
            "R4 count is read, then written",
            Rule::ConditionalAttach,
            COUNTED,
            pair(),
        ),
        (
            "R4 image is read, then deleted",
            Rule::ConditionalDelete,
            COUNTED,
            twice_deleted,
        ),
        (
            "R5 no unique stored row",
            Rule::UniqueStored,
            ONE_ROW,
            pair(),
        ),
        (
            "R5 no unique s3_key",
            Rule::UniqueKey,
            NO_LOSS,
            pair().decaying(1),
        ),
        (
            "R6 deleting is resurrected",
            Rule::DeletingIsTerminal,
            NO_LOSS,
            pair(),
        ),
        (
            "R7 writer trusts its clock",
            Rule::RowDecides,
            NO_LOSS,
            pair(),
        ),
    ]
}

fn without_r8_to_r15() -> Vec<Broken> {
    let failing = || pair().failing_over().calm();
    vec![
        (
            "R8 PUT past put_deadline, no scrub",
            Rule::PutInTime,
            NO_LEAK,
            pair(),
        ),
        ("R8 no put_deadline", Rule::PutDeadline, NO_LEAK, pair()),
        ("R8 PUT is retried", Rule::OnePut, NO_LEAK, pair()),
        ("R8 no re-insert", Rule::Reinsert, NO_LEAK, failing()),
        (
            "R8 no re-insert on a hit",
            Rule::LostComesFirst,
            NO_LEAK,
            failing(),
        ),
        (
            "R9 S3 DELETE right after the claim",
            Rule::DurableClaim,
            NO_LOSS,
            failing(),
        ),
        (
            "R10 new image id on retry",
            Rule::StableImageId,
            ONCE,
            pair().calm(),
        ),
        (
            "R11 reaper waits for a poison key",
            Rule::PastPoison,
            NO_LEAK,
            pair().poisoned(),
        ),
        (
            "R12 scrub SELECTs first",
            Rule::ListFirst,
            NO_LOSS,
            pair().scrubbed(),
        ),
        (
            "R13 two messages, dropped between",
            Rule::OneMessage,
            COUNTED,
            pair().calm(),
        ),
        (
            "R15 201 before COMMIT",
            Rule::AckAfterCommit,
            NO_FALSE_ACK,
            pair(),
        ),
        ("R15 unverified bytes", Rule::VerifiedBytes, NO_LOSS, pair()),
    ]
}

fn without_section_4() -> Vec<Broken> {
    let heal = || pair().decaying(1);
    let two_files = files("", &[&[0, 1], &[1]], &[]);
    vec![
        (
            "one transaction per content",
            Rule::AllOrNone,
            ATOMIC,
            two_files,
        ),
        (
            "damaged row is a hit",
            Rule::DamagedIsNoHit,
            NO_LOSS,
            heal(),
        ),
        (
            "heal in two transactions",
            Rule::HealInOneTransaction,
            NO_LOSS,
            heal(),
        ),
        (
            "heal forgets the old key",
            Rule::HealKeepsOldKey,
            NO_LEAK,
            heal(),
        ),
    ]
}

/// The runs of the first model, a program in Python that the protocol was designed with, and what it
/// found: the name there, the configuration here, the property violated.
pub fn first_runs() -> Vec<(&'static str, Config, Option<&'static str>)> {
    let pair = |name| uploads(name, 2).as_first_modelled();
    let twice = Config::new("first E", 2, &[0, 0]).as_first_modelled();
    let failing = |name| pair(name).failing_over().calm();
    let late = |name| pair(name).with_late_writers();
    let one = Config::new("", 1, &[]).as_first_modelled().scrubbed();
    vec![
        (
            "D",
            twice.clone().without("first D", Rule::IntentRow),
            Some(NO_LEAK),
        ),
        ("E", twice.clone(), None),
        (
            "F",
            twice.without("first F", Rule::PutDeadline),
            Some(NO_LEAK),
        ),
        ("G", late("first G"), Some(NO_LEAK)),
        ("H", late("first H").scrubbed(), None),
        (
            "I",
            failing("").without("first I", Rule::DurableClaim),
            Some(NO_LOSS),
        ),
        ("J", failing("first J"), None),
        ("J2", failing("first J2").scrubbed(), None),
        ("K", one.without("first K", Rule::ListFirst), Some(NO_LOSS)),
        (
            "N",
            pair("").without("first N", Rule::DeletingIsTerminal),
            Some(NO_LOSS),
        ),
    ]
}

/// The flow that the protocol replaces: name, soft delete and decrement in one transaction, crashes,
/// what is violated.
pub const SEEDS: &[(&str, bool, bool, &[&str])] = &[
    ("old flow", false, true, &[NO_LOSS, COUNTED, NO_LEAK]),
    ("old flow, no crash", false, false, &[NO_LOSS, NO_LEAK]),
    (
        "old flow, one transaction, no crash",
        true,
        false,
        &[NO_LOSS, NO_LEAK],
    ),
];
