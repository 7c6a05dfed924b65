//! A body on its way to disk: gathered, and written by the blocking pool.

use std::io;

use tokio::task::{JoinHandle, spawn_blocking};

use super::blocks::{Appender, BLOCK_BYTES};
use super::gather::Gather;
use super::{Spool, SpoolFile};

/// The first gather of a body on disk, and of one whose client was silent: all of it is taken from the
/// budget as soon as there is one byte in it.
const FIRST_GATHER_BYTES: usize = 32 * 1024 - BLOCK_BYTES;
/// What is gathered at the most before a thread of the blocking pool writes it: with what aligning it may
/// take, an allocation of 128 KiB. A second gather fills meanwhile, so one upload has at most twice this in
/// flight.
const GATHER_BYTES: usize = 128 * 1024 - BLOCK_BYTES;
/// The same as long as few uploads share the budget: each change of threads is worth more bytes then.
const LONE_GATHER_BYTES: usize = 1024 * 1024 - BLOCK_BYTES;

/// The file of a body, and what is not in it yet.
#[derive(Debug)]
pub(super) struct OnDisk {
    /// There is at least one byte in it.
    gather: Option<Gather>,
    /// The size of the next gather: it grows as long as they are filled.
    next_bytes: usize,
    worker: Worker,
}

/// Who has the file: exactly one place at any time, so that no byte is written out of order.
#[derive(Debug)]
enum Worker {
    /// Opened with its first bytes.
    Idle(Option<Appender>),
    Busy(JoinHandle<io::Result<Appender>>),
    /// An error was reported; there is no body any more.
    Failed,
}

impl OnDisk {
    pub(super) fn new() -> Self {
        Self::with_worker(Worker::Idle(None))
    }

    /// Goes on with a file that has the body's first bytes.
    pub(super) fn with_file(file: Appender) -> Self {
        Self::with_worker(Worker::Idle(Some(file)))
    }

    /// What is left of a body that is lost: every call fails.
    pub(super) fn failed() -> Self {
        Self::with_worker(Worker::Failed)
    }

    fn with_worker(worker: Worker) -> Self {
        Self {
            gather: None,
            next_bytes: FIRST_GATHER_BYTES,
            worker,
        }
    }

    /// Whether there are bytes that [`Self::pause`] would write.
    pub(super) fn holds_in_flight(&self) -> bool {
        self.gather.is_some()
    }

    /// Takes the next bytes.
    pub(super) async fn write(&mut self, spool: &Spool, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let gather = match &mut self.gather {
                Some(gather) => gather,
                None => self.begin(spool).await?,
            };
            rest = gather.fill(rest);
            if gather.is_full() {
                self.next_bytes = (2 * self.next_bytes).min(LONE_GATHER_BYTES);
                self.flush(spool).await?;
            }
        }
        Ok(())
    }

    /// Takes bytes that are gathered already; after all that was taken before.
    pub(super) async fn take(&mut self, spool: &Spool, gather: Gather) -> io::Result<()> {
        self.flush(spool).await?;
        if !gather.is_empty() {
            self.gather = Some(gather);
        }
        Ok(())
    }

    /// Has the blocking pool `write` to the file, after all that was taken before.
    pub(super) async fn write_by(
        &mut self,
        spool: &Spool,
        write: impl FnOnce(&mut Appender) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.flush(spool).await?;
        self.worker.start(spool, write).await
    }

    /// Has what is gathered written, and begins small again.
    pub(super) async fn pause(&mut self, spool: &Spool) -> io::Result<()> {
        self.next_bytes = FIRST_GATHER_BYTES;
        self.flush(spool).await
    }

    /// The file with all bytes that were taken.
    pub(super) async fn finish(mut self, spool: &Spool) -> io::Result<SpoolFile> {
        self.flush(spool).await?;
        if let Some(file) = self.worker.settle().await? {
            return file.finish();
        }
        let spool = spool.clone();
        spawn_blocking(move || SpoolFile::create_in(&spool.shared.directory))
            .await
            .map_err(io::Error::other)?
    }

    /// A new gather, as soon as the budget has room for it.
    async fn begin(&mut self, spool: &Spool) -> io::Result<&mut Gather> {
        let budget = &spool.shared.budget;
        let most = budget.lone_share_in_flight().map_or(GATHER_BYTES, |share| {
            share.clamp(GATHER_BYTES, LONE_GATHER_BYTES)
        });
        let capacity = budget.whole_blocks_in_flight(self.next_bytes.min(most));
        let hold = match budget.try_hold_in_flight(capacity) {
            Some(hold) => hold,
            None => {
                // Give up everything before waiting: that is why this cannot deadlock.
                let file = self.worker.settle().await?;
                self.worker = Worker::Idle(file);
                budget.hold_in_flight(capacity).await
            }
        };
        Ok(self.gather.insert(Gather::new(capacity, hold)))
    }

    async fn flush(&mut self, spool: &Spool) -> io::Result<()> {
        match self.gather.take() {
            Some(gather) => {
                let write = move |file: &mut Appender| file.append(gather.bytes());
                self.worker.start(spool, write).await
            }
            None => Ok(()),
        }
    }
}

impl Worker {
    /// Waits until nothing is at work and takes the file out. `Failed` stays behind.
    async fn settle(&mut self) -> io::Result<Option<Appender>> {
        match std::mem::replace(self, Self::Failed) {
            Self::Idle(file) => Ok(file),
            Self::Busy(writing) => writing.await.map_err(io::Error::other)?.map(Some),
            Self::Failed => Err(io::Error::other("the spooled body failed before")),
        }
    }

    /// Has the blocking pool `write` to the file, as soon as what was given to it before is written.
    async fn start(
        &mut self,
        spool: &Spool,
        write: impl FnOnce(&mut Appender) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let file = self.settle().await?;
        let slot = spool.worker_slot().await;
        let spool = spool.clone();
        *self = Self::Busy(spawn_blocking(move || {
            let mut file = file.map_or_else(|| spool.new_file(), Ok)?;
            write(&mut file)?;
            drop(slot);
            Ok(file)
        }));
        Ok(())
    }
}
