//! What must be refused, and must have no effect, whatever happens meanwhile.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use rand::RngExt;
use reqwest::Method;

use super::Client;
use super::uploads::{Form, Plan};
use crate::api::Verdict;
use crate::findings::Kind;
use crate::journal::{Deed, End, UploadOutcome};

const PATIENCE: Duration = Duration::from_secs(8);
/// The SHA-256 of no bytes at all, as a digest header spells it.
const WRONG_DIGEST: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";

#[derive(Debug, Clone, Copy)]
enum Misuse {
    /// A key that was used before with other content.
    KeyReused,
    /// A body that ends too early.
    Truncated,
    /// A digest of other bytes.
    WrongDigest,
}

impl Client {
    pub(super) async fn misuse(&mut self) {
        let reused = self
            .repeatable
            .front()
            .and_then(|(plan, _)| plan.key.clone());
        let misuse = match (self.rng.random_range(0..3), &reused) {
            (0, Some(_)) => Misuse::KeyReused,
            (1, _) => Misuse::Truncated,
            _ => Misuse::WrongDigest,
        };
        let label = self.label();
        let mut content = self.world.contents.draw(&mut self.rng);
        // Bytes that nobody uploads otherwise.
        content.bytes = [label.as_bytes(), &content.bytes].concat().into();
        content.hash = crate::content::hash(&content.bytes);
        let plan = Plan {
            key: reused.filter(|_| matches!(misuse, Misuse::KeyReused)),
            files: vec![(format!("{label}-0.bin"), content)],
            label,
            form: Form::Raw,
        };
        // Whatever is answered, or not: it may have no effect.
        let id = self.world.journal.begin_upload(plan.claims());
        self.world.journal.end_upload(id, UploadOutcome::Refused);
        let verdict = self.send_misuse(misuse, &plan).await;
        let end = match &verdict {
            Verdict::Refused { .. } => End::Refused,
            _ => End::Unknown,
        };
        self.world.journal.end(Deed::Misuse, end);
        match verdict {
            Verdict::Done(_) => {
                let text = format!("{misuse:?} {} was answered 2xx", plan.label);
                self.world.findings.add(Kind::Miscounted, text);
            }
            Verdict::Refused { code, .. } => self.world.journal.refusal(&code),
            Verdict::Wrong(text) => self.world.wrong(format!("{misuse:?}: {text}")),
            Verdict::Unknown(_) | Verdict::Unsent => {}
        }
    }

    async fn send_misuse(&mut self, misuse: Misuse, plan: &Plan) -> Verdict {
        let node = self.world.api.nodes.any(&mut self.rng);
        let bytes = &plan.files[0].1.bytes;
        let half = bytes.slice(..bytes.len() / 2);
        let send = self
            .world
            .api
            .send(node, Method::POST, "/v1/images", PATIENCE, |request| {
                let request = plan.build(request);
                match misuse {
                    Misuse::KeyReused => request,
                    Misuse::WrongDigest => request.header("Content-Digest", WRONG_DIGEST),
                    Misuse::Truncated => request.body(cut_after(half)),
                }
            });
        send.await.verdict()
    }
}

/// A body that begins, and then fails: its connection is cut.
fn cut_after(bytes: Bytes) -> reqwest::Body {
    let cut = std::io::Error::other("cut");
    let begun = futures::stream::iter([Ok(bytes)]);
    let end = futures::stream::once(async move {
        // Long enough for the beginning to leave.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(cut)
    });
    reqwest::Body::wrap_stream(begun.chain(end))
}
