//! The clients: what they send, and what they make of the answers.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use entity::images;
use futures::StreamExt;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::checker::check;
use super::history::{Answer, Call, Event, Recorder, Slot};
use crate::harness::{Api, Dice, Reply, seeded_bytes, sha256_hex, text_of};

/// Few, so that originals come, go and come again.
const CONTENTS: u8 = 3;
/// Images that are worked on at the same time.
const WINDOW: usize = 4;
/// Calls to one image before the window moves on: enough to meet, few enough to be ordered.
const CALLS_PER_IMAGE: usize = 36;
/// No answer within this: it is unknown.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an image's calls share.
#[derive(Debug, Default)]
struct Shared {
    calls: usize,
    id: Option<String>,
}

/// All clients, and what they know together.
#[derive(Debug)]
pub(super) struct Clients {
    nodes: Mutex<Vec<Api>>,
    contents: Vec<(Bytes, String)>,
    recorder: Recorder,
    images: Mutex<BTreeMap<Slot, Shared>>,
    window: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

impl Clients {
    pub(super) fn new(nodes: Vec<Api>) -> Self {
        let contents = (0..CONTENTS).map(|n| {
            let bytes = seeded_bytes(n.into(), 20_000);
            let hash = sha256_hex(&bytes);
            (Bytes::from(bytes), hash)
        });
        Self {
            nodes: Mutex::new(nodes),
            contents: contents.collect(),
            recorder: Recorder::new(),
            images: Mutex::default(),
            window: AtomicUsize::new(0),
            wrong: Mutex::default(),
        }
    }

    pub(super) fn nodes(&self) -> usize {
        self.nodes.lock().expect("not poisoned").len()
    }

    /// Another server in a killed one's place.
    pub(super) fn replace(&self, node: usize, api: Api) {
        self.nodes.lock().expect("not poisoned")[node] = api;
    }

    fn node(&self, dice: &mut Dice) -> Api {
        let nodes = self.nodes.lock().expect("not poisoned");
        nodes[dice.below(nodes.len())].clone()
    }

    /// One client: call after call until the end.
    pub(super) async fn work(&self, mut dice: Dice, end: Instant) {
        while Instant::now() < end {
            let api = self.node(&mut dice);
            let slot = self.draw_image(&mut dice);
            let content = match dice.below(8) {
                0 => dice.below(CONTENTS.into()) as u8,
                _ => (slot % Slot::from(CONTENTS)) as u8,
            };
            let answered = match dice.below(20) {
                0..6 => self.put(&api, slot, Call::Upload(content)).await,
                6..8 => self.put(&api, slot, Call::Refer(content)).await,
                8..14 => self.read(&api, slot).await,
                14..17 => self.delete(&api, slot).await,
                17 => self.delete_two(&api, slot, slot + 1).await,
                _ => self.count(&api, content).await,
            };
            if !answered {
                // A killed server comes back soon; until then its clients need not spin.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn draw_image(&self, dice: &mut Dice) -> Slot {
        let first = self.window.load(Ordering::Relaxed);
        let slot = (first + dice.below(WINDOW)) as Slot;
        let mut images = self.images.lock().expect("not poisoned");
        let image = images.entry(slot).or_default();
        image.calls += 1;
        if image.calls == CALLS_PER_IMAGE {
            self.window.fetch_add(1, Ordering::Relaxed);
        }
        slot
    }

    fn id(&self, slot: Slot) -> Option<String> {
        let images = self.images.lock().expect("not poisoned");
        images.get(&slot).and_then(|image| image.id.clone())
    }

    /// One key is one image, whoever asks.
    fn learn_id(&self, slot: Slot, id: String) {
        let mut images = self.images.lock().expect("not poisoned");
        let known = &mut images.entry(slot).or_default().id;
        match known {
            Some(known) if *known != id => self.accuse(format!("image {slot} is {known} and {id}")),
            _ => *known = Some(id),
        }
    }

    fn accuse(&self, wrong: String) {
        self.wrong.lock().expect("not poisoned").push(wrong);
    }

    /// The answer; nothing where the call may have taken effect, an error where it cannot have.
    async fn send(&self, api: &Api, request: RequestBuilder) -> Result<Option<Reply>, ()> {
        match api.try_send(request.timeout(PATIENCE)).await {
            Ok(reply) if reply.status == 503 => Ok(None),
            Ok(reply) => Ok(Some(reply)),
            Err(error) if error.is_connect() => Err(()),
            Err(_) => Ok(None),
        }
    }

    fn unexpected(&self, slot: Slot, call: Call, reply: &Reply) {
        let (status, text) = (reply.status, reply.text());
        self.accuse(format!("image {slot}, {call:?}: {status} {text}"));
    }

    /// Uploads, or refers, under the image's key. Whether the server could be reached.
    async fn put(&self, api: &Api, slot: Slot, call: Call) -> bool {
        let request = api.request(Method::POST, "/v1/images");
        let request = request.header("idempotency-key", format!("image-{slot}"));
        let request = match call {
            Call::Refer(content) => {
                let hash = &self.contents[usize::from(content)].1;
                request.json(&json!({ "content_hash": hash, "filename": slot.to_string() }))
            }
            Call::Upload(content) => {
                let named = format!("attachment; filename=\"{slot}\"");
                request
                    .header("content-type", "application/octet-stream")
                    .header("content-disposition", named)
                    .body(self.contents[usize::from(content)].0.clone())
            }
            Call::Read | Call::Delete => unreachable!("callers put"),
        };
        let invoked = self.recorder.now();
        let Ok(reply) = self.send(api, request).await else {
            return false;
        };
        let answer = match reply.as_ref().map(|reply| reply.status) {
            None => None,
            Some(201) => Some(Answer::Is),
            Some(422) => Some(Answer::KeyReused),
            Some(404) => Some(Answer::UnknownContent),
            Some(_) => {
                self.unexpected(slot, call, reply.as_ref().expect("it has a status"));
                None
            }
        };
        self.recorder.record(slot, call, invoked, answer);
        if let (Some(Answer::Is), Some(reply)) = (answer, reply) {
            self.learn_id(slot, reply.image_id());
        }
        true
    }

    async fn read(&self, api: &Api, slot: Slot) -> bool {
        let Some(id) = self.id(slot) else {
            return true;
        };
        let request = api.request(Method::GET, &format!("/v1/images/{id}/content"));
        let invoked = self.recorder.now();
        let reply = match self.send(api, request).await {
            Ok(Some(reply)) => reply,
            Ok(None) => return true,
            Err(()) => return false,
        };
        let answer = match reply.status {
            200 => {
                let mut contents = self.contents.iter();
                let content = contents.position(|(bytes, _)| *bytes == reply.body);
                content.map_or(Answer::WrongBytes, |content| Answer::Bytes(content as u8))
            }
            410 => Answer::Gone,
            404 => Answer::Unknown,
            _ => {
                self.unexpected(slot, Call::Read, &reply);
                return true;
            }
        };
        self.recorder
            .record(slot, Call::Read, invoked, Some(answer));
        true
    }

    async fn delete(&self, api: &Api, slot: Slot) -> bool {
        let Some(id) = self.id(slot) else {
            return true;
        };
        let request = api.request(Method::DELETE, &format!("/v1/images/{id}"));
        let invoked = self.recorder.now();
        let Ok(reply) = self.send(api, request).await else {
            return false;
        };
        let answer = reply.and_then(|reply| match reply.status {
            200 if reply.json()["already_deleted"] == true => Some(Answer::AlreadyDeleted),
            200 => Some(Answer::Deleted),
            404 => Some(Answer::Unknown),
            _ => {
                self.unexpected(slot, Call::Delete, &reply);
                None
            }
        });
        self.recorder.record(slot, Call::Delete, invoked, answer);
        true
    }

    /// Both in one request: two histories with one call.
    async fn delete_two(&self, api: &Api, one: Slot, other: Slot) -> bool {
        let named = [one, other].map(|slot| self.id(slot).map(|id| (slot, id)));
        let named: Vec<(Slot, String)> = named.into_iter().flatten().collect();
        if named.is_empty() {
            return true;
        }
        let ids: Vec<&String> = named.iter().map(|(_, id)| id).collect();
        let request = api.request(Method::POST, "/v1/images/delete");
        let invoked = self.recorder.now();
        let Ok(reply) = self.send(api, request.json(&json!({ "ids": ids }))).await else {
            return false;
        };
        for (place, (slot, _)) in named.iter().enumerate() {
            let answer = reply.as_ref().and_then(|reply| {
                if reply.status != 200 {
                    self.unexpected(*slot, Call::Delete, reply);
                    return None;
                }
                Some(
                    match &*text_of(&reply.json()["results"][place]["outcome"]) {
                        "deleted" => Answer::Deleted,
                        "already_deleted" => Answer::AlreadyDeleted,
                        _ => Answer::Unknown,
                    },
                )
            });
            self.recorder.record(*slot, Call::Delete, invoked, answer);
        }
        true
    }

    async fn count(&self, api: &Api, content: u8) -> bool {
        let hash = &self.contents[usize::from(content)].1;
        let request = api.request(Method::GET, &format!("/v1/originals/{hash}"));
        let invoked = self.recorder.now();
        let reply = match self.send(api, request).await {
            Ok(Some(reply)) => reply,
            Ok(None) => return true,
            Err(()) => return false,
        };
        let references = match reply.status {
            200 => reply.json()["reference_count"].as_u64(),
            404 => Some(0),
            _ => None,
        };
        match references {
            Some(references) => {
                let references = usize::try_from(references).unwrap_or(usize::MAX);
                self.recorder.record_count(content, references, invoked);
            }
            None => self.accuse(format!("{hash}: {} {}", reply.status, reply.text())),
        }
        true
    }

    /// After the last kill: every image is read once more, and every upload without an answer is
    /// asked for again under its key.
    pub(super) async fn look_at_everything(&self) {
        let slots: Vec<Slot> = {
            let images = self.images.lock().expect("not poisoned");
            images.keys().copied().collect()
        };
        let looks = futures::stream::iter(slots).map(|slot| async move {
            let api = self.node(&mut Dice::new(slot.into()));
            if self.id(slot).is_none() {
                let content = (slot % Slot::from(CONTENTS)) as u8;
                self.put(&api, slot, Call::Upload(content)).await;
            }
            assert!(self.read(&api, slot).await, "every server runs");
        });
        looks.buffer_unordered(8).collect::<()>().await;
        for content in 0..CONTENTS {
            self.count(&self.node(&mut Dice::new(content.into())), content)
                .await;
        }
    }

    /// Whether all of it can be explained; figures, if so.
    pub(super) fn verdict(&self, rows: &[images::Model]) -> Result<String, String> {
        let (events, counts) = self.recorder.take();
        let wrong = std::mem::take(&mut *self.wrong.lock().expect("not poisoned"));
        if !wrong.is_empty() {
            return Err(format!("{wrong:#?}"));
        }
        let mut named = BTreeMap::new();
        for row in rows {
            if let Some(other) = named.insert(&row.filename, row.id) {
                return Err(format!("{:?} is {other} and {}", row.filename, row.id));
            }
        }
        check(&events, &counts)?;
        let unknown = |event: &&Event| event.answer.is_none();
        Ok(format!(
            "{} images, {} calls, {} of them without an answer, {} counts",
            self.images.lock().expect("not poisoned").len(),
            events.len() + counts.len(),
            events.iter().filter(unknown).count(),
            counts.len(),
        ))
    }
}
