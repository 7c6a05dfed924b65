//! How many bytes of bodies may be in memory at once.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::blocks::BLOCK_BYTES;

/// The part of the budget kept for bytes on their way to disk: one in so many.
///
/// It is a pool of its own because its holders always make progress, while a body in memory may wait
/// for a slow client for minutes: sharing one pool would let slow clients stop everybody's uploads.
const IN_FLIGHT_SHARE: u64 = 4;

#[derive(Debug)]
pub(super) struct Budget {
    memory: Arc<Semaphore>,
    in_flight: Arc<Semaphore>,
    /// All of `in_flight`: a chunk larger than this waits for the whole pool.
    in_flight_bytes: u32,
    /// Shows the bytes taken from both.
    gauge: IntGauge,
}

impl Budget {
    /// Splits `bytes` into both pools. The in-flight one has at least one byte: with it, bodies pass
    /// one block at a time however small the budget is.
    pub(super) fn new(bytes: u64, gauge: IntGauge) -> Self {
        let in_flight = (bytes / IN_FLIGHT_SHARE).clamp(1, u64::from(u32::MAX / 2)) as u32;
        let memory = bytes.saturating_sub(u64::from(in_flight));
        let memory = usize::try_from(memory)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Self {
            memory: Arc::new(Semaphore::new(memory)),
            in_flight: Arc::new(Semaphore::new(in_flight as usize)),
            in_flight_bytes: in_flight,
            gauge,
        }
    }

    /// No bytes yet, of the memory pool.
    pub(super) fn hold_no_memory(&self) -> Hold {
        self.try_hold_memory(0)
            .expect("no permits are always there, and no pool is ever closed")
    }

    /// Takes bytes for a body that stays in memory, if they are free. Never waits.
    pub(super) fn try_hold_memory(&self, bytes: usize) -> Option<Hold> {
        let permits = u32::try_from(bytes).ok()?;
        self.try_take(&self.memory, permits, bytes)
    }

    /// As much of `bytes` as the in-flight pool can ever hold, but at least one block.
    pub(super) fn whole_blocks_in_flight(&self, bytes: usize) -> usize {
        let most = bytes.min(self.in_flight_bytes as usize);
        (most - most % BLOCK_BYTES).max(BLOCK_BYTES)
    }

    /// An eighth of the in-flight pool, as long as no more than that is taken.
    pub(super) fn lone_share_in_flight(&self) -> Option<usize> {
        let all = self.in_flight_bytes as usize;
        let share = all / 8;
        (self.in_flight.available_permits() >= all - share).then_some(share)
    }

    /// Takes bytes on their way to disk, if they are free.
    pub(super) fn try_hold_in_flight(&self, bytes: usize) -> Option<Hold> {
        self.try_take(&self.in_flight, self.in_flight_permits(bytes), bytes)
    }

    /// Takes bytes on their way to disk as soon as they are free. The caller holds none.
    pub(super) async fn hold_in_flight(&self, bytes: usize) -> Hold {
        let permits = self.in_flight_permits(bytes);
        let permit = Arc::clone(&self.in_flight)
            .acquire_many_owned(permits)
            .await
            .expect("the budget is never closed");
        self.counted(permit, bytes)
    }

    fn try_take(&self, pool: &Arc<Semaphore>, permits: u32, bytes: usize) -> Option<Hold> {
        let permit = Arc::clone(pool).try_acquire_many_owned(permits).ok()?;
        Some(self.counted(permit, bytes))
    }

    fn counted(&self, permit: OwnedSemaphorePermit, bytes: usize) -> Hold {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.gauge.add(bytes);
        let gauge = GaugeShare {
            gauge: self.gauge.clone(),
            bytes,
        };
        Hold { permit, gauge }
    }

    fn in_flight_permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).map_or(self.in_flight_bytes, |bytes| {
            bytes.min(self.in_flight_bytes)
        })
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> (usize, usize) {
        (
            self.memory.available_permits(),
            self.in_flight.available_permits(),
        )
    }
}

/// Bytes taken from one of the pools; dropping it returns them.
#[derive(Debug)]
pub(super) struct Hold {
    permit: OwnedSemaphorePermit,
    gauge: GaugeShare,
}

impl Hold {
    /// Adds what `other` holds, of the same pool.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.permit.merge(other.permit);
        self.gauge.bytes += std::mem::take(&mut other.gauge.bytes);
    }

    /// The permit, and the share of the gauge, for a body that keeps both.
    pub(super) fn into_parts(self) -> (OwnedSemaphorePermit, GaugeShare) {
        (self.permit, self.gauge)
    }
}

/// What one holder adds to the gauge of bytes in memory; dropping it takes that away again.
#[derive(Debug)]
pub(super) struct GaugeShare {
    gauge: IntGauge,
    bytes: i64,
}

impl Drop for GaugeShare {
    fn drop(&mut self) {
        self.gauge.sub(self.bytes);
    }
}
