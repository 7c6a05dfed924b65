//! `HashActor`: takes a request's body in, and hands it on hashed.
//!
//! Steps 1 and 2 of the upload protocol: the bytes go through SHA-256 while they are spooled, limits
//! and declared digests are checked, the type is sniffed. What comes out is a [`HashedUpload`] for
//! `DedupActor`, whose answer is the upload's.
//!
//! **Invariants.** An upload is handed on only when its body was complete and each digest was computed
//! over exactly the bytes that were spooled. It runs in a task of its own: from the end of the body on no
//! disconnect ends it (rule R13), before that the disconnect ends it and frees all it held. A
//! slow client holds no memory that another upload needs to go on. No slice of work on the actor's thread
//! is longer than about half a millisecond; what takes longer, the blocking pool does.

mod intake;
mod pool;

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::Drain;
use crate::actors::dedup::ResolveUpload;
use crate::config::UploadConfig;
use crate::seams::{Point, Rule, enforced, reach};
use crate::spool::Spool;
use crate::upload::{BodyEvent, HashedUpload, Scoping, StoredUpload, UploadError, UploadRequest};

use intake::Intake;
pub use pool::Hashers;

/// One per arbiter; [`Hashers`] says which of them takes a body.
#[derive(Debug)]
pub struct HashActor {
    intake: Intake,
    dedup: Recipient<ResolveUpload>,
    in_flight: TaskTracker,
}

impl HashActor {
    /// An actor that spools into `spool` under the limits of `config`, and hands on to `dedup`.
    pub fn new(
        dedup: Recipient<ResolveUpload>,
        spool: Spool,
        config: Arc<UploadConfig>,
        scoping: Scoping,
    ) -> Self {
        Self {
            intake: Intake::new(spool, config, scoping),
            dedup,
            in_flight: TaskTracker::new(),
        }
    }
}

impl Actor for HashActor {
    type Context = Context<Self>;
}

/// Take this body in and make its files images. The answer may come while the body is still coming: then
/// it is a refusal, and the channel is closed.
#[derive(Debug, Message)]
#[rtype(result = "Result<StoredUpload, UploadError>")]
pub struct HashUpload {
    /// What the request said besides its body.
    pub request: UploadRequest,
    /// The body. Its capacity counts chunks that are in no budget yet: keep it small.
    pub body: mpsc::Receiver<BodyEvent>,
}

impl Handler<HashUpload> for HashActor {
    type Result = ResponseFuture<Result<StoredUpload, UploadError>>;

    fn handle(&mut self, upload: HashUpload, _: &mut Self::Context) -> Self::Result {
        let intake = self.intake.clone();
        let dedup = self.dedup.clone();
        let task = actix::spawn(self.in_flight.track_future(async move {
            let mut body = upload.body;
            let hashed = intake.take_in(upload.request, &mut body).await?;
            let work = async {
                reach(Point::BodyHashed, || hashed.files[0].digest).await;
                resolve(&dedup, hashed).await
            };
            if enforced(Rule::WorkOutlivesClient) {
                return work.await;
            }
            tokio::select! {
                done = work => done,
                _ = body.recv() => Err(UploadError::Incomplete),
            }
        }));
        // Dropping a task's handle lets the task go on.
        Box::pin(async move {
            task.await.unwrap_or_else(|failure| {
                tracing::error!(%failure, "an upload's task panicked");
                Err(UploadError::Internal(failure.to_string()))
            })
        })
    }
}

impl Handler<Drain> for HashActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        let in_flight = self.in_flight.clone();
        // A closed tracker still takes tasks; it only lets `wait` end.
        in_flight.close();
        Box::pin(async move { in_flight.wait().await })
    }
}

async fn resolve(
    dedup: &Recipient<ResolveUpload>,
    hashed: HashedUpload,
) -> Result<StoredUpload, UploadError> {
    // The message may have been at work when its actor ended, so nobody knows what became of it.
    dedup
        .send(ResolveUpload(hashed))
        .await
        .unwrap_or_else(|error| {
            Err(UploadError::Unavailable {
                what: format!("the deduplication actor did not answer: {error}"),
            })
        })
}

#[cfg(test)]
mod tests;
