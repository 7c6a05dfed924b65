//! Bytes of a body that are gathered.

use super::blocks::AlignedBuffer;
use super::budget::{Budget, Hold};

/// Bytes on their way, and the permits for all that may be in it. The bytes go first.
#[derive(Debug)]
pub(super) struct Gather {
    buffer: AlignedBuffer,
    _hold: Hold,
}

impl Gather {
    /// Room for `capacity` bytes, for which there are permits.
    pub(super) fn new(capacity: usize, hold: Hold) -> Self {
        Self {
            buffer: AlignedBuffer::with_capacity(capacity),
            _hold: hold,
        }
    }

    /// Room for `capacity` bytes of the memory pool, if they are free.
    pub(super) fn in_memory(budget: &Budget, capacity: usize) -> Option<Self> {
        let hold = budget.try_hold_memory(capacity)?;
        Some(Self::new(capacity, hold))
    }

    /// Takes what there is room for; the rest.
    pub(super) fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        self.buffer.fill(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.buffer.is_full()
    }

    /// Forgets all but the first `count` bytes.
    pub(super) fn truncate(&mut self, count: usize) {
        self.buffer.truncate(count);
    }
}
