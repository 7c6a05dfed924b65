//! Random histories: sequences of operations, crashes, damage and reaping that chance draws, run on
//! the server's own pipeline and on a reference model of a few lines, and compared after every step.
//! A history that fails is shrunk to one that cannot be made shorter.
//!
//! The server runs in this process without HTTP (`hapax::app::Instance`), so that thousands of
//! histories are cheap; a crash drops its tasks where they stand. `PROPTEST_CASES` sets how many
//! histories are run, `PROPTEST_RNG_SEED` which; the same seed draws the same histories. Seeds of
//! failures are kept in `tests/it/histories/regressions.txt` and run first.

mod calls;
mod compare;
mod model;
mod pausing;
mod run;
mod step;
mod world;

use std::time::{Duration, Instant};

use proptest::test_runner::{
    Config, FileFailurePersistence, RngSeed, TestCaseError, TestError, TestRunner,
};

use crate::harness::{Backend, Context, cases};
use step::{History, history};

cases! {
    both: [
        random_histories,
    ],
}

/// Seeds of histories that failed once.
const REGRESSIONS: &str = "tests/it/histories/regressions.txt";
/// The seed of a run that names none.
const SEED: u64 = 20_261_123;
/// Histories that run at the same time.
const LANES: u32 = 4;
/// Shrinking ends after this, with the shortest history so far.
const SHRINK_LIMIT: Duration = Duration::from_secs(300);

/// Many short histories, each on a fresh database and an empty store. They wait more than they
/// work, so a few go side by side; each lane draws its own.
async fn random_histories(ctx: &mut Context) {
    ctx.without_end_check("every history has its own");
    let (backend, began) = (ctx.backend, Instant::now());
    let config = config(backend);
    let cases = config.cases.div_ceil(LANES);
    let lanes = (0..LANES).map(|lane| {
        let config = in_lane(&config, cases, lane);
        tokio::task::spawn_blocking(move || run_lane(config, backend))
    });
    for lane in futures::future::join_all(lanes).await {
        let outcome = lane.expect("it does not panic");
        outcome.unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    let total = LANES * cases;
    println!("{total} histories on {backend} in {:?}", began.elapsed());
}

fn config(backend: Backend) -> Config {
    let mut config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        max_shrink_time: SHRINK_LIMIT.as_millis() as u32,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = default_cases(backend);
    }
    config
}

/// The same configuration with fewer histories and a seed of its own.
fn in_lane(config: &Config, cases: u32, lane: u32) -> Config {
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => SEED,
    };
    Config {
        cases,
        rng_seed: RngSeed::Fixed(seed.wrapping_mul(LANES.into()).wrapping_add(lane.into())),
        ..config.clone()
    }
}

fn run_lane(config: Config, backend: Backend) -> Result<(), String> {
    let outcome = TestRunner::new(config).run(&history(), |history| {
        run_one(&history, backend).map_err(TestCaseError::fail)
    });
    outcome.map_err(|error| match error {
        TestError::Fail(reason, history) => {
            format!("{reason}\nthe shortest history that fails: {history:#?}")
        }
        TestError::Abort(reason) => format!("no histories: {reason}"),
    })
}

/// What fits into a minute of CI.
fn default_cases(backend: Backend) -> u32 {
    match backend {
        Backend::SqliteLocal => 100,
        Backend::PostgresS3 => 24,
    }
}

/// One history in an actix system of its own, on a thread of its own.
fn run_one(history: &History, backend: Backend) -> Result<(), String> {
    let history = history.clone();
    let thread =
        std::thread::spawn(move || actix_rt::System::new().block_on(run::run(&history, backend)));
    thread.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(text.unwrap_or("panicked").to_owned())
    })
}
