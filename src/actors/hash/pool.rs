//! The hashers of one process, and which of them takes a body.

use std::fmt;
use std::sync::Arc;

use actix::prelude::*;

use super::HashActor;

/// The hashers. A cheap clone.
///
/// A body is taken in on the thread that reads its socket: SHA-256 of a piece takes less time than
/// waking another thread for it does, and the bytes are still in the core's cache. Such a hasher goes
/// with its thread when the server has stopped; by then every body it saw the end of is with
/// `DedupActor`, and one it did not is as one whose client left. Whoever has no hasher near uses the
/// one that lives as long as the process.
#[derive(Clone)]
pub struct Hashers {
    lasting: Addr<HashActor>,
    near: Option<Addr<HashActor>>,
    make: Arc<dyn Fn() -> HashActor + Send + Sync>,
}

impl Hashers {
    /// `lasting` runs on an arbiter of its own, `make` makes one more of the same kind.
    pub fn new(
        lasting: Addr<HashActor>,
        make: impl Fn() -> HashActor + Send + Sync + 'static,
    ) -> Self {
        Self {
            lasting,
            near: None,
            make: Arc::new(make),
        }
    }

    /// The same hashers and one on the calling thread, which must run an arbiter.
    #[must_use]
    pub fn with_one_here(&self) -> Self {
        Self {
            near: Some((self.make)().start()),
            ..self.clone()
        }
    }

    /// Who takes a body that the calling thread reads.
    pub fn nearest(&self) -> &Addr<HashActor> {
        let near = self.near.as_ref().filter(|near| near.connected());
        near.unwrap_or(&self.lasting)
    }

    /// Whether the lasting one still works.
    pub fn connected(&self) -> bool {
        self.lasting.connected()
    }
}

impl fmt::Debug for Hashers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hashers")
            .field("lasting", &self.lasting)
            .field("near", &self.near)
            .finish_non_exhaustive()
    }
}
