//! The figures of a run: one line for people, JSON for machines.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::faults::FaultCounts;
use crate::findings::{Found, Kind};
use crate::finish::Judged;
use crate::fleet::FleetFigures;
use crate::journal::{End, Record};

/// Everything that a run has to tell.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) clients: usize,
    /// Everything that clients began and ended.
    pub(crate) operations: u64,
    /// Ended with an answer that says that it is done.
    pub(crate) acknowledged: u64,
    /// Of those: uploads, references and deletions.
    pub(crate) acknowledged_changes: u64,
    /// Requests without an answer that says what happened; most were repeated until one did.
    pub(crate) unknown: u64,
    /// Operations that their clients left unknown; the end found out.
    pub(crate) left_unknown: u64,
    pub(crate) kills: u64,
    pub(crate) pauses: u64,
    pub(crate) starts: u64,
    pub(crate) failed_starts: u64,
    pub(crate) faults: u64,
    pub(crate) late_calls_landed: u64,
    pub(crate) puts_past_their_deadline: u64,
    pub(crate) database_restarts: u64,
    pub(crate) s3_restarts: u64,
    /// Looks at all rows in one snapshot, beside the running servers.
    pub(crate) snapshots: u64,
    pub(crate) lost: u64,
    pub(crate) leaked: u64,
    pub(crate) miscounted: u64,
    pub(crate) wrong: u64,
    pub(crate) rest_seconds: f64,
    pub(crate) live_images: u64,
    pub(crate) deleted_images: u64,
    pub(crate) originals: u64,
    pub(crate) objects: u64,
    pub(crate) images_found_out: u64,
    pub(crate) operations_by_kind: BTreeMap<String, u64>,
    pub(crate) refusals_by_code: BTreeMap<String, u64>,
    pub(crate) faults_by_kind: BTreeMap<String, u64>,
    pub(crate) findings: BTreeMap<Kind, Found>,
}

/// What a report is made of.
pub(crate) struct Sources<'a> {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) clients: usize,
    pub(crate) record: &'a Record,
    pub(crate) fleet: &'a FleetFigures,
    pub(crate) faults: &'a FaultCounts,
    pub(crate) late: (u64, u64),
    pub(crate) snapshots: u64,
    pub(crate) judged: &'a Judged,
    pub(crate) findings: BTreeMap<Kind, Found>,
}

impl Report {
    pub(crate) fn of(sources: Sources<'_>) -> Self {
        let Sources {
            record,
            fleet,
            faults,
            judged,
            findings,
            ..
        } = sources;
        let ends = |wanted: fn(End) -> bool| -> u64 {
            let chosen = record.ends.iter().filter(|((_, end), _)| wanted(*end));
            chosen.map(|(_, count)| count).sum()
        };
        let reads = record
            .ends
            .get(&(crate::journal::Deed::Read, End::Acknowledged));
        let acknowledged = ends(|end| end == End::Acknowledged);
        let found = |kind: Kind| findings.get(&kind).map_or(0, |found| found.count);
        let by_kind = record.ends.iter().map(|((deed, end), count)| {
            (format!("{} {end:?}", deed.name()).to_lowercase(), *count)
        });
        let by_fault = faults.iter().map(|((operation, fault), count)| {
            (format!("{} {}", operation.name(), fault.name()), *count)
        });
        Self {
            seed: sources.seed,
            seconds: sources.seconds,
            clients: sources.clients,
            operations: ends(|_| true),
            acknowledged,
            acknowledged_changes: acknowledged - reads.copied().unwrap_or(0),
            unknown: record.unknown_attempts,
            left_unknown: ends(|end| end == End::Unknown),
            kills: fleet.kills,
            pauses: fleet.pauses,
            starts: fleet.starts,
            failed_starts: fleet.failed_starts,
            faults: faults.values().sum(),
            late_calls_landed: sources.late.0,
            puts_past_their_deadline: sources.late.1,
            database_restarts: fleet.database_restarts,
            s3_restarts: fleet.s3_restarts,
            snapshots: sources.snapshots,
            lost: found(Kind::Lost),
            leaked: found(Kind::Leaked),
            miscounted: found(Kind::Miscounted),
            wrong: found(Kind::Wrong),
            rest_seconds: judged.rest_seconds,
            live_images: judged.live_images,
            deleted_images: judged.deleted_images,
            originals: judged.originals,
            objects: judged.objects,
            images_found_out: judged.found_out,
            operations_by_kind: by_kind.collect(),
            refusals_by_code: record.refusals.clone(),
            faults_by_kind: by_fault.collect(),
            findings,
        }
    }

    /// The line that a run ends with.
    pub(crate) fn line(&self) -> String {
        format!(
            "soak: {} operations, {} acknowledged ({} of them changes), {} unknown, {} kills, \
             {} pauses, {} S3 faults, {} late calls landed, {} database restarts, {} S3 restarts, \
             {} lost, {} leaked, {} miscounted, {} wrong; {} s, seed {}",
            self.operations,
            self.acknowledged,
            self.acknowledged_changes,
            self.unknown,
            self.kills,
            self.pauses,
            self.faults,
            self.late_calls_landed,
            self.database_restarts,
            self.s3_restarts,
            self.lost,
            self.leaked,
            self.miscounted,
            self.wrong,
            self.seconds,
            self.seed,
        )
    }
}
