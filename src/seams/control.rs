//! The conversation with a test: one connection per event, one line of JSON there, one word back.
//!
//! ```text
//! {"kind":"point","name":"IntentCommitted","detail":"…"}     go | crash
//! {"kind":"database","name":"statement","detail":"INSERT …"} go | fail | fail-after | crash | crash-after
//! {"kind":"store","name":"put","detail":"<key>"}             go | fail | fail-after | crash | crash-after
//! ```
//!
//! Until the word comes, the process waits there: so a test holds it. `fail` makes the call an
//! error without its effect, `fail-after` an error with it; `crash` ends the process as SIGKILL
//! would. Nobody listening means `go`.

use std::path::PathBuf;
use std::sync::LazyLock;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Point;

static SOCKET: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| std::env::var_os("HAPAX_SEAMS").map(PathBuf::from));

/// What is about to happen.
#[derive(Debug, Serialize)]
struct Event<'a> {
    kind: &'a str,
    name: String,
    detail: String,
    /// Tells the processes of one test apart.
    pid: u32,
}

/// What a test decided about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    Fail,
    FailAfter,
    CrashAfter,
}

/// Tells a test that the process is here, and waits for its leave. `detail` is asked for only where
/// somebody listens.
pub(crate) async fn reach<D: ToString>(point: Point, detail: impl FnOnce() -> D) {
    if SOCKET.is_some() {
        ask("point", format!("{point:?}"), detail().to_string()).await;
    }
}

/// Asks what is to become of a call.
pub(super) async fn ask_about(kind: &str, name: &str, detail: impl FnOnce() -> String) -> Verdict {
    match SOCKET.is_some() {
        true => ask(kind, name.to_owned(), detail()).await,
        false => Verdict::Go,
    }
}

async fn ask(kind: &str, name: String, detail: String) -> Verdict {
    let pid = std::process::id();
    let event = Event {
        kind,
        name,
        detail,
        pid,
    };
    match converse(&event).await.as_deref().map(str::trim) {
        Ok("fail") => Verdict::Fail,
        Ok("fail-after") => Verdict::FailAfter,
        Ok("crash-after") => Verdict::CrashAfter,
        Ok("crash") => crash(),
        _ => Verdict::Go,
    }
}

async fn converse(event: &Event<'_>) -> std::io::Result<String> {
    let Some(socket) = SOCKET.as_deref() else {
        return Ok(String::new());
    };
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut word = String::new();
    stream.read_to_string(&mut word).await?;
    Ok(word)
}

/// Ends the process at once: no destructor runs, no buffer is flushed.
pub(super) fn crash() -> ! {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
        .expect("a process may kill itself");
    unreachable!("the signal cannot be caught")
}

impl Verdict {
    /// Does the call as decided: without its effect, with it, or as asked. `lost` is the error of a
    /// call whose answer did not come.
    pub(super) async fn carry_out<T, E>(
        self,
        call: impl Future<Output = Result<T, E>>,
        lost: impl FnOnce() -> E,
    ) -> Result<T, E> {
        match self {
            Self::Go => call.await,
            Self::Fail => Err(lost()),
            Self::FailAfter => {
                let _ = call.await;
                Err(lost())
            }
            Self::CrashAfter => {
                let _ = call.await;
                crash()
            }
        }
    }
}
