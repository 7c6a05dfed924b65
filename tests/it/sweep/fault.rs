//! The faults of the sweep, and how each is let into the n-th call.

use std::fmt;

use tokio::task::JoinHandle;

use crate::harness::{
    Action, Context, Event, Filter, Held, Hold, Operation, SeamControl, Times, Verdict,
};

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// An error, without the effect.
    Error,
    /// An error, with the effect: the answer was lost.
    Lost,
    /// It hangs and its client leaves. Then a call of the store times out, with its effect, and a
    /// call of the database comes late: nothing ever cuts one off (rule R16).
    Hang,
    /// The process is killed before the effect.
    Crash,
    /// The process is killed after the effect.
    CrashAfter,
    /// S3 only: the request hangs on the wire until the SDK times out, and takes effect long after.
    Late,
}

impl Fault {
    /// Whether a call can meet it.
    pub(super) fn applies_to(self, call: &Event) -> bool {
        self != Self::Late || call.kind == "store"
    }

    /// Whether the process ends with it.
    pub(super) fn kills(self) -> bool {
        matches!(self, Self::Crash | Self::CrashAfter)
    }

    /// Whether the server may still be at work when its client knows nothing yet.
    pub(super) fn outlives_its_client(self) -> bool {
        matches!(self, Self::Hang | Self::Late)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "an error before its effect",
            Self::Lost => "an error after its effect",
            Self::Hang => "hanging until its client left",
            Self::Crash => "SIGKILL before its effect",
            Self::CrashAfter => "SIGKILL after its effect",
            Self::Late => "a time-out, and its effect long after",
        })
    }
}

/// One fault in one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    pub(super) fault: Fault,
    /// Which call of the scenario, counted from 1.
    pub(super) call: usize,
}

/// What a client does that does not know what became of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// It asks again at once.
    AsksAgain,
    /// It comes back only when all traces have been reaped.
    ComesBackLater,
}

impl Planned {
    /// Both are swept: odd and even calls take turns, and so do the faults of one call.
    pub(super) fn patience(self) -> Patience {
        match (self.call + self.fault as usize) % 2 {
            0 => Patience::AsksAgain,
            _ => Patience::ComesBackLater,
        }
    }
}

/// A fault on its way to its call.
pub(super) enum Armed {
    /// Nothing is left to do.
    Nothing,
    /// The call waits, or will.
    Hanging(Held),
    /// The call goes on to a gate that holds it, or will.
    Late(JoinHandle<LateCall>),
}

/// A call that waits at the gate before the S3 server.
pub(super) struct LateCall {
    pub(super) call: Event,
    pub(super) holds: Vec<Hold>,
}

impl Armed {
    /// Lays the fault in wait for the `planned.call`-th event from now that `filter` takes.
    pub(super) fn new(
        planned: Planned,
        filter: Filter,
        seams: &SeamControl,
        context: &Context,
    ) -> Self {
        let nth = Times::Nth(planned.call);
        let verdict = match planned.fault {
            Fault::Error => Verdict::Fail,
            Fault::Lost => Verdict::FailAfter,
            Fault::Crash => Verdict::Crash,
            Fault::CrashAfter => Verdict::CrashAfter,
            Fault::Hang => return Self::Hanging(seams.hold(filter, nth)),
            Fault::Late => {
                let (held, arm) = (seams.hold(filter, nth), context.armourer());
                return Self::Late(tokio::spawn(async move {
                    let call = held.arrived(1).await.remove(0);
                    let operations: &[Operation] = match call.name.as_str() {
                        "put" => &[Operation::Put],
                        "get" => &[Operation::Get],
                        "stat" => &[Operation::Head],
                        "delete" => &[Operation::Delete, Operation::DeleteMany],
                        _ => &[Operation::List],
                    };
                    let holds = operations.iter();
                    let holds = holds.map(|operation| arm(*operation, Action::HoldBefore));
                    let holds = holds.collect();
                    held.release();
                    LateCall { call, holds }
                }));
            }
        };
        seams.decide(filter, nth, verdict);
        Self::Nothing
    }

    /// Returns when a call hangs; never, where none will.
    pub(super) async fn hangs(&self) {
        match self {
            Self::Hanging(held) => {
                held.arrived(1).await;
            }
            Self::Nothing | Self::Late(_) => std::future::pending().await,
        }
    }

    /// Ends the hanging: a call of the store in an error after its effect, one of the database in
    /// its effect, late.
    pub(super) fn let_go(&self) {
        if let Self::Hanging(held) = self {
            let waits = held.events();
            let is_store = waits.first().is_some_and(|call| call.kind == "store");
            held.release_with(if is_store {
                Verdict::FailAfter
            } else {
                Verdict::Go
            });
        }
    }
}
