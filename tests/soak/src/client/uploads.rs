//! Uploads and references: raw, as forms of several files, by hash; with and without a key.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use rand::RngExt;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Client, Held, REPEATABLE};
use crate::api::{Answer, NodeId, Verdict};
use crate::content::Content;
use crate::findings::Kind;
use crate::journal::{Deed, End, FileClaim, UploadId, UploadOutcome};

/// Bodies above this are not kept for later repetitions.
const KEPT_BYTES: usize = 64 * 1024;
const PATH: &str = "/v1/images";

/// How content is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Raw,
    Multipart,
    /// Its hash alone.
    Reference,
}

/// A request for images, to be sent as often as needed.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) label: String,
    pub(super) form: Form,
    pub(super) key: Option<String>,
    pub(super) files: Vec<(String, Content)>,
}

impl Plan {
    pub(super) fn claims(&self) -> Vec<FileClaim> {
        let claim = |(filename, content): &(String, Content)| FileClaim {
            filename: filename.clone(),
            hash: content.hash.clone(),
            size: content.bytes.len() as u64,
        };
        self.files.iter().map(claim).collect()
    }

    fn bytes(&self) -> usize {
        self.files
            .iter()
            .map(|(_, content)| content.bytes.len())
            .sum()
    }

    /// Puts headers and body on a request.
    pub(super) fn build(&self, mut request: RequestBuilder) -> RequestBuilder {
        if let Some(key) = &self.key {
            request = request.header("Idempotency-Key", key);
        }
        let (filename, content) = &self.files[0];
        match self.form {
            Form::Raw => request
                .header("Content-Type", "application/octet-stream")
                .header(
                    "Content-Disposition",
                    format!("attachment; filename=\"{filename}\""),
                )
                .body(content.bytes.clone()),
            Form::Multipart => {
                let boundary = format!("soak-{}", self.label);
                request
                    .header(
                        "Content-Type",
                        format!("multipart/form-data; boundary={boundary}"),
                    )
                    .body(multipart(&boundary, &self.files))
            }
            Form::Reference => request
                .header("Content-Type", "application/json")
                .body(json!({ "content_hash": content.hash, "filename": filename }).to_string()),
        }
    }

    /// The images that a 2xx names, if it says what was sent.
    fn images_of(&self, body: &[u8]) -> Result<Vec<Uuid>, String> {
        let answer: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let images = match self.form {
            Form::Multipart => answer["images"].as_array().cloned().unwrap_or_default(),
            Form::Raw | Form::Reference => vec![answer],
        };
        if images.len() != self.files.len() {
            return Err(format!(
                "{} images for {} files",
                images.len(),
                self.files.len()
            ));
        }
        let of_file = |(image, (filename, content)): (&Value, &(String, Content))| {
            let says_so = image["content_hash"] == content.hash.as_str()
                && image["file_size"] == content.bytes.len()
                && image["filename"] == filename.as_str();
            let id = image["id"].as_str().and_then(|id| id.parse().ok());
            id.filter(|_| says_so)
                .ok_or_else(|| format!("{image} for {filename}"))
        };
        images.iter().zip(&self.files).map(of_file).collect()
    }
}

fn multipart(boundary: &str, files: &[(String, Content)]) -> Bytes {
    let mut body = BytesMut::new();
    for (filename, content) in files {
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; \
             filename=\"{filename}\"\r\n\r\n"
        );
        body.put_slice(head.as_bytes());
        body.put_slice(&content.bytes);
        body.put_slice(b"\r\n");
    }
    body.put_slice(format!("--{boundary}--\r\n").as_bytes());
    body.freeze()
}

impl Client {
    pub(super) async fn upload(&mut self) {
        let plan = self.plan();
        let deed = match plan.form {
            Form::Reference => Deed::Reference,
            Form::Raw | Form::Multipart => Deed::Upload,
        };
        let id = self.world.journal.begin_upload(plan.claims());
        let what = json!({
            "deed": deed.name(), "form": format!("{:?}", plan.form), "label": plan.label,
            "key": plan.key, "hashes": plan.claims().iter().map(|c| c.hash.clone()).collect::<Vec<_>>(),
        });
        self.world.journal.line(&self.name, "invoked", &what);
        let outcome = self.send_until_known(&plan).await;
        self.end_upload(deed, plan, id, outcome).await;
    }

    fn plan(&mut self) -> Plan {
        let (form, files) = match self.rng.random_range(0..100) {
            0..45 => (Form::Raw, 1),
            45..80 => (Form::Multipart, self.rng.random_range(1..=4)),
            _ => (Form::Reference, 1),
        };
        let label = self.label();
        let files = (0..files)
            .map(|file| {
                let content = self.world.contents.draw(&mut self.rng);
                (format!("{label}-{file}.bin"), content)
            })
            .collect();
        let key = self.rng.random_bool(0.6).then(|| format!("key-{label}"));
        Plan {
            label,
            form,
            key,
            files,
        }
    }

    async fn send_plan(&mut self, plan: &Plan, node: NodeId) -> Answer {
        let patience = self.patience();
        let api = &self.world.api;
        api.send(node, Method::POST, PATH, patience, |request| {
            plan.build(request)
        })
        .await
    }

    /// To one server, or at the same time to two.
    async fn send_once_or_twice(&mut self, plan: &Plan, node: NodeId) -> Vec<Answer> {
        if plan.key.is_none() || !self.rng.random_bool(0.06) {
            return vec![self.send_plan(plan, node).await];
        }
        let other = self.world.api.nodes.other(node, &mut self.rng);
        let (patience, longer) = (self.patience(), self.patience());
        let send = |node, patience| {
            let api = &self.world.api;
            api.send(node, Method::POST, PATH, patience, |request| {
                plan.build(request)
            })
        };
        let (first, second) = futures::join!(send(node, patience), send(other, longer));
        vec![first, second]
    }

    /// Sends it, and again on other servers while nobody says what happened and there is a key.
    async fn send_until_known(&mut self, plan: &Plan) -> UploadOutcome {
        let mut any_unknown = false;
        loop {
            let node = self.world.api.nodes.any(&mut self.rng);
            let answers = self.send_once_or_twice(plan, node).await;
            let mut known = None;
            for answer in answers {
                let verdict = answer.verdict();
                any_unknown |= self.note_unknown(&plan.label, &verdict);
                match verdict {
                    Verdict::Done(body) => {
                        let images = self.read_answer(plan, &body);
                        if known.as_ref().is_some_and(|before| *before != images) {
                            self.differs(plan, known.as_ref(), &images);
                        }
                        known = Some(images);
                    }
                    Verdict::Refused { status, code } => {
                        self.refused(&plan.label, plan.form, status, &code);
                        // An earlier attempt may still be on its way.
                        known = known.or(Some(match any_unknown {
                            true => UploadOutcome::Unknown,
                            false => UploadOutcome::Refused,
                        }));
                    }
                    Verdict::Wrong(text) => {
                        self.world.wrong(format!("upload {}: {text}", plan.label));
                        any_unknown = true;
                    }
                    Verdict::Unknown(_) | Verdict::Unsent => {}
                }
            }
            if let Some(known) = known {
                return known;
            }
            let may_repeat = plan.key.is_some() || !any_unknown;
            let gives_up = any_unknown && self.rng.random_bool(0.03);
            if !may_repeat || gives_up || self.world.is_giving_up() {
                return UploadOutcome::Unknown;
            }
            self.pause().await;
        }
    }

    /// Counts what is unknown; whether it is.
    pub(super) fn note_unknown(&self, label: &str, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Unknown(why) => {
                self.world.journal.unknown_attempt();
                let what = json!({ "label": label, "why": why });
                self.world.journal.line(&self.name, "unknown", &what);
                true
            }
            Verdict::Unsent => {
                self.world.journal.unsent_attempt();
                false
            }
            _ => false,
        }
    }

    fn read_answer(&self, plan: &Plan, body: &[u8]) -> UploadOutcome {
        match plan.images_of(body) {
            Ok(images) => UploadOutcome::Acknowledged(images),
            Err(why) => {
                let text = format!("upload {} was answered with {why}", plan.label);
                self.world.wrong(text);
                UploadOutcome::Unknown
            }
        }
    }

    fn differs(&self, plan: &Plan, one: Option<&UploadOutcome>, other: &UploadOutcome) {
        let text = format!(
            "upload {} with one key was answered with {one:?} and with {other:?}",
            plan.label
        );
        self.world.findings.add(Kind::Miscounted, text);
    }

    /// The contents of well-formed requests are never refused, except those that are gone.
    fn refused(&self, label: &str, form: Form, status: u16, code: &str) {
        self.world.journal.refusal(code);
        let expected = match form {
            Form::Reference => code == "unknown-content",
            // A server that was paused finds that the body came too slowly.
            Form::Raw | Form::Multipart => code == "body-too-slow",
        };
        if !expected {
            self.world
                .wrong(format!("upload {label} was refused: {status} {code}"));
        }
    }

    async fn end_upload(&mut self, deed: Deed, plan: Plan, id: UploadId, outcome: UploadOutcome) {
        let world = self.world.clone();
        world.journal.end_upload(id, outcome.clone());
        let (end, phase) = match &outcome {
            UploadOutcome::Unknown => (End::Unknown, "left unknown"),
            UploadOutcome::Refused => (End::Refused, "failed"),
            UploadOutcome::Acknowledged(_) => (End::Acknowledged, "ok"),
        };
        world.journal.end(deed, end);
        let mut what = json!({ "label": plan.label });
        let UploadOutcome::Acknowledged(images) = outcome else {
            return world.journal.line(&self.name, phase, &what);
        };
        what["images"] = json!(images);
        world.journal.line(&self.name, phase, &what);
        for (image, (_, content)) in images.iter().zip(&plan.files) {
            self.keep(Held {
                image: *image,
                hash: Arc::from(content.hash.as_str()),
            });
        }
        if plan.key.is_none() {
            return;
        }
        if self.rng.random_bool(0.08) {
            self.repeat(&plan, &images).await;
        }
        if plan.bytes() <= KEPT_BYTES {
            if self.repeatable.len() == REPEATABLE {
                self.repeatable.pop_front();
            }
            self.repeatable.push_back((plan, images));
        }
    }

    /// Repeats an upload of long ago: its images may be deleted by now, and stay so.
    pub(super) async fn repeat_late(&mut self) {
        if self.repeatable.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.repeatable.len());
        let (plan, images) = self.repeatable[index].clone();
        self.repeat(&plan, &images).await;
    }

    /// An acknowledged upload, sent again with its key, has the same answer and no effect.
    async fn repeat(&mut self, plan: &Plan, images: &[Uuid]) {
        let node = self.world.api.nodes.any(&mut self.rng);
        let verdict = self.send_plan(plan, node).await.verdict();
        self.note_unknown(&plan.label, &verdict);
        match verdict {
            Verdict::Done(body) => {
                let again = self.read_answer(plan, &body);
                let before = UploadOutcome::Acknowledged(images.to_vec());
                if again != before {
                    self.differs(plan, Some(&before), &again);
                }
                self.world.journal.end(Deed::Upload, End::Acknowledged);
            }
            Verdict::Refused { status, code } => self.refused_again(plan, status, &code),
            Verdict::Wrong(text) => {
                self.world
                    .wrong(format!("repeated upload {}: {text}", plan.label));
            }
            Verdict::Unknown(_) | Verdict::Unsent => {}
        }
    }

    fn refused_again(&self, plan: &Plan, status: u16, code: &str) {
        self.world.journal.refusal(code);
        if code != "body-too-slow" {
            self.world.wrong(format!(
                "acknowledged upload {} was refused when it was repeated: {status} {code}",
                plan.label
            ));
        }
    }
}
