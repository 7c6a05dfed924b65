//! `MultipartReaper`: aborts multipart uploads that somebody began under the prefix and left.
//!
//! Role: they cost money unseen. Hapax itself begins none (one PUT per key, rule R8). Invariant: it
//! touches nothing younger than a day, and nothing in a store that is not this database's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::background::{Round, Work};
use crate::reap::StoreIdentity;
use crate::store::BlobStore;

/// Longer than any upload lasts.
const STALE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Looks for multipart uploads that were left.
#[derive(Debug)]
pub struct MultipartReaper {
    /// Where they are.
    pub store: Arc<dyn BlobStore>,
    /// Whether this is the store to reap in.
    pub identity: StoreIdentity,
}

impl MultipartReaper {
    /// A listing is a request that costs money, and nothing here is urgent.
    pub const INTERVAL: Duration = Duration::from_secs(60 * 60);
}

#[async_trait]
impl Work for MultipartReaper {
    async fn round(&self) -> Round {
        if !self.identity.allows_reaping().await {
            return Round::Failed;
        }
        match self.store.abort_stale_multipart_uploads(STALE_AFTER).await {
            Ok(0) => Round::Done,
            Ok(aborted) => {
                tracing::info!(aborted, "aborted multipart uploads that somebody left");
                Round::Done
            }
            Err(error) => {
                tracing::warn!(%error, "could not look for stale multipart uploads");
                Round::Failed
            }
        }
    }
}
