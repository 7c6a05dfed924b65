//! Removing what nobody refers to: the one code path that the reapers of `hapax serve` and the
//! command `hapax cleanup` share.

mod cleanup;
mod identity;
mod purge;

pub use cleanup::{CleanupError, CleanupReport, ReapedOriginal, cleanup};
pub use identity::{IdentityError, StoreIdentity, StoreMatch};
pub use purge::{PurgeReport, Purger};
