//! Hapax's tables, one file each, every column documented.
//!
//! Only `hapax::ledger` builds queries over them; the schema itself, with the constraints that turn
//! a bug into an error instead of a loss, is in the `migration` crate.

mod digest;
mod ids;

pub mod api_keys;
pub mod images;
pub mod original_images;
pub mod store_meta;
pub mod usage_counters;
pub mod verify_passes;
pub mod webhook_events;

pub use digest::{ContentDigest, InvalidDigest};
pub use ids::{ApiKeyId, ImageId, LeaseToken, OriginalId};
