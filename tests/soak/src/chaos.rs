//! What goes wrong, and when: drawn from a seed, second after second.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;

use crate::api::NodeId;
use crate::faults::Faults;
use crate::fleet::Fleet;
use crate::servers::LEASE;

const TICK: Duration = Duration::from_millis(40);

/// The first of each kind comes within its span from the start, the next within its span from there.
const KILLS: Span = Span(4.0, 9.0);
const PAUSES: Span = Span(20.0, 45.0);
const DATABASE: Span = Span(40.0, 75.0);
const S3: Span = Span(30.0, 60.0);
const STORMS: Span = Span(40.0, 80.0);

/// How long each lasts, in seconds.
const KILLED_FOR: Span = Span(0.0, 2.5);
const DATABASE_DOWN_FOR: Span = Span(0.0, 2.0);
const S3_DOWN_FOR: Span = Span(0.2, 4.0);
const STORM_FOR: Span = Span(1.0, 5.0);
/// Beyond the lease.
const PAUSED_FOR: Span = Span(0.5, 4.0);

/// Seconds, from and to.
#[derive(Debug, Clone, Copy)]
struct Span(f64, f64);

impl Span {
    fn draw(self, rng: &mut StdRng) -> Duration {
        Duration::from_secs_f64(rng.random_range(self.0..self.1))
    }
}

/// When each kind comes next.
struct Schedule {
    kill: Instant,
    pause: Instant,
    database: Instant,
    s3: Instant,
    storm: Instant,
    s3_is_back: Option<Instant>,
    storm_is_over: Option<Instant>,
}

/// Does all of it until `end`, and then lets everything come back.
pub(crate) async fn run(fleet: &mut Fleet, faults: &Faults, seed: u64, end: Instant) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let now = Instant::now();
    let mut next = Schedule {
        kill: now + KILLS.draw(&mut rng),
        pause: now + PAUSES.draw(&mut rng),
        database: now + DATABASE.draw(&mut rng),
        s3: now + S3.draw(&mut rng),
        storm: now + STORMS.draw(&mut rng),
        s3_is_back: None,
        storm_is_over: None,
    };
    let mut database: Option<JoinHandle<Result<()>>> = None;
    while Instant::now() < end {
        let now = Instant::now();
        servers(fleet, &mut next, &mut rng, now)?;
        store(fleet, faults, &mut next, &mut rng, now).await?;
        if next.database <= now && database.as_ref().is_none_or(JoinHandle::is_finished) {
            if let Some(restart) = database.take() {
                restart.await??;
            }
            next.database = now + DATABASE.draw(&mut rng);
            database = Some(restart_database(fleet, DATABASE_DOWN_FOR.draw(&mut rng)));
        }
        fleet.supervise()?;
        tokio::time::sleep(TICK).await;
    }
    faults.enable(false);
    if let Some(restart) = database.take() {
        restart.await??;
    }
    if next.s3_is_back.is_some() {
        fleet.start_s3().await?;
    }
    fleet.all_up().await
}

fn servers(fleet: &mut Fleet, next: &mut Schedule, rng: &mut StdRng, now: Instant) -> Result<()> {
    let count = fleet.servers.len();
    if next.kill <= now {
        next.kill = now + KILLS.draw(rng);
        let victim = NodeId(rng.random_range(0..count));
        let killed = fleet.kill(victim, KILLED_FOR.draw(rng))?;
        fleet.figures.kills += u64::from(killed);
    }
    if next.pause <= now {
        next.pause = now + PAUSES.draw(rng);
        let victim = NodeId(rng.random_range(0..count));
        let paused = fleet.pause(victim, LEASE + PAUSED_FOR.draw(rng))?;
        fleet.figures.pauses += u64::from(paused);
    }
    Ok(())
}

async fn store(
    fleet: &mut Fleet,
    faults: &Faults,
    next: &mut Schedule,
    rng: &mut StdRng,
    now: Instant,
) -> Result<()> {
    if next.s3_is_back.is_some_and(|back| back <= now) {
        next.s3_is_back = None;
        fleet.start_s3().await?;
        fleet.figures.s3_restarts += 1;
    } else if next.s3 <= now {
        fleet.kill_s3()?;
        let back = now + S3_DOWN_FOR.draw(rng);
        next.s3_is_back = Some(back);
        next.s3 = back + S3.draw(rng);
    }
    if next.storm_is_over.is_some_and(|over| over <= now) {
        next.storm_is_over = None;
        faults.storm(false);
    } else if next.storm <= now {
        faults.storm(true);
        let over = now + STORM_FOR.draw(rng);
        next.storm_is_over = Some(over);
        next.storm = over + STORMS.draw(rng);
    }
    Ok(())
}

/// Beside everything else: servers are killed while the database is down, too.
fn restart_database(fleet: &mut Fleet, down_for: Duration) -> JoinHandle<Result<()>> {
    fleet.figures.database_restarts += 1;
    let cluster = fleet.cluster.clone();
    tokio::task::spawn_blocking(move || {
        cluster.stop()?;
        std::thread::sleep(down_for);
        // Recovery may take longer than `pg_ctl` waits on a busy machine.
        cluster.start().or_else(|_| cluster.start())?;
        Ok(())
    })
}
