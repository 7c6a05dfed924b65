//! `hapax verify`: prints what is wrong while it is found.
//!
//! Where it is, is kept in the database, not in a file and not in the operator's scroll-back: the
//! next `--resume` finds it from any machine, after a SIGKILL too, and a unit that is started every
//! night with `--resume` and stopped every morning gets round by itself.

mod printer;

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::error::CliError;
use super::{Outcome, output, setup};
use crate::config::{Config, parse_bytes};
use crate::ledger::Ledger;
use crate::ledger::verify::passes::PassKind;
use crate::reap::StoreIdentity;
use crate::verify::{
    self, Ended, Keeper, Mending, Pace, Progress, Sample, Share, Verifier, VerifyError,
    VerifyOptions, VerifySummary,
};
use printer::{Printer, conclusion};

/// Objects read at once: enough to hide a store's latency, few enough to leave a server beside it
/// its share.
const READS_IN_FLIGHT: usize = 4;
/// A step of `--deep` ends after this much, so that its progress is kept.
const BYTES_PER_STEP: u64 = 256 << 20;
const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

#[derive(Debug, Clone, Args)]
pub(super) struct Arguments {
    /// Read stored objects and hash them: all of them, or a sample
    #[arg(long)]
    deep: bool,
    /// Read only this share of the objects, like 1% or 0.05%; the same seed always chooses the same
    #[arg(long, value_name = "PERCENT", requires = "deep")]
    sample: Option<Share>,
    /// Which sample; seeds in a row take samples that do not overlap until all was read [default: the
    /// number of the day, so that daily runs of 1% read everything in 100 days]
    #[arg(long, value_name = "NUMBER", requires = "sample")]
    seed: Option<u64>,
    /// Set counts right, mark damaged originals (the next upload of their bytes heals them), hand
    /// objects that no row knows to the server's reaper
    #[arg(long)]
    repair: bool,
    /// Go on where an interrupted run stopped; from the beginning when there is none
    #[arg(long)]
    resume: bool,
    /// Look at no more than this many rows and objects a second
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// With --deep, read no more than this a second, like "20 MiB"
    #[arg(long, value_name = "SIZE", value_parser = bytes_per_second, requires = "deep")]
    read_rate: Option<u64>,
    /// One JSON document instead of lines: {"findings":[…],"ok":…,…}
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, config: &Config) -> Result<Outcome, CliError> {
    let ledger = setup::ledger(config).await?;
    let store = setup::store(config).await?;
    let originals = ledger.count_originals().await?;
    let (progress, mut keeper) = begin(&arguments, &ledger).await?;
    let stop = stop_by_signal()?;
    let identity = StoreIdentity::new(ledger.clone(), store.clone());
    let options = VerifyOptions {
        mending: match arguments.repair {
            true => Mending::Repair,
            false => Mending::ReportOnly,
        },
        put_deadline: config.upload.put_deadline,
        usage: true,
        reads_in_flight: READS_IN_FLIGHT,
        bytes_per_step: BYTES_PER_STEP,
        read_pace: Pace::new(arguments.read_rate),
    };
    let verifier = Verifier::new(ledger, store, identity, options, stop);
    let pace = Pace::new(arguments.rate);
    let mut printer = Printer::new(arguments.json, originals, &progress);
    if arguments.json {
        output::say("{\"findings\":[")?;
    }
    let deep = progress.deep;
    let ended = verify::run(&verifier, progress, &pace, &mut keeper, &mut printer).await;
    let written = printer.finish();
    // The document is closed even when the verification broke off: what was found is worth reading.
    if arguments.json {
        let end = closing(&ended, deep).to_string();
        output::say(&format!("],{}", end.trim_start_matches('{')))?;
    }
    written?;
    conclude(ended?, deep, arguments.json)
}

/// Says how it ended; where it was interrupted, how to go on.
fn conclude(ended: Ended, deep: Option<Sample>, json: bool) -> Result<Outcome, CliError> {
    let (summary, is_complete) = match &ended {
        Ended::Complete(summary) => (summary, true),
        Ended::Interrupted(summary) => (summary, false),
    };
    if !json {
        output::say(&conclusion(summary, is_complete, deep))?;
    }
    if !is_complete {
        output::complain("interrupted: the same command with --resume goes on from here");
        return Ok(Outcome::Found);
    }
    Ok(match is_sound(summary) {
        true => Outcome::Done,
        false => Outcome::Found,
    })
}

/// The keys after the findings.
fn closing(ended: &Result<Ended, VerifyError>, deep: Option<Sample>) -> Value {
    let (mut end, complete) = match ended {
        Ok(Ended::Complete(summary)) => (serde_json::to_value(summary), true),
        Ok(Ended::Interrupted(summary)) => (serde_json::to_value(summary), false),
        Err(error) => (Ok(json!({ "error": error.to_string() })), false),
    };
    let sound = matches!(ended, Ok(Ended::Complete(summary)) if is_sound(summary));
    if let Ok(Value::Object(end)) = &mut end {
        let sample =
            deep.map(|sample| json!({ "share": sample.share.to_string(), "seed": sample.seed }));
        end.insert("sample".to_owned(), sample.into());
        end.insert("complete".to_owned(), complete.into());
        end.insert("ok".to_owned(), sound.into());
    }
    end.unwrap_or_default()
}

/// Whether nothing was wrong. What was mended was wrong, too: somebody should know.
fn is_sound(summary: &VerifySummary) -> bool {
    summary.problems == 0
}

/// Where to begin, and who keeps it from now on.
async fn begin(arguments: &Arguments, ledger: &Ledger) -> Result<(Progress, Keeper), CliError> {
    if !arguments.resume {
        let taken = ledger.take_command_pass().await?;
        let progress = Progress::new(sample_of(arguments, None));
        return Ok((progress, Keeper::new(ledger.clone(), taken)));
    }
    // Looked at before it is taken: who asks for something else must not stop the run that has it.
    let state = ledger.pass_state(PassKind::Command).await?;
    let kept: Option<Progress> = match state.progress.map(serde_json::from_value).transpose() {
        Ok(kept) => kept,
        Err(_) => {
            output::complain("verify: where the last run was cannot be read; beginning anew");
            None
        }
    };
    let progress = match kept {
        Some(kept) if kept.deep == sample_of(arguments, kept.deep) => {
            output::complain("verify: going on where the last run stopped");
            kept
        }
        Some(kept) => {
            return Err(CliError::OtherDepth {
                kept: depth(kept.deep),
            });
        }
        None => Progress::new(sample_of(arguments, None)),
    };
    let taken = ledger.take_command_pass().await?;
    Ok((progress, Keeper::new(ledger.clone(), taken)))
}

/// What the arguments ask to be read; where they do not name a seed, the one of an earlier run.
fn sample_of(arguments: &Arguments, kept: Option<Sample>) -> Option<Sample> {
    let share = arguments.sample.unwrap_or(Share::ALL);
    let seed = match (share, arguments.seed, kept) {
        (Share::ALL, _, _) => 0,
        (_, Some(seed), _) => seed,
        (_, None, Some(kept)) => kept.seed,
        (_, None, None) => today(),
    };
    arguments.deep.then_some(Sample { share, seed })
}

/// The number of the day. It only chooses what is read.
fn today() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs() / SECONDS_PER_DAY
}

fn depth(deep: Option<Sample>) -> String {
    match deep {
        None => "without --deep".to_owned(),
        Some(Sample {
            share: Share::ALL, ..
        }) => "with --deep".to_owned(),
        Some(Sample { share, seed }) => format!("with --deep --sample {share} --seed {seed}"),
    }
}

/// SIGINT and SIGTERM end the verification where it can be gone on with; a second one ends it at once.
fn stop_by_signal() -> Result<CancellationToken, CliError> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stopping = stop.clone();
    actix_rt::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stopping.is_cancelled() {
                std::process::exit(1);
            }
            stopping.cancel();
        }
    });
    Ok(stop)
}

fn bytes_per_second(text: &str) -> Result<u64, String> {
    parse_bytes(text)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "a size a second, like \"20 MiB\"".to_owned())
}
