//! Deletions: one, many at once, by signed webhook; repeated, and by several clients at once.

use rand::RngExt;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Client, HELD, Held};
use crate::api::{Answer, NodeId, Verdict};
use crate::findings::Kind;
use crate::history::{Event, Moment, What};
use crate::journal::{Deed, End};

/// The images of one bulk deletion, at most.
const BULK: usize = 12;

impl Client {
    pub(super) async fn delete(&mut self) {
        let several = match self.held.len() {
            // Too many are held: make room.
            HELD.. => BULK,
            _ => self.rng.random_range(1..=BULK / 2),
        };
        match self.rng.random_range(0..100) {
            0..55 => self.delete_one().await,
            55..75 => self.delete_many(several).await,
            _ => {
                let count = self.rng.random_range(1..=several);
                self.delete_by_webhook(count).await;
            }
        }
    }

    /// Images to delete, each once; some of them are other clients' targets too.
    fn choose(&mut self, count: usize) -> Vec<Held> {
        let mut chosen: Vec<Held> = Vec::new();
        for _ in 0..count {
            let from_shared = self.rng.random_bool(0.3);
            let picked = {
                let shared = self.world.shared();
                let pool = if from_shared { &*shared } else { &self.held };
                match pool.len() {
                    0 => None,
                    length => Some(pool[self.rng.random_range(0..length)].clone()),
                }
            };
            let Some(picked) = picked else { continue };
            if chosen.iter().all(|other| other.image != picked.image) {
                chosen.push(picked);
            }
        }
        chosen
    }

    fn deletion_event(&self, image: Uuid, what: What, invoked: Moment, known: bool) {
        let returned = known.then(|| self.world.journal.now());
        let event = Event {
            what,
            invoked,
            returned,
        };
        self.world.journal.event(image, event);
        let seen = json!({ "image": image, "saw": format!("{what:?}"), "known": known, "invoked": invoked });
        self.world.journal.line(&self.name, "deletion", &seen);
    }

    /// Whether to repeat a deletion whose outcome is unknown; some are left so.
    async fn tries_again(&mut self, any_unknown: bool) -> bool {
        if self.world.is_giving_up() || any_unknown && self.rng.random_bool(0.1) {
            return false;
        }
        self.pause().await;
        true
    }

    fn end_deletion(&self, deed: Deed, known: bool) {
        let end = match known {
            true => End::Acknowledged,
            false => End::Unknown,
        };
        self.world.journal.end(deed, end);
    }

    async fn delete_one(&mut self) {
        let Some(held) = self.choose(1).pop() else {
            return;
        };
        let mut any_unknown = false;
        let known = loop {
            let node = self.world.api.nodes.any(&mut self.rng);
            let patience = self.patience();
            let invoked = self.world.journal.now();
            let path = format!("/v1/images/{}", held.image);
            let api = &self.world.api;
            let answer = api.send(node, Method::DELETE, &path, patience, |request| request);
            let verdict = answer.await.verdict();
            if self.note_unknown(&held.image.to_string(), &verdict) {
                any_unknown = true;
                self.deletion_event(held.image, What::Deleted, invoked, false);
            }
            match verdict {
                Verdict::Done(body) => {
                    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
                    let what = match answer["already_deleted"].as_bool() {
                        Some(false) => What::Deleted,
                        Some(true) => What::SeenDeleted,
                        None => break self.unreadable("a deletion", &answer),
                    };
                    self.deletion_event(held.image, what, invoked, true);
                    break true;
                }
                Verdict::Refused { status: 404, .. } => {
                    self.deletion_event(held.image, What::SeenAbsent, invoked, true);
                    break true;
                }
                Verdict::Refused { status, code } => {
                    break self
                        .unreadable("a deletion", &json!({ "status": status, "code": code }));
                }
                Verdict::Wrong(text) => break self.unreadable("a deletion", &json!(text)),
                Verdict::Unknown(_) | Verdict::Unsent => {}
            }
            if !self.tries_again(any_unknown).await {
                break false;
            }
        };
        self.end_deletion(Deed::Delete, known);
        self.bury(held.image);
        self.remember_grave(held);
    }

    /// An answer that the contract does not have; its effect is unknown.
    fn unreadable(&self, of: &str, answer: &Value) -> bool {
        self.world.wrong(format!("{of} was answered with {answer}"));
        false
    }

    async fn delete_many(&mut self, count: usize) {
        let chosen = self.choose(count);
        if chosen.is_empty() {
            return;
        }
        let ids: Vec<Uuid> = chosen.iter().map(|held| held.image).collect();
        let body = json!({ "ids": ids }).to_string();
        let mut any_unknown = false;
        let known = loop {
            let node = self.world.api.nodes.any(&mut self.rng);
            let patience = self.patience();
            let invoked = self.world.journal.now();
            let api = &self.world.api;
            let answer = api.send(
                node,
                Method::POST,
                "/v1/images/delete",
                patience,
                |request| {
                    request
                        .header("Content-Type", "application/json")
                        .body(body.clone())
                },
            );
            let verdict = answer.await.verdict();
            if self.note_unknown("bulk", &verdict) {
                any_unknown = true;
                for image in &ids {
                    self.deletion_event(*image, What::Deleted, invoked, false);
                }
            }
            match verdict {
                Verdict::Done(body) => {
                    break self.take_results(&ids, invoked, &body);
                }
                Verdict::Refused { status, code } => {
                    let answer = json!({ "status": status, "code": code });
                    break self.unreadable("a bulk deletion", &answer);
                }
                Verdict::Wrong(text) => break self.unreadable("a bulk deletion", &json!(text)),
                Verdict::Unknown(_) | Verdict::Unsent => {}
            }
            if !self.tries_again(any_unknown).await {
                break false;
            }
        };
        self.end_deletion(Deed::BulkDelete, known);
        for held in chosen {
            self.bury(held.image);
            self.remember_grave(held);
        }
    }

    /// One event for each image of an answer; whether it could be read.
    fn take_results(&self, ids: &[Uuid], invoked: Moment, body: &[u8]) -> bool {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let results = answer["results"].as_array().cloned().unwrap_or_default();
        if results.len() != ids.len() {
            return self.unreadable("several deletions", &answer);
        }
        for (image, result) in ids.iter().zip(results) {
            let what = match result["outcome"].as_str() {
                Some("deleted") => What::Deleted,
                Some("already_deleted") => What::SeenDeleted,
                Some("unknown") => What::SeenAbsent,
                _ => return self.unreadable("several deletions", &answer),
            };
            if result["id"] != image.to_string().as_str() {
                return self.unreadable("several deletions", &answer);
            }
            self.deletion_event(*image, what, invoked, true);
        }
        true
    }

    async fn deliver(&mut self, node: NodeId, id: &str, body: &str) -> Answer {
        let at = chrono::Utc::now().timestamp();
        let signature = self.world.hook.sign(id, at, body.as_bytes());
        let signature = signature.expect("a signature needs nothing but the secret");
        let patience = self.patience();
        let send = self.world.api.send(
            node,
            Method::POST,
            "/v1/webhooks/deletions",
            patience,
            |request| {
                request
                    .header("Content-Type", "application/json")
                    .header("webhook-id", id)
                    .header("webhook-timestamp", at.to_string())
                    .header("webhook-signature", signature)
                    .body(body.to_owned())
            },
        );
        send.await
    }

    /// The same delivery, as often as it takes and sometimes once more: one effect, one answer.
    async fn delete_by_webhook(&mut self, count: usize) {
        let chosen = self.choose(count);
        if chosen.is_empty() {
            return;
        }
        let ids: Vec<Uuid> = chosen.iter().map(|held| held.image).collect();
        let id = format!("msg_{}", self.label());
        let data = match ids.as_slice() {
            [one] => json!({ "id": one }),
            several => json!({ "ids": several }),
        };
        let event =
            json!({ "type": "image.deleted", "timestamp": chrono::Utc::now(), "data": data });
        let invoked = self.world.journal.now();
        let known = self
            .deliver_until_known(&ids, &id, &event.to_string(), invoked)
            .await;
        if !known {
            for image in &ids {
                self.deletion_event(*image, What::Deleted, invoked, false);
            }
        }
        self.end_deletion(Deed::WebhookDelete, known);
        for held in chosen {
            self.bury(held.image);
            self.remember_grave(held);
        }
    }

    /// All deliveries of one id count as one operation, from the first to the first answer.
    async fn deliver_until_known(
        &mut self,
        ids: &[Uuid],
        id: &str,
        body: &str,
        invoked: Moment,
    ) -> bool {
        let mut first: Option<Value> = None;
        let mut any_unknown = false;
        loop {
            let node = self.world.api.nodes.any(&mut self.rng);
            let verdict = self.deliver(node, id, body).await.verdict();
            any_unknown |= self.note_unknown(id, &verdict);
            match verdict {
                Verdict::Done(answer) => {
                    let results: Value = serde_json::from_slice(&answer).unwrap_or_default();
                    match &first {
                        None => {
                            self.world.journal.webhook(id);
                            if !self.take_results(ids, invoked, &answer) {
                                return false;
                            }
                            first = Some(results);
                        }
                        Some(before) if *before != results => {
                            let text = format!("webhook {id}: first {before}, then {results}");
                            self.world.findings.add(Kind::Miscounted, text);
                        }
                        Some(_) => {}
                    }
                    if !self.rng.random_bool(0.3) {
                        return true;
                    }
                }
                Verdict::Refused { status, code } => {
                    let answer = json!({ "status": status, "code": code });
                    self.unreadable("a webhook", &answer);
                    return first.is_some();
                }
                Verdict::Wrong(text) => {
                    self.unreadable("a webhook", &json!(text));
                    return first.is_some();
                }
                Verdict::Unknown(_) | Verdict::Unsent if first.is_some() => return true,
                Verdict::Unknown(_) | Verdict::Unsent => {}
            }
            if first.is_none() && !self.tries_again(any_unknown).await {
                return false;
            }
        }
    }
}
