//! The servers as their clients reach them: any of them at any time, and no answer taken for granted.

use std::net::SocketAddr;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

/// A node that let a client wait is left alone for so long, mostly.
const SUSPECT_FOR: Duration = Duration::from_secs(3);
/// How much of an answer a message shows.
const SHOWN_BYTES: usize = 400;

/// Where the servers are now.
#[derive(Debug)]
pub(crate) struct Nodes {
    began: Instant,
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    address: RwLock<Option<SocketAddr>>,
    suspect_until: AtomicU64,
}

/// One of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(pub(crate) usize);

impl Nodes {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            began: Instant::now(),
            nodes: (0..count).map(|_| Node::default()).collect(),
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// Where a server listens; `None` while it does not.
    pub(crate) fn address(&self, node: NodeId) -> Option<SocketAddr> {
        *self.nodes[node.0]
            .address
            .read()
            .expect("nothing panics while holding it")
    }

    pub(crate) fn set_address(&self, node: NodeId, address: Option<SocketAddr>) {
        *self.nodes[node.0]
            .address
            .write()
            .expect("nothing panics while holding it") = address;
    }

    /// Any server, preferably one that is not known to let clients wait.
    pub(crate) fn any(&self, rng: &mut StdRng) -> NodeId {
        let node = NodeId(rng.random_range(0..self.nodes.len()));
        let suspect = self.nodes[node.0].suspect_until.load(Ordering::Relaxed) > self.now();
        if suspect && rng.random_bool(0.8) || self.address(node).is_none() {
            return NodeId(rng.random_range(0..self.nodes.len()));
        }
        node
    }

    /// A server other than this one.
    pub(crate) fn other(&self, than: NodeId, rng: &mut StdRng) -> NodeId {
        let step = rng.random_range(1..self.nodes.len().max(2));
        NodeId((than.0 + step) % self.nodes.len())
    }

    fn suspect(&self, node: NodeId) {
        let until = self.now() + SUSPECT_FOR.as_millis() as u64;
        self.nodes[node.0]
            .suspect_until
            .store(until, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

/// What came back of a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A whole answer.
    Whole { status: u16, body: Bytes },
    /// Nothing reached a server.
    Unsent,
    /// No answer, or half of one: who knows.
    Nothing(String),
}

/// What a client may conclude.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// 2xx.
    Done(Bytes),
    /// 4xx, and its `code`.
    Refused { status: u16, code: String },
    /// 503, or no answer.
    Unknown(String),
    /// Nothing was asked of anybody, or nobody took it: to be asked again.
    Unsent,
    /// An answer that the contract does not have.
    Wrong(String),
}

impl Answer {
    pub(crate) fn verdict(self) -> Verdict {
        let (status, body) = match self {
            Self::Unsent => return Verdict::Unsent,
            Self::Nothing(why) => return Verdict::Unknown(why),
            Self::Whole { status, body } => (status, body),
        };
        let code = || {
            let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
            problem["code"].as_str().unwrap_or("none").to_owned()
        };
        match status {
            200..=299 => Verdict::Done(body),
            503 => Verdict::Unknown(code()),
            // A server that was paused for longer than a head may take answers so, below the
            // application, whatever connections it finds without one: nothing was begun for them.
            408 if body.is_empty() => Verdict::Unsent,
            400..=499 => Verdict::Refused {
                status,
                code: code(),
            },
            _ => Verdict::Wrong(format!("{status}: {}", shown(&body))),
        }
    }
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]).into_owned()
}

/// Sends requests to nodes.
#[derive(Debug)]
pub(crate) struct Api {
    http: reqwest::Client,
    pub(crate) nodes: std::sync::Arc<Nodes>,
}

impl Api {
    pub(crate) fn new(nodes: std::sync::Arc<Nodes>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // A repetition is the client's decision, and is written down.
            .retry(reqwest::retry::never())
            .connect_timeout(Duration::from_secs(1))
            .build()?;
        Ok(Self { http, nodes })
    }

    /// Sends a request to a node and waits no longer than `patience`.
    pub(crate) async fn send(
        &self,
        node: NodeId,
        method: Method,
        path: &str,
        patience: Duration,
        build: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Answer {
        let Some(address) = self.nodes.address(node) else {
            return Answer::Unsent;
        };
        let request = self
            .http
            .request(method, format!("http://{address}{path}"))
            .timeout(patience);
        let answer = match build(request).send().await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => return Answer::Unsent,
            Err(error) => {
                if error.is_timeout() {
                    self.nodes.suspect(node);
                }
                return Answer::Nothing(describe(&error));
            }
        };
        let status = answer.status().as_u16();
        match answer.bytes().await {
            Ok(body) => Answer::Whole { status, body },
            Err(error) => Answer::Nothing(format!("{status}, then {}", describe(&error))),
        }
    }
}

fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(part) = cause {
        text = format!("{text}: {part}");
        cause = part.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(status: u16, body: &'static str) -> Verdict {
        let body = Bytes::from_static(body.as_bytes());
        Answer::Whole { status, body }.verdict()
    }

    #[test]
    fn only_503_and_silence_are_unknown() {
        assert!(matches!(whole(201, "{}"), Verdict::Done(_)));
        assert!(
            matches!(whole(404, r#"{"code":"unknown-image"}"#), Verdict::Refused { status: 404, code } if code == "unknown-image")
        );
        assert!(matches!(
            whole(503, r#"{"code":"unavailable"}"#),
            Verdict::Unknown(_)
        ));
        assert!(matches!(
            Answer::Nothing("cut".to_owned()).verdict(),
            Verdict::Unknown(_)
        ));
        assert!(matches!(Answer::Unsent.verdict(), Verdict::Unsent));
        assert!(matches!(whole(408, ""), Verdict::Unsent));
        assert!(matches!(
            whole(408, r#"{"code":"body-too-slow"}"#),
            Verdict::Refused { status: 408, code } if code == "body-too-slow"
        ));
        for wrong in [500, 502, 301] {
            assert!(matches!(whole(wrong, "?"), Verdict::Wrong(_)), "{wrong}");
        }
    }
}
