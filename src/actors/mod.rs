//! The pipeline, in the order in which bytes pass it: they enter at `hash`, are resolved by `dedup`,
//! stored by `blob`, counted by `refcount`. Addresses point down this list and never back up. What
//! nobody refers to any more is removed by the background actors after them.

pub mod hash;

pub mod blob;
pub mod dedup;
pub mod receipt_reaper;
pub mod refcount;

pub mod background;
pub mod deletion_reaper;
pub mod lease_reaper;
pub mod multipart_reaper;
pub mod observer;
pub mod orphan_reaper;
pub mod scrubber;

use actix::Message;

/// Finish what is in flight, then answer. Each actor says in its handler what that means for it.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Drain;
