//! What the clients did and were told: kept in memory for the checks, and as JSON lines in a file for
//! people.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::history::{Event, Moment, What};

/// What one file of an upload says of itself.
#[derive(Debug, Clone)]
pub(crate) struct FileClaim {
    /// Unique in the run: it ties the image's row to the upload.
    pub(crate) filename: String,
    pub(crate) hash: String,
    pub(crate) size: u64,
}

/// What is known of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UploadOutcome {
    /// No answer that says it, and no repetition found out.
    Unknown,
    /// These images, in the order of the files.
    Acknowledged(Vec<Uuid>),
    /// A 4xx: without effect.
    Refused,
}

/// One request for images, with all its repetitions.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) invoked: Moment,
    pub(crate) files: Vec<FileClaim>,
    pub(crate) outcome: UploadOutcome,
}

/// Names an upload in the journal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UploadId(usize);

/// Kinds of operations, for the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deed {
    Upload,
    Reference,
    Delete,
    BulkDelete,
    WebhookDelete,
    Read,
    /// Something that must be refused.
    Misuse,
}

impl Deed {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Reference => "reference",
            Self::Delete => "delete",
            Self::BulkDelete => "bulk_delete",
            Self::WebhookDelete => "webhook_delete",
            Self::Read => "read",
            Self::Misuse => "misuse",
        }
    }
}

/// How an operation ended, for the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Acknowledged,
    Refused,
    /// For its client; the checks at the end find out.
    Unknown,
}

/// Everything that was recorded.
#[derive(Debug, Default, Clone)]
pub(crate) struct Record {
    pub(crate) uploads: Vec<Upload>,
    pub(crate) events: HashMap<Uuid, Vec<Event>>,
    /// Webhook ids that were answered 2xx.
    pub(crate) webhooks: HashSet<String>,
    pub(crate) ends: BTreeMap<(Deed, End), u64>,
    /// Requests without an answer that says what happened.
    pub(crate) unknown_attempts: u64,
    /// Requests that reached no server.
    pub(crate) unsent_attempts: u64,
    /// Refusals by their code.
    pub(crate) refusals: BTreeMap<String, u64>,
}

/// The journal of all clients.
#[derive(Debug)]
pub(crate) struct Journal {
    began: Instant,
    record: Mutex<Record>,
    file: Mutex<BufWriter<File>>,
}

impl Journal {
    /// Writes its lines into a new file.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self {
            began: Instant::now(),
            record: Mutex::default(),
            file: Mutex::new(BufWriter::new(File::create(path)?)),
        })
    }

    /// The time on the run's clock.
    pub(crate) fn now(&self) -> Moment {
        self.began.elapsed().as_micros() as Moment
    }

    /// An upload is about to be sent.
    pub(crate) fn begin_upload(&self, files: Vec<FileClaim>) -> UploadId {
        let invoked = self.now();
        let mut record = self.record();
        record.uploads.push(Upload {
            invoked,
            files,
            outcome: UploadOutcome::Unknown,
        });
        UploadId(record.uploads.len() - 1)
    }

    /// What became of an upload; its images begin to have a history.
    pub(crate) fn end_upload(&self, id: UploadId, outcome: UploadOutcome) {
        let now = self.now();
        let mut record = self.record();
        let upload = &mut record.uploads[id.0];
        upload.outcome = outcome.clone();
        let invoked = upload.invoked;
        if let UploadOutcome::Acknowledged(images) = outcome {
            for image in images {
                let event = Event {
                    what: What::Created,
                    invoked,
                    returned: Some(now),
                };
                record.events.entry(image).or_default().push(event);
            }
        }
    }

    /// An image that came into being by an upload whose client was never told.
    pub(crate) fn found_out(&self, image: Uuid, invoked: Moment) {
        let event = Event {
            what: What::Created,
            invoked,
            returned: None,
        };
        self.event(image, event);
    }

    /// An operation on an image, or a look at it.
    pub(crate) fn event(&self, image: Uuid, event: Event) {
        let mut record = self.record();
        record.events.entry(image).or_default().push(event);
    }

    /// A webhook was answered.
    pub(crate) fn webhook(&self, id: &str) {
        self.record().webhooks.insert(id.to_owned());
    }

    /// An operation is over for its client.
    pub(crate) fn end(&self, deed: Deed, end: End) {
        *self.record().ends.entry((deed, end)).or_default() += 1;
    }

    /// A request's outcome is unknown.
    pub(crate) fn unknown_attempt(&self) {
        self.record().unknown_attempts += 1;
    }

    /// A request reached no server.
    pub(crate) fn unsent_attempt(&self) {
        self.record().unsent_attempts += 1;
    }

    /// A request was refused.
    pub(crate) fn refusal(&self, code: &str) {
        *self.record().refusals.entry(code.to_owned()).or_default() += 1;
    }

    /// Acknowledged operations so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        let record = self.record();
        let ends = record.ends.iter();
        ends.filter(|((_, end), _)| *end == End::Acknowledged)
            .map(|(_, count)| count)
            .sum()
    }

    /// Writes one line: who, what, and all that is worth knowing of it.
    pub(crate) fn line(&self, who: &str, phase: &str, what: &Value) {
        let line = json!({ "at": self.now(), "who": who, "phase": phase, "what": what });
        let mut file = self.file.lock().expect("nothing panics while holding it");
        // A full disk shows elsewhere; the journal in memory is what is checked.
        let _ = writeln!(file, "{line}");
    }

    /// Everything so far.
    pub(crate) fn snapshot(&self) -> Record {
        let mut file = self.file.lock().expect("nothing panics while holding it");
        let _ = file.flush();
        self.record().clone()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("nothing panics while holding it")
    }
}
