//! A request's body from its first event to its last, without any actor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::UploadConfig;
use crate::metrics::METRICS;
use crate::seams::{Rule, enforced};
use crate::sniff;
use crate::spool::{Expected, Spool, SpoolWriter};
use crate::upload::{BodyEvent, HashedFile, HashedUpload, Scoping, UploadError, UploadRequest};

/// A client silent for this long gives back the memory that others need: what is gathered goes to disk, or is
/// compared.
const LINGER: Duration = Duration::from_millis(100);

/// Takes bodies in. A cheap clone.
#[derive(Debug, Clone)]
pub(super) struct Intake {
    spool: Spool,
    config: Arc<UploadConfig>,
    scoping: Scoping,
}

impl Intake {
    pub(super) fn new(spool: Spool, config: Arc<UploadConfig>, scoping: Scoping) -> Self {
        Self {
            spool,
            config,
            scoping,
        }
    }

    /// Takes a whole body in. Returns at the first thing that is wrong with it, with all that it
    /// held freed.
    pub(super) async fn take_in(
        &self,
        request: UploadRequest,
        body: &mut mpsc::Receiver<BodyEvent>,
    ) -> Result<HashedUpload, UploadError> {
        let limit_bytes = self.config.max_bytes;
        if request
            .declared_bytes
            .is_some_and(|bytes| bytes > limit_bytes)
        {
            return Err(UploadError::TooLarge { limit_bytes });
        }
        let mut events = Events::new(body, &self.config);
        let mut files = Vec::new();
        let mut metadata = None;
        let mut open = None;
        loop {
            match events.next(open.as_mut()).await? {
                BodyEvent::Soon => {}
                BodyEvent::FileStarted { filename } => {
                    let file = OpenFile::new(self, filename, &request);
                    if open.replace(file).is_some() {
                        return Err(out_of_order("a file began inside another"));
                    }
                }
                BodyEvent::Chunk(chunk) => match &mut open {
                    Some(file) => file.write(&self.config, chunk).await?,
                    None => return Err(out_of_order("bytes came outside of a file")),
                },
                BodyEvent::FileEnded => match open.take() {
                    // What happens once a file is no part of what each upload holds while it waits.
                    Some(file) => {
                        files.push(Box::pin(file.finish(&self.config, &request)).await?);
                    }
                    None => return Err(out_of_order("a file ended that had not begun")),
                },
                BodyEvent::Metadata(value) => metadata = Some(value),
                BodyEvent::Complete if open.is_some() => {
                    return Err(out_of_order("the body was complete inside a file"));
                }
                BodyEvent::Complete => break,
            }
        }
        check_whole(&request, &files)?;
        METRICS
            .upload_bytes
            .inc_by(files.iter().map(|file| file.file_size).sum());
        Ok(HashedUpload {
            tenant: request.tenant,
            idempotency_key: request.idempotency_key,
            metadata,
            files,
        })
    }
}

/// The HTTP layer's bug, not the client's.
fn out_of_order(what: &str) -> UploadError {
    UploadError::Internal(format!("body events out of order: {what}"))
}

/// What can only be said of the whole body.
fn check_whole(request: &UploadRequest, files: &[HashedFile]) -> Result<(), UploadError> {
    match (files, request.declared_digest) {
        ([], _) => Err(UploadError::NoFile),
        ([file], Some(declared)) if file.digest != declared && enforced(Rule::DigestVerified) => {
            Err(UploadError::DigestMismatch {
                declared,
                actual: file.digest,
            })
        }
        ([_], _) | (_, None) => Ok(()),
        // A digest nobody checked must not look like one that fits.
        (_, Some(_)) => Err(out_of_order("a digest was declared for several files")),
    }
}

/// The body's events, with what a client may keep us waiting for.
struct Events<'a> {
    body: &'a mut mpsc::Receiver<BodyEvent>,
    config: &'a UploadConfig,
    /// How long we waited for the client. Our own waiting, for the budget or the disk, is none of its fault.
    waited: Duration,
    bytes: u64,
}

impl<'a> Events<'a> {
    fn new(body: &'a mut mpsc::Receiver<BodyEvent>, config: &'a UploadConfig) -> Self {
        Self {
            body,
            config,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// The next event. A client that is silent for a moment makes the open file give back its share of
    /// the in-flight budget; one that is silent or slow for too long is an error, as is one that left.
    async fn next(&mut self, open: Option<&mut OpenFile>) -> Result<BodyEvent, UploadError> {
        let patience = self.patience();
        let mut silent = Duration::ZERO;
        if let Some(file) = open
            && file.writer.holds_in_flight()
            && patience > LINGER
        {
            if let Ok(event) = self.wait(LINGER).await {
                return event;
            }
            file.writer.pause().await.map_err(UploadError::Spool)?;
            silent = LINGER;
        }
        match self.wait(patience - silent).await {
            Ok(event) => event,
            Err(_) => Err(UploadError::TooSlow),
        }
    }

    async fn wait(
        &mut self,
        at_most: Duration,
    ) -> Result<Result<BodyEvent, UploadError>, tokio::time::error::Elapsed> {
        let began = Instant::now();
        let event = timeout(at_most, self.body.recv()).await;
        self.waited += began.elapsed();
        let event = event?;
        if let Some(BodyEvent::Chunk(chunk)) = &event {
            self.bytes += chunk.len() as u64;
        }
        Ok(event.ok_or(UploadError::Incomplete))
    }

    /// How long the client may be silent from now on: until the idle limit, or until its bytes so
    /// far are too few for the time it took.
    fn patience(&self) -> Duration {
        let idle = self.config.idle_timeout;
        let Some(earned) = self
            .bytes
            .checked_mul(1000)
            .and_then(|bytes| bytes.checked_div(self.config.min_rate))
        else {
            return idle;
        };
        let granted = self
            .config
            .min_rate_after
            .max(Duration::from_millis(earned));
        idle.min(granted.saturating_sub(self.waited))
    }
}

/// A file whose bytes are coming.
struct OpenFile {
    filename: Option<String>,
    writer: SpoolWriter,
    /// The first bytes, until the type was looked at; `None` where every type is taken anyway.
    head: Option<BytesMut>,
}

impl OpenFile {
    fn new(intake: &Intake, filename: Option<String>, request: &UploadRequest) -> Self {
        let expected = Expected {
            at_least: request.expected_bytes,
            in_all: request.content_length,
            scope: intake.scoping.scope_of(&request.tenant),
        };
        let takes_all = intake.config.accept.iter().any(|pattern| pattern == "*/*");
        Self {
            filename,
            writer: intake.spool.writer(expected),
            head: (!takes_all).then(BytesMut::new),
        }
    }

    async fn write(&mut self, config: &UploadConfig, chunk: Bytes) -> Result<(), UploadError> {
        let limit_bytes = config.max_bytes;
        if self.writer.bytes().saturating_add(chunk.len() as u64) > limit_bytes {
            return Err(UploadError::TooLarge { limit_bytes });
        }
        self.refuse_early(config, &chunk)?;
        self.writer.write(chunk).await.map_err(UploadError::Spool)
    }

    /// Ends a large upload of a refused type as soon as its type is known. An unknown type is decided at
    /// the end: some formats are known only there.
    fn refuse_early(&mut self, config: &UploadConfig, chunk: &Bytes) -> Result<(), UploadError> {
        let Some(head) = &mut self.head else {
            return Ok(());
        };
        let missing = sniff::HEAD_BYTES - head.len();
        head.extend_from_slice(&chunk[..chunk.len().min(missing)]);
        if head.len() < sniff::HEAD_BYTES {
            return Ok(());
        }
        let mime_type = sniff::media_type(head);
        self.head = None;
        match mime_type {
            Some(known) => check_accepted(config, Some(known)),
            None => Ok(()),
        }
    }

    async fn finish(
        self,
        config: &UploadConfig,
        request: &UploadRequest,
    ) -> Result<HashedFile, UploadError> {
        let file_size = self.writer.bytes();
        if request
            .declared_bytes
            .is_some_and(|bytes| bytes != file_size)
        {
            return Err(UploadError::Incomplete);
        }
        if file_size == 0 {
            return Err(UploadError::EmptyFile);
        }
        let (body, digest) = self.writer.finish().await.map_err(UploadError::Spool)?;
        let sniffed = sniff::sniff(&body).await.map_err(UploadError::Spool)?;
        check_accepted(config, sniffed.mime_type)?;
        Ok(HashedFile {
            filename: self.filename,
            digest,
            file_size,
            mime_type: sniffed.mime_type.map(str::to_owned),
            dimensions: sniffed.dimensions,
            body,
        })
    }
}

fn check_accepted(config: &UploadConfig, mime_type: Option<&str>) -> Result<(), UploadError> {
    if sniff::accepts(&config.accept, mime_type) {
        return Ok(());
    }
    Err(UploadError::UnsupportedMediaType {
        mime_type: mime_type.unwrap_or(sniff::UNKNOWN_TYPE).to_owned(),
    })
}
