//! What every case stands on: backends, the server as a child process, and the check at the end.

mod client;
mod context;
mod gate;
mod images;
#[cfg(feature = "seams")]
mod interleave;
mod outside;
mod postgres;
mod raw;
mod relay;
mod s3;
#[cfg(feature = "seams")]
mod seams;
mod server;
mod usage;

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};

pub(crate) use client::{Api, FilePart, Reply, assert_image, assert_keys, assert_time, text_of};
pub(crate) use context::Context;
pub(crate) use gate::{Action, Hold, Operation};
pub(crate) use images::{Dice, distinct_bytes, real_image, seeded_bytes, sha256_hex, small_png};
#[cfg(feature = "seams")]
pub(crate) use interleave::{
    blocked_by_a_lock, deleting, dropped_by, is_locking_look, one_batch, uploading, uploading_with,
    within,
};
pub(crate) use outside::{LEGACY_URL, Outside, count_of, object_file};
pub(crate) use raw::{RawConnection, multipart_body};
#[cfg(feature = "seams")]
pub(crate) use seams::{Event, Filter, Held, SeamControl, Times, Verdict};
#[cfg(feature = "seams")]
pub(crate) use server::Output;
pub(crate) use server::Server;

/// Where rows and bytes are while a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The default of `hapax serve`.
    SqliteLocal,
    /// A database of the throw-away cluster, and a bucket of the S3 server.
    PostgresS3,
}

impl Backend {
    /// How many cases passed on it so far.
    fn passed(self) -> &'static AtomicUsize {
        static PASSED: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
        &PASSED[self as usize]
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SqliteLocal => "sqlite_local",
            Self::PostgresS3 => "postgres_s3",
        })
    }
}

type Body = for<'a> fn(&'a mut Context) -> LocalBoxFuture<'a, ()>;

/// One test on one backend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) module: &'static str,
    pub(crate) name: &'static str,
    pub(crate) backend: Backend,
    pub(crate) body: Body,
}

impl Case {
    /// `backend::module::name`
    fn full_name(&self) -> String {
        format!("{}::{}::{}", self.backend, self.module, self.name)
    }
}

/// The cases of one module: those written once for both backends, and those that only one can show.
macro_rules! cases {
    ($( $scope:ident: [$($name:ident),* $(,)?] ),* $(,)?) => {
        pub(crate) fn cases() -> Vec<crate::harness::Case> {
            let module = module_path!().rsplit("::").next().expect("a module has a name");
            let mut cases = Vec::new();
            $( $(
                for backend in crate::harness::scope::$scope {
                    cases.push(crate::harness::Case {
                        module,
                        name: stringify!($name),
                        backend: *backend,
                        body: |context| Box::pin($name(context)),
                    });
                }
            )* )*
            cases
        }
    };
}
pub(crate) use cases;

/// The scopes that `cases!` knows.
pub(crate) mod scope {
    #![expect(non_upper_case_globals, reason = "spelled as words in `cases!`")]
    use super::Backend;

    pub(crate) const both: &[Backend] = &[Backend::SqliteLocal, Backend::PostgresS3];
    pub(crate) const sqlite_local: &[Backend] = &[Backend::SqliteLocal];
    pub(crate) const postgres_s3: &[Backend] = &[Backend::PostgresS3];
}

impl Case {
    /// What a context of its own needs, besides the one that a case is given.
    pub(crate) fn unnamed(backend: Backend) -> Self {
        Self {
            module: "",
            name: "",
            backend,
            body: |_| Box::pin(async {}),
        }
    }
}

thread_local! {
    /// Where the last panic of this thread was, and what it said. A case runs on one thread.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the cases as libtest would, and says in one line what it cannot run here.
pub(crate) fn run(arguments: &Arguments, cases: &[Case]) -> ExitCode {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        LAST_PANIC.with_borrow_mut(|last| *last = Some(info.to_string()));
    }));
    let missing = missing_postgres();
    // The names of a few cases, with commas: what the command line's one filter cannot say.
    let only = std::env::var("HAPAX_TEST_ONLY").ok();
    let wanted = |case: &&Case| {
        let only = only.as_deref();
        only.is_none_or(|names| names.split(',').any(|name| name == case.full_name()))
    };
    let trials: Vec<Trial> = cases
        .iter()
        .filter(wanted)
        .map(|case| trial(*case, missing.is_some()))
        .collect();
    if let (Some(why), false) = (&missing, arguments.list) {
        let left_out = trials.iter().filter(|t| t.has_ignored_flag()).count();
        println!("left out: {left_out} tests on PostgreSQL + S3, because {why}");
    }
    let conclusion = libtest_mimic::run(arguments, trials);
    if !arguments.list {
        for backend in scope::both {
            println!(
                "passed on {backend}: {}",
                backend.passed().load(Ordering::Relaxed)
            );
        }
        println!();
    }
    s3::remove();
    conclusion.exit_code()
}

/// Why PostgreSQL cannot be had; `tests/run` and CI insist on it.
fn missing_postgres() -> Option<String> {
    let why = postgres::find_binaries().err()?;
    if std::env::var_os("HAPAX_TEST_REQUIRE_POSTGRES").is_some() {
        return None;
    }
    Some(why)
}

fn trial(case: Case, postgres_is_missing: bool) -> Trial {
    let backend = case.backend;
    let leave_out = postgres_is_missing && backend == Backend::PostgresS3;
    Trial::test(case.full_name(), move || {
        run_case(case)?;
        backend.passed().fetch_add(1, Ordering::Relaxed);
        Ok(())
    })
    .with_ignored_flag(leave_out)
}

/// One case: its body, then the check from outside. Whatever fails, the servers' logs are shown.
fn run_case(case: Case) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let caught = AssertUnwindSafe(Context::new(case)).catch_unwind().await;
        let mut context = caught.map_err(|_| Failed::from(panic_text()))?;
        let outcome = AssertUnwindSafe(async {
            (case.body)(&mut context).await;
            context.finish().await;
        })
        .catch_unwind()
        .await
        .map_err(|_| panic_text());
        let outcome = outcome.map_err(|text| format!("{text}\n{}", context.logs()));
        context.clean_up().await;
        outcome.map_err(Failed::from)
    })
}

/// What the last panic of this thread said.
pub(crate) fn panic_text() -> String {
    LAST_PANIC
        .with_borrow_mut(Option::take)
        .unwrap_or_else(|| "panicked on another thread".to_owned())
}
