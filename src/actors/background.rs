//! `Background`: the loop that every reaper runs in.
//!
//! A round begins when the interval is over or somebody nudged. Nudges are gathered: a round waits
//! until none came for [`QUIET`], so that a thousand single deletes become one DELETE call to the
//! store, but never longer than the interval, or [`GATHER`] where that is longer. A round, once
//! begun, is never interrupted; waiting always is. A round that says there is more is followed by
//! the next at once, or after the pause that it asks for. Work whose rounds may be long is told when
//! the process stops.

use std::any::type_name;
use std::time::{Duration, Instant};

use actix::prelude::*;
use async_trait::async_trait;
use tokio::sync::oneshot;

use super::Drain;
use crate::seams::{Point, reach};

/// How long nobody must have nudged before a round begins.
const QUIET: Duration = Duration::from_millis(100);
/// How long nudges are gathered at most where the interval is shorter than this.
const GATHER: Duration = Duration::from_secs(2);
/// The first round after the start comes soon: it finishes what a crash left behind.
const FIRST_ROUND: Duration = Duration::from_millis(200);
/// After a round that failed, besides the interval.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What a round left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Nothing to do until the interval is over or somebody nudges.
    Done,
    /// A full batch was worked off: there may be more.
    More,
    /// There is more, but not before this much time has passed.
    MoreAfter(Duration),
    /// The database or the store did not work; it was logged.
    Failed,
}

/// One kind of background work. Idempotent: it runs on every node (rule R11).
#[async_trait]
pub trait Work: Send + Sync + 'static {
    /// One bounded piece of it.
    async fn round(&self) -> Round;

    /// The process stops and waits for the round that is running: one that can end early should.
    fn stop_soon(&self) {}
}

/// There may be something to do.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Nudge;

/// Runs one kind of work, round after round.
#[derive(Debug)]
pub struct Background<W: Work> {
    work: std::sync::Arc<W>,
    interval: Duration,
    first_round: Duration,
    running: bool,
    timer: Option<SpawnHandle>,
    /// First and last nudge since the last round began.
    nudged: Option<(Instant, Instant)>,
    draining: Vec<oneshot::Sender<()>>,
}

impl<W: Work> Background<W> {
    /// Work that is looked after every `interval`, and sooner when nudged.
    pub fn new(work: W, interval: Duration) -> Self {
        Self {
            work: std::sync::Arc::new(work),
            interval,
            first_round: FIRST_ROUND.min(interval),
            running: false,
            timer: None,
            nudged: None,
            draining: Vec::new(),
        }
    }

    /// For work that finishes nothing a crash left behind: the first round waits for an interval.
    pub fn unhurried(self) -> Self {
        Self {
            first_round: self.interval,
            ..self
        }
    }

    fn wait(&mut self, delay: Duration, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.timer = Some(ctx.run_later(delay, Self::due));
    }

    fn due(&mut self, ctx: &mut Context<Self>) {
        self.timer = None;
        if self.running || !self.draining.is_empty() {
            return;
        }
        if let Some((first, last)) = self.nudged
            && last.elapsed() < QUIET
            && first.elapsed() < self.interval.max(GATHER)
        {
            let quiet_in = QUIET.saturating_sub(last.elapsed());
            let latest_in = self.interval.max(GATHER).saturating_sub(first.elapsed());
            return self.wait(quiet_in.min(latest_in), ctx);
        }
        self.nudged = None;
        self.running = true;
        let work = self.work.clone();
        let round = async move {
            reach(Point::RoundBegins, type_name::<W>).await;
            work.round().await
        };
        ctx.spawn(round.into_actor(self).map(Self::ended));
    }

    fn ended(round: Round, actor: &mut Self, ctx: &mut Context<Self>) {
        actor.running = false;
        if !actor.draining.is_empty() {
            return actor.stop(ctx);
        }
        let delay = match round {
            Round::More => Duration::ZERO,
            Round::MoreAfter(pause) => pause,
            Round::Done if actor.nudged.is_some() => QUIET,
            Round::Done => actor.interval,
            Round::Failed => actor.interval.max(AFTER_FAILURE),
        };
        actor.wait(delay, ctx);
    }

    fn stop(&mut self, ctx: &mut Context<Self>) {
        for waiting in self.draining.drain(..) {
            // Whoever asked and left does not want to know.
            let _ = waiting.send(());
        }
        ctx.stop();
    }
}

impl<W: Work> Actor for Background<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.wait(self.first_round, ctx);
    }
}

impl<W: Work> Handler<Nudge> for Background<W> {
    type Result = ();

    fn handle(&mut self, _: Nudge, ctx: &mut Self::Context) {
        let now = Instant::now();
        let first = self.nudged.map_or(now, |(first, _)| first);
        let fresh = self.nudged.replace((first, now)).is_none();
        if fresh && !self.running && self.draining.is_empty() {
            self.wait(QUIET.min(self.interval), ctx);
        }
    }
}

impl<W: Work> Handler<Drain> for Background<W> {
    type Result = ResponseFuture<()>;

    /// Ends the round that is running, begins none, stops.
    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) -> Self::Result {
        let (sender, drained) = oneshot::channel();
        self.draining.push(sender);
        self.work.stop_soon();
        if !self.running {
            self.stop(ctx);
        }
        Box::pin(async {
            // An error means that the actor is gone, which is what was asked for.
            let _ = drained.await;
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// Rounds that ended, and rounds that began.
    struct Counting(Arc<AtomicUsize>, Arc<AtomicUsize>);

    #[async_trait]
    impl Work for Counting {
        async fn round(&self) -> Round {
            self.1.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.0.fetch_add(1, SeqCst);
            Round::Done
        }
    }

    #[actix::test]
    async fn many_nudges_are_one_round() {
        let rounds = Arc::new(AtomicUsize::new(0));
        let work = Counting(rounds.clone(), Arc::default());
        let reaper = Background::new(work, Duration::from_secs(60)).start();
        tokio::time::sleep(FIRST_ROUND + Duration::from_millis(150)).await;
        assert_eq!(rounds.load(SeqCst), 1);
        for _ in 0..50 {
            reaper.do_send(Nudge);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(QUIET * 3).await;
        assert_eq!(rounds.load(SeqCst), 2);
        reaper.send(Drain).await.unwrap();
    }

    struct Patient(Arc<AtomicUsize>, tokio_util::sync::CancellationToken);

    #[async_trait]
    impl Work for Patient {
        async fn round(&self) -> Round {
            if self.0.fetch_add(1, SeqCst) < 3 {
                return Round::MoreAfter(Duration::from_millis(20));
            }
            self.1.cancelled().await;
            Round::Done
        }

        fn stop_soon(&self) {
            self.1.cancel();
        }
    }

    #[actix::test]
    async fn rounds_follow_after_their_pause_and_a_long_one_ends_when_draining() {
        let rounds = Arc::new(AtomicUsize::new(0));
        let work = Patient(rounds.clone(), Default::default());
        let patient = Background::new(work, Duration::from_secs(60)).start();
        let began = Instant::now();
        while rounds.load(SeqCst) < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(began.elapsed() >= FIRST_ROUND + Duration::from_millis(60));
        patient.send(Drain).await.unwrap();
        assert_eq!(rounds.load(SeqCst), 4);
    }

    #[actix::test]
    async fn draining_waits_for_the_round_that_is_running() {
        let rounds = Arc::new(AtomicUsize::new(0));
        let begun = Arc::new(AtomicUsize::new(0));
        let work = Counting(rounds.clone(), begun.clone());
        let reaper = Background::new(work, Duration::from_millis(1)).start();
        while begun.load(SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        reaper.send(Drain).await.unwrap();
        let finished = rounds.load(SeqCst);
        assert!(finished >= 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(rounds.load(SeqCst), finished);
    }
}
