//! The clients: each does one thing after another, on any server, repeats what it got no answer to,
//! and writes down what it was told.

mod deletions;
mod misuse;
mod reads;
mod uploads;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use standardwebhooks::Webhook;
use uuid::Uuid;

use crate::api::Api;
use crate::content::Contents;
use crate::findings::{Findings, Kind};
use crate::journal::Journal;
pub(crate) use reads::Sight;
use uploads::Plan;

/// Images that a client keeps, and that all share.
const HELD: usize = 40;
const SHARED: usize = 300;
/// Deleted images that all remember, to look at them again.
const GRAVES: usize = 300;
/// Acknowledged uploads with a key that a client may repeat much later.
const REPEATABLE: usize = 6;
/// Between two attempts at the same.
const PAUSE_MILLIS: std::ops::Range<u64> = 20..400;

/// What all clients share.
pub(crate) struct World {
    pub(crate) api: Api,
    pub(crate) journal: Journal,
    pub(crate) findings: Arc<Findings>,
    contents: Contents,
    hook: Webhook,
    shared: Mutex<Vec<Held>>,
    graves: Mutex<VecDeque<Held>>,
    stopping: AtomicBool,
    giving_up: AtomicBool,
}

/// An image that somebody may read or delete.
#[derive(Debug, Clone)]
struct Held {
    image: Uuid,
    hash: Arc<str>,
}

impl World {
    pub(crate) fn new(api: Api, journal: Journal, findings: Arc<Findings>, seed: u64) -> Self {
        Self {
            api,
            journal,
            findings,
            contents: Contents::new(seed),
            hook: Webhook::new(crate::servers::WEBHOOK_SECRET).expect("the secret is well formed"),
            shared: Mutex::default(),
            graves: Mutex::default(),
            stopping: AtomicBool::new(false),
            giving_up: AtomicBool::new(false),
        }
    }

    /// Clients begin nothing new, and end what they began.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Clients leave what they cannot find out.
    pub(crate) fn give_up(&self) {
        self.giving_up.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn is_giving_up(&self) -> bool {
        self.giving_up.load(Ordering::Relaxed)
    }

    fn shared(&self) -> MutexGuard<'_, Vec<Held>> {
        self.shared.lock().expect("nothing panics while holding it")
    }

    fn graves(&self) -> MutexGuard<'_, VecDeque<Held>> {
        self.graves.lock().expect("nothing panics while holding it")
    }

    fn wrong(&self, text: impl Into<String>) {
        self.findings.add(Kind::Wrong, text);
    }
}

/// One client.
pub(crate) struct Client {
    world: Arc<World>,
    name: String,
    rng: StdRng,
    operations: u64,
    held: Vec<Held>,
    repeatable: VecDeque<(Plan, Vec<Uuid>)>,
}

impl Client {
    pub(crate) fn new(world: Arc<World>, number: usize, seed: u64) -> Self {
        Self {
            world,
            name: format!("c{number}"),
            rng: StdRng::seed_from_u64(
                seed ^ (number as u64 + 1).wrapping_mul(0xA24B_AED4_963E_E407),
            ),
            operations: 0,
            held: Vec::new(),
            repeatable: VecDeque::new(),
        }
    }

    /// Works until the world stops, no faster than one operation in `interval`.
    pub(crate) async fn run(mut self, interval: Duration) {
        let mut next = Instant::now() + interval.mul_f64(self.rng.random_range(0.0..1.0));
        while !self.world.is_stopping() {
            tokio::time::sleep_until(next.into()).await;
            self.act().await;
            // Time lost while nothing worked is not made up for by a rush.
            next = Instant::now().max(next + interval.mul_f64(self.rng.random_range(0.5..1.5)));
        }
    }

    async fn act(&mut self) {
        self.operations += 1;
        match self.rng.random_range(0..100) {
            0..46 => self.upload().await,
            46..76 => self.delete().await,
            76..97 => self.read().await,
            97..99 => self.repeat_late().await,
            _ => self.misuse().await,
        }
    }

    /// A name for the operation that begins, unique in the run.
    fn label(&self) -> String {
        format!("{}-{}", self.name, self.operations)
    }

    /// How long this client waits for an answer. Some hang up at once: their requests go on alone.
    fn patience(&mut self) -> Duration {
        Duration::from_millis(match self.rng.random_range(0..100) {
            0..4 => self.rng.random_range(1..40),
            4..60 => 2_000,
            60..85 => 4_000,
            _ => 8_000,
        })
    }

    async fn pause(&mut self) {
        let pause = self.rng.random_range(PAUSE_MILLIS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    fn keep(&mut self, held: Held) {
        if self.rng.random_bool(0.3) {
            let mut shared = self.world.shared();
            if shared.len() < SHARED {
                shared.push(held);
                return;
            }
        }
        self.held.push(held);
    }

    /// It is deleted, or may be: nobody relies on it any more.
    fn bury(&mut self, image: Uuid) {
        self.held.retain(|held| held.image != image);
        self.world.shared().retain(|held| held.image != image);
    }

    fn remember_grave(&self, held: Held) {
        let mut graves = self.world.graves();
        if graves.len() == GRAVES {
            graves.pop_front();
        }
        graves.push_back(held);
    }
}
