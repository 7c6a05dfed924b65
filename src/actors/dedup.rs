//! `DedupActor`: resolves the contents of an upload to originals, or inserts the originals' rows.
//!
//! Role: drives steps 3 to 7 of the upload protocol. Attach to what is stored; else announce a
//! `pending` row (rule R2), have `BlobActor` write its bytes, have `RefcountActor` commit. New
//! content has one flight per node: whoever comes while it is being written waits and attaches.
//!
//! Invariants:
//! - One PUT per generation; a retry is a new generation (rules R1, R8).
//! - Every way out but success leaves rows that the reapers understand.
//! - The flight is a saving, not a lock: two nodes may write the same content, and the database
//!   decides which row stays.
//! - Work runs in tasks that no caller's disconnect can drop (rule R13).

mod flights;
mod job;
mod resolver;

use actix::prelude::*;
use tokio_util::task::TaskTracker;

pub(crate) use job::ImageIds;
pub use resolver::Resolver;

use super::Drain;
use crate::upload::{HashedUpload, StoredUpload, UploadError};

/// Resolves uploads.
#[derive(Debug)]
pub struct DedupActor {
    resolver: Resolver,
    in_flight: TaskTracker,
}

impl DedupActor {
    /// An actor that resolves by `resolver`.
    pub fn new(resolver: Resolver) -> Self {
        Self {
            resolver,
            in_flight: TaskTracker::new(),
        }
    }
}

impl Actor for DedupActor {
    type Context = Context<Self>;
}

/// Make these files images: all or none.
#[derive(Debug, Message)]
#[rtype(result = "Result<StoredUpload, UploadError>")]
pub struct ResolveUpload(pub HashedUpload);

impl Handler<ResolveUpload> for DedupActor {
    type Result = ResponseFuture<Result<StoredUpload, UploadError>>;

    fn handle(
        &mut self,
        ResolveUpload(upload): ResolveUpload,
        _: &mut Self::Context,
    ) -> Self::Result {
        let resolver = self.resolver.clone();
        let task = self
            .in_flight
            .track_future(async move { resolver.resolve(upload).await });
        let task = actix::spawn(task);
        // Dropping a task's handle lets the task go on.
        Box::pin(async move {
            task.await.unwrap_or_else(|failure| {
                tracing::error!(%failure, "an upload's task panicked");
                Err(UploadError::Internal(failure.to_string()))
            })
        })
    }
}

impl Handler<Drain> for DedupActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        let in_flight = self.in_flight.clone();
        // A closed tracker still takes tasks; it only lets `wait` end.
        in_flight.close();
        Box::pin(async move { in_flight.wait().await })
    }
}
