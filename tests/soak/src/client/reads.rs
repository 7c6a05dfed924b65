//! Reads, on any server, of what is there and of what is gone.

use rand::RngExt;
use reqwest::Method;
use uuid::Uuid;

use super::{Client, Held, World};
use crate::api::{NodeId, Verdict};
use crate::content::hash;
use crate::findings::Kind;
use crate::history::{Event, What};
use crate::journal::{Deed, End};

/// What a look at an image told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    Saw(What),
    /// No answer that says anything.
    Nothing,
}

impl Client {
    pub(super) async fn read(&mut self) {
        let Some(held) = self.choose_to_read() else {
            return;
        };
        let node = self.world.api.nodes.any(&mut self.rng);
        let whole = self.rng.random_bool(0.6);
        let patience = self.patience();
        let sight = self
            .world
            .look(node, held.image, whole.then_some(&*held.hash), patience)
            .await;
        let end = match sight {
            Sight::Saw(_) => End::Acknowledged,
            Sight::Nothing => End::Unknown,
        };
        self.world.journal.end(Deed::Read, end);
    }

    fn choose_to_read(&mut self) -> Option<Held> {
        let from = self.rng.random_range(0..100);
        if from < 50 && !self.held.is_empty() {
            let index = self.rng.random_range(0..self.held.len());
            return Some(self.held[index].clone());
        }
        let (shared, graves) = (self.world.shared(), self.world.graves());
        match from {
            0..75 if !shared.is_empty() => {
                Some(shared[self.rng.random_range(0..shared.len())].clone())
            }
            _ if !graves.is_empty() => {
                // The newest: deleted a moment ago, perhaps by another server.
                let newest = graves.len().min(20);
                let index = graves.len() - 1 - self.rng.random_range(0..newest);
                Some(graves[index].clone())
            }
            _ => None,
        }
    }
}

impl World {
    /// Looks at an image on one server: its content, hashed again and compared with `expected`, or
    /// its record alone. What was seen is part of the image's history.
    pub(crate) async fn look(
        &self,
        node: NodeId,
        image: Uuid,
        expected: Option<&str>,
        patience: std::time::Duration,
    ) -> Sight {
        let path = match expected {
            Some(_) => format!("/v1/images/{image}/content"),
            None => format!("/v1/images/{image}"),
        };
        let invoked = self.journal.now();
        let answer = self
            .api
            .send(node, Method::GET, &path, patience, |request| request)
            .await;
        let what = match answer.verdict() {
            Verdict::Done(bytes) => {
                if let Some(expected) = expected
                    && hash(&bytes) != expected
                {
                    let text = format!(
                        "image {image} reads as {} bytes that are not {expected}",
                        bytes.len()
                    );
                    self.findings.add(Kind::Lost, text);
                }
                if expected.is_none() && is_deleted(&bytes) {
                    self.wrong(format!("image {image} is shown with a deleted_at"));
                }
                What::SeenLive
            }
            Verdict::Refused { status: 410, .. } => What::SeenDeleted,
            Verdict::Refused { status: 404, .. } => What::SeenAbsent,
            Verdict::Refused { status, code } => {
                self.wrong(format!("reading {image}: {status} {code}"));
                return Sight::Nothing;
            }
            Verdict::Wrong(text) if text.contains("content-damaged") => {
                let text = format!("image {image} on server {}: {text}", node.0);
                self.findings.add(Kind::Lost, text);
                return Sight::Nothing;
            }
            Verdict::Wrong(text) => {
                self.wrong(format!("reading {image}: {text}"));
                return Sight::Nothing;
            }
            Verdict::Unknown(_) | Verdict::Unsent => return Sight::Nothing,
        };
        let event = Event {
            what,
            invoked,
            returned: Some(self.journal.now()),
        };
        self.journal.event(image, event);
        Sight::Saw(what)
    }
}

fn is_deleted(body: &[u8]) -> bool {
    let image: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    !image["deleted_at"].is_null()
}
