//! The other end of the servers' seams: what they are about to do is recorded, and goes on, fails,
//! waits or kills its process as a test decided. `src/seams/control.rs` tells the conversation.
//!
//! It answers on a thread of its own, so that a case may block its own (a start, a command).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long a held event may take to come.
const REACH_LIMIT: Duration = Duration::from_secs(60);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("seams")
        .enable_all()
        .build()
        .expect("a runtime can be made")
});

/// What a process is about to do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Event {
    /// `point`, `database` or `store`.
    pub(crate) kind: String,
    /// The point's name; `begin`, `statement`, `commit`, `rollback`; `put`, `get`, `stat`, …
    pub(crate) name: String,
    /// A statement's text, an object's key, a point's own detail.
    pub(crate) detail: String,
    /// The process.
    pub(crate) pid: u32,
}

impl Event {
    /// Whether it is a call of the database or of the store, and not a named point.
    pub(crate) fn is_call(&self) -> bool {
        self.kind != "point"
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)?;
        let detail: String = self.detail.chars().take(120).collect();
        match detail.is_empty() {
            true => Ok(()),
            false => write!(
                f,
                " [{}]",
                detail.split_whitespace().collect::<Vec<_>>().join(" ")
            ),
        }
    }
}

/// What becomes of an event. At a point there is only `Go` and `Crash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It happens.
    Go,
    /// It does not happen; the process sees a broken connection.
    Fail,
    /// It happens; the process sees a broken connection.
    FailAfter,
    /// It does not happen; the process ends as by SIGKILL.
    Crash,
    /// It happens; the process ends as by SIGKILL before it knows.
    CrashAfter,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Fail => "fail",
            Self::FailAfter => "fail-after",
            Self::Crash => "crash",
            Self::CrashAfter => "crash-after",
        }
    }
}

/// Which events a rule is for.
pub(crate) struct Filter(Box<dyn Fn(&Event) -> bool + Send>);

impl Filter {
    /// Those of which `holds` is true.
    pub(crate) fn new(holds: impl Fn(&Event) -> bool + Send + 'static) -> Self {
        Self(Box::new(holds))
    }

    /// A named point, like `IntentCommitted`.
    pub(crate) fn point(name: &'static str) -> Self {
        Self::new(move |event| event.kind == "point" && event.name == name)
    }

    /// A call of the store, like `put`.
    pub(crate) fn store(name: &'static str) -> Self {
        Self::new(move |event| event.kind == "store" && event.name == name)
    }

    /// A call of the database, like `commit`.
    pub(crate) fn database(name: &'static str) -> Self {
        Self::new(move |event| event.kind == "database" && event.name == name)
    }

    /// Every call of the database or of the store.
    pub(crate) fn calls() -> Self {
        Self::new(Event::is_call)
    }

    /// Of these, the events of one process.
    pub(crate) fn of(self, pid: u32) -> Self {
        Self::new(move |event| event.pid == pid && (self.0)(event))
    }

    /// Of these, the events whose detail contains `text`.
    pub(crate) fn with(self, text: impl Into<String>) -> Self {
        let text = text.into();
        Self::new(move |event| event.detail.contains(&text) && (self.0)(event))
    }
}

/// How many of the matching events a rule is for, and which.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Times {
    /// All that are still to come.
    All,
    /// The n-th from now, counted from 1.
    Nth(usize),
    /// The next n.
    Next(usize),
}

/// Listens for the servers of one case, until it is dropped.
pub(crate) struct SeamControl {
    shared: Arc<Shared>,
    socket: PathBuf,
    listening: AbortHandle,
}

impl SeamControl {
    /// Listens at `folder/seams`; servers started with `HAPAX_SEAMS` set to it ask here.
    pub(crate) fn bind(folder: &Path) -> Self {
        let socket = folder.join("seams");
        let shared = Arc::new(Shared::default());
        let _inside = RUNTIME.enter();
        let listener = UnixListener::bind(&socket).expect("the folder is the case's own");
        let listening = RUNTIME.spawn(listen(listener, Arc::clone(&shared)));
        Self {
            shared,
            socket,
            listening: listening.abort_handle(),
        }
    }

    /// For `HAPAX_SEAMS`.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Everything that was announced since the last `forget`, in order.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.shared.lock().events.clone()
    }

    /// Begins the record anew. Rules stay.
    pub(crate) fn forget(&self) {
        self.shared.lock().events.clear();
    }

    /// Takes every rule back. Who is held waits on, until its `Held` lets go.
    pub(crate) fn clear_rules(&self) {
        self.shared.lock().rules.clear();
    }

    /// From now on, `times` of the events that match are answered by `verdict`. Of several rules for
    /// one event the first decides, and the others do not count it.
    pub(crate) fn decide(&self, filter: Filter, times: Times, verdict: Verdict) {
        self.shared
            .lock()
            .rules
            .push(Rule::new(filter, times, Then::Answer(verdict)));
    }

    /// From now on, `times` of the events that match wait until they are released.
    pub(crate) fn hold(&self, filter: Filter, times: Times) -> Held {
        let answer = watch::Sender::new(None);
        let held = watch::Sender::new(Vec::new());
        let then = Then::Hold {
            answer: answer.subscribe(),
            held: held.clone(),
        };
        self.shared
            .lock()
            .rules
            .push(Rule::new(filter, times, then));
        Held { answer, held }
    }

    /// How often the rules for one single event (`Times::Nth`) met theirs.
    pub(crate) fn met(&self) -> usize {
        let shared = self.shared.lock();
        shared.rules.iter().filter(|rule| rule.met).count()
    }

    /// Returns once nothing was announced for `quiet`.
    pub(crate) async fn quiet(&self, quiet: Duration) {
        loop {
            let before = self.shared.lock().announced;
            tokio::time::sleep(quiet).await;
            if self.shared.lock().announced == before {
                return;
            }
        }
    }
}

impl Drop for SeamControl {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Events that wait. Dropping it lets them go, and those that are still to come.
#[derive(Debug)]
pub(crate) struct Held {
    answer: watch::Sender<Option<Verdict>>,
    held: watch::Sender<Vec<Event>>,
}

impl Held {
    /// Returns once `events` events wait, with them.
    pub(crate) async fn reached(&self, events: usize) -> Vec<Event> {
        let arrived = tokio::time::timeout(REACH_LIMIT, self.arrived(events)).await;
        arrived
            .unwrap_or_else(|_| panic!("{events} held events did not come within {REACH_LIMIT:?}"))
    }

    /// As [`Held::reached`], for one that may never come.
    pub(crate) async fn arrived(&self, events: usize) -> Vec<Event> {
        let mut seen = self.held.subscribe();
        let arrived = seen.wait_for(|held| held.len() >= events).await;
        arrived.expect("the sender is here").clone()
    }

    /// What waits, or waited, by now.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.held.borrow().clone()
    }

    /// Lets all of them go on, and those that are still to come.
    pub(crate) fn release(&self) {
        self.release_with(Verdict::Go);
    }

    /// Answers all of them, and those that are still to come.
    pub(crate) fn release_with(&self, verdict: Verdict) {
        self.answer.send_replace(Some(verdict));
    }
}

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    events: Vec<Event>,
    announced: usize,
    rules: Vec<Rule>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A filter that panicked spoils nothing that is kept here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the event, and takes what the first rule for it says.
    fn decide(&self, event: Event) -> Option<Then> {
        let mut state = self.lock();
        let rules = state.rules.iter_mut();
        let then = rules.filter_map(|rule| rule.take(&event)).next();
        state.announced += 1;
        state.events.push(event);
        then
    }
}

struct Rule {
    filter: Filter,
    times: Times,
    then: Then,
    met: bool,
}

#[derive(Debug, Clone)]
enum Then {
    Answer(Verdict),
    Hold {
        answer: watch::Receiver<Option<Verdict>>,
        held: watch::Sender<Vec<Event>>,
    },
}

impl Rule {
    fn new(filter: Filter, times: Times, then: Then) -> Self {
        Self {
            filter,
            times,
            then,
            met: false,
        }
    }

    /// Counts a matching event; what becomes of it, if the rule is for this one.
    fn take(&mut self, event: &Event) -> Option<Then> {
        if !(self.filter.0)(event) {
            return None;
        }
        match &mut self.times {
            Times::All => {}
            Times::Nth(0) | Times::Next(0) => return None,
            Times::Next(left) => *left -= 1,
            Times::Nth(left) => {
                *left -= 1;
                if *left > 0 {
                    return None;
                }
            }
        }
        self.met = true;
        Some(self.then.clone())
    }
}

async fn listen(listener: UnixListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        // An error is a process that is gone: it waits for no answer.
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { answer(stream, &shared).await.ok() });
    }
}

async fn answer(stream: UnixStream, shared: &Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let event: Event = serde_json::from_str(&line)?;
    let verdict = match shared.decide(event.clone()) {
        None => Verdict::Go,
        Some(Then::Answer(verdict)) => verdict,
        Some(Then::Hold { mut answer, held }) => {
            held.send_modify(|held| held.push(event));
            // An error is a test that no longer holds it.
            let released = answer.wait_for(Option::is_some).await;
            released
                .ok()
                .and_then(|verdict| *verdict)
                .unwrap_or(Verdict::Go)
        }
    };
    stream.write_all(verdict.word().as_bytes()).await?;
    stream.shutdown().await
}
