//! What the server can do, as plain calls: HTTP handlers, commands and tests drive this, and it
//! knows nothing of HTTP.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use entity::{ContentDigest, ImageId};
use futures::FutureExt;
use tokio::sync::mpsc;

use crate::actors::dedup::ImageIds;
use crate::actors::hash::{HashUpload, Hashers};
use crate::actors::refcount::{Apply, Shards};
use crate::ledger::batch::{AcquireReference, Operation, Outcome, ReleaseImages};
use crate::ledger::{Ledger, LedgerError};
pub use crate::ledger::{ListCursor, OriginalView, Stats};
use crate::metrics::METRICS;
use crate::reap::StoreIdentity;
use crate::seams::{Rule, enforced};
use crate::spool::Spool;
use crate::store::{BlobStore, BlobStream};
pub use crate::upload::ContentRef;
use crate::upload::{
    BodyEvent, ImageView, ReleasedImage, Scoping, StoredImage, StoredUpload, TenantId, UploadError,
    UploadRequest,
};

/// Pieces of a body between the socket and the hasher: the only bytes of an upload that no budget
/// counts, so few.
const BODY_CHANNEL: usize = 3;
/// The same of a body that is expected to go to disk: its pieces are large, and each keeps a buffer. Room
/// for one, and for the [`BodyEvent::Soon`] that goes before it.
const LARGE_BODY_CHANNEL: usize = 2;
/// How long a presigned URL works.
const PRESIGNED_FOR: Duration = Duration::from_secs(5 * 60);
/// How long the database may take to answer a readiness probe.
const READINESS_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a read follows an original that is healed while it is read.
const MAX_READS: usize = 3;

/// Everything the server can do. A cheap clone; every handler holds one.
#[derive(Debug, Clone)]
pub struct Service {
    ledger: Ledger,
    store: Arc<dyn BlobStore>,
    identity: StoreIdentity,
    spool: Spool,
    hashers: Hashers,
    refcounts: Shards,
    scoping: Scoping,
}

/// A new reference to content the tenant already has.
#[derive(Debug, Clone)]
pub struct NewReference {
    /// On whose behalf.
    pub tenant: TenantId,
    /// To what.
    pub content: ContentRef,
    /// What the client calls it.
    pub filename: Option<String>,
    /// The client's own JSON object.
    pub metadata: Option<serde_json::Value>,
    /// The `Idempotency-Key`.
    pub idempotency_key: Option<String>,
}

/// One page of a tenant's images, newest first.
#[derive(Debug)]
pub struct ImagePage {
    /// At most the asked number.
    pub images: Vec<ImageView>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<ListCursor>,
}

/// Why content cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The tenant has no such image.
    #[error("unknown image")]
    Unknown,
    /// The image was deleted.
    #[error("deleted image")]
    Gone,
    /// Live, but its object is missing or wrong: an alarm was raised.
    #[error("the object of a live image is missing or wrong")]
    Damaged,
    /// The database did not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store did not answer.
    #[error("the object store is not available: {0}")]
    Store(#[source] crate::store::StoreError),
}

/// A webhook's answer.
#[derive(Debug, Clone)]
pub struct WebhookReceipt {
    /// The body of the answer: `{"results":[{"id", "outcome"}]}`, as stored with the first delivery.
    pub result: serde_json::Value,
    /// Whether an earlier delivery of the same id had the effect.
    pub replayed: bool,
}

impl Service {
    /// Puts the parts together.
    pub fn new(
        ledger: Ledger,
        store: Arc<dyn BlobStore>,
        identity: StoreIdentity,
        spool: Spool,
        hashers: Hashers,
        refcounts: Shards,
        scoping: Scoping,
    ) -> Self {
        Self {
            ledger,
            store,
            identity,
            spool,
            hashers,
            refcounts,
            scoping,
        }
    }

    /// The same service for the calling thread, which reads sockets and runs an arbiter: bodies that it
    /// reads are taken in on it.
    #[must_use]
    pub fn on_this_thread(&self) -> Self {
        Self {
            hashers: self.hashers.with_one_here(),
            ..self.clone()
        }
    }

    /// Starts an upload. Send the body's events; the future answers once the upload is decided. It
    /// may be dropped after `BodyEvent::Complete` was sent: the work goes on (rule R13). It resolves
    /// early, while the body is still coming, when the upload is refused.
    pub fn upload(
        &self,
        request: UploadRequest,
    ) -> (
        mpsc::Sender<BodyEvent>,
        impl Future<Output = Result<StoredUpload, UploadError>> + use<>,
    ) {
        let pieces = match request.expected_bytes {
            Some(bytes) if self.spool.is_large(bytes) => LARGE_BODY_CHANNEL,
            _ => BODY_CHANNEL,
        };
        let (events, body) = mpsc::channel(pieces);
        let answer = self.hashers.nearest().send(HashUpload { request, body });
        let tether = (!enforced(Rule::WorkOutlivesClient)).then(|| events.clone());
        let answer = answer.map(move |answer| {
            drop(tether);
            answer.unwrap_or_else(|_| Err(LedgerError::stopping().into()))
        });
        (events, answer)
    }

    /// Takes a new reference to content of which the tenant has a live image.
    ///
    /// # Errors
    /// [`UploadError::UnknownContent`], `IdempotencyKeyReused`, `Overloaded`, `Unavailable`, `Internal`.
    pub async fn reference(&self, reference: NewReference) -> Result<StoredImage, UploadError> {
        let ids = ImageIds::new(&reference.tenant, reference.idempotency_key.as_deref());
        let image = ids.get(0);
        let shard = match &reference.content {
            ContentRef::Digest(digest) => self.refcounts.of(digest),
            ContentRef::Original(id) => self.refcounts.any(id.0),
        };
        let operation = Operation::Reference(AcquireReference {
            scope: self.scoping.scope_of(&reference.tenant),
            tenant: reference.tenant,
            content: reference.content,
            image,
            filename: reference.filename,
            metadata: reference.metadata,
            must_not_exist: ids.after_the_last(1),
        });
        match shard
            .send(Apply(operation))
            .await
            .unwrap_or_else(|_| Err(LedgerError::stopping()))?
        {
            Outcome::Attached { mut images, .. } if images.len() == 1 => Ok(images.remove(0)),
            Outcome::IdempotencyKeyReused => Err(UploadError::IdempotencyKeyReused),
            Outcome::UnknownContent => Err(UploadError::UnknownContent),
            other => Err(UploadError::Internal(format!(
                "a reference came to {other:?}"
            ))),
        }
    }

    /// Gives up references; one answer per id, in their order. A repeated id: the first deletes.
    ///
    /// # Errors
    /// The outcome is unknown or nothing was done; calling again is safe.
    pub async fn release(
        &self,
        tenant: &TenantId,
        ids: Vec<ImageId>,
    ) -> Result<Vec<ReleasedImage>, LedgerError> {
        match self.apply_release(tenant, ids, None).await? {
            Outcome::Released(released) => Ok(released),
            other => Err(LedgerError::Inconsistent(format!(
                "a deletion came to {other:?}"
            ))),
        }
    }

    /// As [`Service::release`], once per `event_id`: a later delivery gets the first answer.
    ///
    /// # Errors
    /// As [`Service::release`].
    pub async fn release_once(
        &self,
        tenant: &TenantId,
        event_id: &str,
        ids: Vec<ImageId>,
    ) -> Result<WebhookReceipt, LedgerError> {
        match self
            .apply_release(tenant, ids, Some(event_id.to_owned()))
            .await?
        {
            Outcome::Receipt {
                result, replayed, ..
            } => Ok(WebhookReceipt { result, replayed }),
            other => Err(LedgerError::Inconsistent(format!(
                "a webhook came to {other:?}"
            ))),
        }
    }

    async fn apply_release(
        &self,
        tenant: &TenantId,
        ids: Vec<ImageId>,
        event_id: Option<String>,
    ) -> Result<Outcome, LedgerError> {
        let shard = self
            .refcounts
            .any(ids.first().map_or(uuid::Uuid::nil(), |id| id.0));
        let release = ReleaseImages {
            tenant: tenant.clone(),
            ids,
            event_id,
        };
        shard
            .send(Apply(Operation::Release(release)))
            .await
            .unwrap_or_else(|_| Err(LedgerError::stopping()))
    }

    /// One image, live or deleted.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn image(
        &self,
        tenant: &TenantId,
        id: ImageId,
    ) -> Result<Option<ImageView>, LedgerError> {
        let found = self.ledger.find_image(tenant, id).await?;
        Ok(found.map(|(image, original)| ImageView::new(image, original.as_ref())))
    }

    /// A page of images, newest first; `limit` 1 to 1000.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn images(
        &self,
        tenant: &TenantId,
        after: Option<ListCursor>,
        limit: u64,
        include_deleted: bool,
    ) -> Result<ImagePage, LedgerError> {
        // One more than asked for tells whether there is a next page.
        let mut rows = self
            .ledger
            .list_images(tenant, after, limit + 1, include_deleted)
            .await?;
        let full = rows.len() as u64 > limit;
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = rows.last().filter(|_| full).map(|(image, _)| ListCursor {
            created_at: image.created_at,
            id: image.id,
        });
        let images = rows
            .into_iter()
            .map(|(image, original)| ImageView::new(image, original.as_ref()))
            .collect();
        Ok(ImagePage { images, next })
    }

    /// Which of these the tenant has live images of, in the order asked, each once.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn known(
        &self,
        tenant: &TenantId,
        digests: &[ContentDigest],
    ) -> Result<Vec<ContentDigest>, LedgerError> {
        let mut known: std::collections::HashSet<_> = self
            .ledger
            .find_known_digests(tenant, digests)
            .await?
            .into_iter()
            .collect();
        Ok(digests
            .iter()
            .copied()
            .filter(|digest| known.remove(digest))
            .collect())
    }

    /// The stored original of a content, as the tenant sees it. Where tenants share originals, one
    /// of which the tenant has no live image is unknown to it.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn original(
        &self,
        tenant: &TenantId,
        digest: ContentDigest,
    ) -> Result<Option<OriginalView>, LedgerError> {
        let scope = self.scoping.scope_of(tenant);
        let Some(original) = self.ledger.find_stored_original(&scope, digest).await? else {
            return Ok(None);
        };
        if !scope.is_empty() {
            let reference_count = original.reference_count;
            return Ok(Some(OriginalView {
                original,
                reference_count,
            }));
        }
        let reference_count = self
            .ledger
            .count_tenant_references(tenant, original.id)
            .await?;
        Ok((reference_count > 0).then_some(OriginalView {
            original,
            reference_count,
        }))
    }

    /// Counts; `None` for everybody's.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn stats(&self, tenant: Option<&TenantId>) -> Result<Stats, LedgerError> {
        self.ledger.stats(tenant.map(TenantId::as_str)).await
    }

    /// Opens a live image's bytes, or the half-open byte range of them. `view` is what
    /// [`Service::image`] said a moment ago; when it was deleted or healed since, that is seen here.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn open(
        &self,
        view: &ImageView,
        range: Option<Range<u64>>,
    ) -> Result<BlobStream, ReadError> {
        let tenant = TenantId::parse(&view.image.tenant).ok_or(ReadError::Unknown)?;
        // The store compares a range with what it has: a whole read must notice a short object, too.
        let file_size = view
            .image
            .file_size
            .and_then(|bytes| u64::try_from(bytes).ok());
        let range = range.or(file_size.map(|bytes| 0..bytes));
        let mut view = view.clone();
        for _ in 0..MAX_READS {
            let key = view.s3_key.clone().ok_or(ReadError::Gone)?;
            let error = match self.store.get(&key, range.clone()).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if !error.is_not_found() && error.kind != crate::store::StoreErrorKind::Damaged {
                return Err(ReadError::Store(error));
            }
            view = self
                .image(&tenant, view.image.id)
                .await?
                .ok_or(ReadError::Gone)?;
            match (&view.s3_key, view.image.original_image_id) {
                (Some(now), Some(original)) if *now == key => {
                    return Err(self.raise_alarm(original, &key).await);
                }
                // Healed meanwhile: its bytes are elsewhere now.
                (Some(_), Some(_)) => {}
                _ => return Err(ReadError::Gone),
            }
        }
        Err(ReadError::Damaged)
    }

    /// A live row whose object is missing or wrong: a failed read deletes nothing, it marks; and not
    /// even that in a store that is not this database's, where everything is missing.
    async fn raise_alarm(&self, original: entity::OriginalId, key: &str) -> ReadError {
        METRICS.missing_objects.inc();
        tracing::error!(%original, key, "the object of a live original is missing or wrong");
        if !self.identity.is_ours().await {
            return ReadError::Damaged;
        }
        match self.ledger.mark_damaged(original, key).await {
            Ok(_) => ReadError::Damaged,
            Err(error) => ReadError::Ledger(error),
        }
    }

    /// A URL that serves a live image's bytes from the store itself; `None` where the store has none.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn presign(
        &self,
        view: &ImageView,
        content_disposition: &str,
    ) -> Result<Option<String>, ReadError> {
        let key = view.s3_key.as_deref().ok_or(ReadError::Gone)?;
        let mime_type = view
            .image
            .mime_type
            .as_deref()
            .unwrap_or("application/octet-stream");
        self.store
            .presign_get(key, PRESIGNED_FOR, mime_type, content_disposition)
            .await
            .map_err(ReadError::Store)
    }

    /// Why the server cannot work right now: reason code and text; empty when it can.
    pub async fn unready_reasons(&self) -> Vec<(&'static str, String)> {
        let mut reasons = Vec::new();
        if let Some(reason) = self.database_trouble().await {
            reasons.push(("database", reason));
        }
        if let Err(error) = self.spool.check().await {
            reasons.push(("spool", error.to_string()));
        }
        if !self.is_alive() {
            reasons.push((
                "actors",
                "an actor ended; the process is about to exit".to_owned(),
            ));
        }
        reasons
    }

    /// A probe wants its answer soon, and a database future must not be dropped half-way (rule R16):
    /// so the question is asked in a task that may outlive the probe.
    async fn database_trouble(&self) -> Option<String> {
        let ledger = self.ledger.clone();
        let ping = actix::spawn(async move { ledger.ping().await });
        match tokio::time::timeout(READINESS_TIMEOUT, ping).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(error.to_string()),
            Ok(Err(failure)) => Some(failure.to_string()),
            Err(_) => Some(format!("no answer within {READINESS_TIMEOUT:?}")),
        }
    }

    /// Whether every actor that uploads and deletions pass is there.
    pub fn is_alive(&self) -> bool {
        self.refcounts.connected() && self.hashers.connected()
    }
}
