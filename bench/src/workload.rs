//! What is measured: one line of the table each.

use std::time::Duration;

use serde::Serialize;

use crate::client::Traffic;
use crate::contender::Backend::{self, PostgresS3, SqliteLocal};
use crate::contender::Contender::{self, DockerRegistry, FloorHash, FloorStore, Hapax, Naive};
use crate::load::Until;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Workload {
    /// What `--only` takes.
    pub(crate) name: &'static str,
    /// What it is, in words.
    pub(crate) title: &'static str,
    pub(crate) backend: Backend,
    #[serde(skip)]
    pub(crate) traffic: Traffic,
    pub(crate) file_bytes: u64,
    pub(crate) connections: u64,
    /// Requests of each connection in a round; 0: as many as go into the round's time.
    pub(crate) requests: u64,
    /// Hapax first; ratios are Hapax to each other.
    #[serde(skip)]
    pub(crate) contenders: &'static [Contender],
}

/// How long and how much.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    /// Of a round whose end is not a number of requests.
    pub(crate) seconds: f64,
    pub(crate) warm_up_seconds: f64,
    /// How long large bodies go on coming while the memory is looked at.
    pub(crate) soak_seconds: f64,
    /// Shows that everything works and judges no time: the large bodies are then smaller.
    pub(crate) smoke: bool,
}

impl Workload {
    /// When a round ends. The naive service gets a tenth of a fixed number of requests: it would take
    /// minutes, and rates are compared.
    pub(crate) fn until(&self, contender: Contender, scale: Scale) -> Until {
        match self.requests {
            0 => Until::Time(Duration::from_secs_f64(scale.seconds)),
            _ if scale.smoke => Until::Requests(1),
            requests if contender == Naive => Until::Requests((requests / 10).max(1)),
            requests => Until::Requests(requests),
        }
    }

    /// How many connections there are.
    pub(crate) fn connections(&self, scale: Scale) -> u64 {
        match (scale.smoke, self.requests) {
            (false, _) => self.connections,
            (true, 0) => self.connections.min(8),
            (true, _) => 1,
        }
    }

    /// The length of every file.
    pub(crate) fn file_bytes(&self, scale: Scale) -> u64 {
        match scale.smoke {
            true => self.file_bytes.min(20 * MIB),
            false => self.file_bytes,
        }
    }

    /// The load without its first seconds, which only a steady load has.
    pub(crate) fn warm_up(&self, scale: Scale) -> Option<Until> {
        let time = Duration::from_secs_f64(scale.warm_up_seconds);
        (self.requests == 0).then_some(Until::Time(time))
    }
}

const fn on_sqlite(
    name: &'static str,
    title: &'static str,
    traffic: Traffic,
    file_bytes: u64,
    connections: u64,
    contenders: &'static [Contender],
) -> Workload {
    let backend = SqliteLocal;
    Workload {
        name,
        title,
        backend,
        traffic,
        file_bytes,
        connections,
        requests: 0,
        contenders,
    }
}

const fn on_postgres(
    name: &'static str,
    title: &'static str,
    traffic: Traffic,
    file_bytes: u64,
    connections: u64,
    contenders: &'static [Contender],
) -> Workload {
    let backend = PostgresS3;
    Workload {
        name,
        title,
        backend,
        traffic,
        file_bytes,
        connections,
        requests: 0,
        contenders,
    }
}

const fn requests(requests: u64, mut workload: Workload) -> Workload {
    workload.requests = requests;
    workload
}

/// Every workload, in the table's order.
pub(crate) const ALL: &[Workload] = &[
    on_sqlite(
        "dup-100k-1",
        "duplicates, 100 KiB",
        Traffic::Duplicate,
        100 * KIB,
        1,
        &[Hapax, FloorHash],
    ),
    on_sqlite(
        "dup-100k-32",
        "duplicates, 100 KiB",
        Traffic::Duplicate,
        100 * KIB,
        32,
        &[Hapax, FloorHash, Naive, DockerRegistry],
    ),
    on_sqlite(
        "dup-100k-256",
        "duplicates, 100 KiB",
        Traffic::Duplicate,
        100 * KIB,
        256,
        &[Hapax, FloorHash],
    ),
    on_sqlite(
        "new-100k-1",
        "new originals, 100 KiB",
        Traffic::New,
        100 * KIB,
        1,
        &[Hapax, FloorStore],
    ),
    on_sqlite(
        "new-100k-32",
        "new originals, 100 KiB",
        Traffic::New,
        100 * KIB,
        32,
        &[Hapax, FloorStore, Naive, DockerRegistry],
    ),
    on_sqlite(
        "new-100k-256",
        "new originals, 100 KiB",
        Traffic::New,
        100 * KIB,
        256,
        &[Hapax, FloorStore],
    ),
    on_sqlite(
        "dup-4k-32",
        "duplicates, 4 KiB",
        Traffic::Duplicate,
        4 * KIB,
        32,
        &[Hapax, FloorHash, Naive],
    ),
    on_sqlite(
        "new-4k-32",
        "new originals, 4 KiB",
        Traffic::New,
        4 * KIB,
        32,
        &[Hapax, FloorStore, Naive],
    ),
    requests(
        8,
        on_sqlite(
            "dup-10m-16",
            "duplicates, 10 MiB",
            Traffic::Duplicate,
            10 * MIB,
            16,
            &[Hapax, FloorHash],
        ),
    ),
    requests(
        4,
        on_sqlite(
            "new-10m-16",
            "new originals, 10 MiB",
            Traffic::New,
            10 * MIB,
            16,
            &[Hapax, FloorStore],
        ),
    ),
    requests(
        1,
        on_sqlite(
            "dup-1g-1",
            "duplicate, 1 GiB",
            Traffic::Duplicate,
            1024 * MIB,
            1,
            &[Hapax, FloorHash],
        ),
    ),
    requests(
        1,
        on_sqlite(
            "new-1g-1",
            "new original, 1 GiB",
            Traffic::New,
            1024 * MIB,
            1,
            &[Hapax, FloorStore],
        ),
    ),
    on_sqlite(
        "mixed-100k-64",
        "90 % duplicates and deletions, 100 KiB",
        Traffic::Mixed,
        100 * KIB,
        64,
        &[Hapax, Naive],
    ),
    on_sqlite(
        "hot-4k-64",
        "one hot hash, 4 KiB",
        Traffic::Hot,
        4 * KIB,
        64,
        &[Hapax, FloorHash, Naive],
    ),
    requests(
        10,
        on_sqlite(
            "bulk-delete-4",
            "bulk deletions of 1000 (references)",
            Traffic::BulkDelete,
            KIB,
            4,
            &[Hapax, Naive],
        ),
    ),
    on_sqlite(
        "read-100k-32",
        "content whole, 100 KiB",
        Traffic::ReadWhole,
        100 * KIB,
        32,
        &[Hapax, Naive],
    ),
    on_sqlite(
        "range-64k-32",
        "content by range, 64 KiB of 10 MiB",
        Traffic::ReadRange,
        10 * MIB,
        32,
        &[Hapax, Naive],
    ),
    on_postgres(
        "pg-dup-100k-32",
        "duplicates, 100 KiB",
        Traffic::Duplicate,
        100 * KIB,
        32,
        &[Hapax, FloorHash, Naive],
    ),
    on_postgres(
        "pg-new-100k-32",
        "new originals, 100 KiB",
        Traffic::New,
        100 * KIB,
        32,
        &[Hapax, Naive],
    ),
    on_postgres(
        "pg-new-100k-256",
        "new originals, 100 KiB",
        Traffic::New,
        100 * KIB,
        256,
        &[Hapax, Naive],
    ),
    on_postgres(
        "pg-mixed-100k-64",
        "90 % duplicates and deletions, 100 KiB",
        Traffic::Mixed,
        100 * KIB,
        64,
        &[Hapax, Naive],
    ),
    on_postgres(
        "pg-hot-4k-64",
        "one hot hash, 4 KiB",
        Traffic::Hot,
        4 * KIB,
        64,
        &[Hapax, Naive],
    ),
    requests(
        10,
        on_postgres(
            "pg-bulk-delete-4",
            "bulk deletions of 1000 (references)",
            Traffic::BulkDelete,
            KIB,
            4,
            &[Hapax, Naive],
        ),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_hapax_comes_first() {
        let mut names: Vec<_> = ALL.iter().map(|workload| workload.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|workload| workload.contenders[0] == Hapax));
    }
}
