//! What clients saw, and what an image is: the sequential specification that a history is held
//! against.

use std::fmt;
use std::sync::Mutex;
use std::time::Instant;

/// Nanoseconds since the recording began.
pub(super) type Moment = u64;

/// An image that a client named by an `Idempotency-Key`, before and after it exists.
pub(super) type Slot = u32;

/// What was asked of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Upload this content under the slot's key.
    Upload(u8),
    /// Refer to this content under the slot's key.
    Refer(u8),
    /// Read the bytes.
    Read,
    Delete,
}

/// What was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// 201: the image is there, or was before.
    Is,
    /// 422: the key stands for other content.
    KeyReused,
    /// 404 to a reference: no such content is live.
    UnknownContent,
    /// 200 with the bytes of this content.
    Bytes(u8),
    /// 200 with bytes of no content.
    WrongBytes,
    /// 410.
    Gone,
    /// 404 to a read or a deletion.
    Unknown,
    /// This call deleted it.
    Deleted,
    AlreadyDeleted,
}

/// One call, from before it was sent until after its answer came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) slot: Slot,
    pub(super) call: Call,
    /// `None`: it may have taken effect at any time since, or never.
    pub(super) answer: Option<Answer>,
    pub(super) invoked: Moment,
    /// The end of time, where there is no answer.
    pub(super) returned: Moment,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |moment: Moment| moment / 1000;
        match self.answer {
            Some(answer) => {
                let (from, to) = (micros(self.invoked), micros(self.returned));
                write!(f, "[{from}..{to} µs] {:?} → {answer:?}", self.call)
            }
            None => write!(f, "[{}.. µs] {:?} → ?", micros(self.invoked), self.call),
        }
    }
}

/// An image's whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Image {
    Absent,
    Live(u8),
    Deleted(u8),
}

impl Image {
    /// What it becomes by a call that is answered like this; `None` if it cannot be.
    pub(super) fn after(self, call: Call, answer: Answer) -> Option<Self> {
        let (becomes, says) = self.respond(call);
        let no_content = (call, answer, self);
        if let (Call::Refer(_), Answer::UnknownContent, Self::Absent) = no_content {
            // Whether the content was known is not the image's business: `counts` looks at that.
            return Some(Self::Absent);
        }
        (says == answer).then_some(becomes)
    }

    /// What it becomes by a call that nobody saw the answer of, if that takes effect.
    pub(super) fn after_unseen(self, call: Call) -> Self {
        self.respond(call).0
    }

    fn respond(self, call: Call) -> (Self, Answer) {
        match (call, self) {
            (Call::Upload(content) | Call::Refer(content), Self::Absent) => {
                (Self::Live(content), Answer::Is)
            }
            (
                Call::Upload(content) | Call::Refer(content),
                Self::Live(known) | Self::Deleted(known),
            ) => match content == known {
                true => (self, Answer::Is),
                false => (self, Answer::KeyReused),
            },
            (Call::Read, Self::Live(content)) => (self, Answer::Bytes(content)),
            (Call::Read, Self::Deleted(_)) => (self, Answer::Gone),
            (Call::Read | Call::Delete, Self::Absent) => (self, Answer::Unknown),
            (Call::Delete, Self::Live(content)) => (Self::Deleted(content), Answer::Deleted),
            (Call::Delete, Self::Deleted(_)) => (self, Answer::AlreadyDeleted),
        }
    }
}

/// How many references a content was said to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    pub(super) content: u8,
    pub(super) references: usize,
    pub(super) invoked: Moment,
    pub(super) returned: Moment,
}

/// Writes down what clients do; shared by all of them, with one clock.
#[derive(Debug)]
pub(super) struct Recorder {
    began: Instant,
    events: Mutex<Vec<Event>>,
    counts: Mutex<Vec<Count>>,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            events: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.began.elapsed().as_nanos() as Moment
    }

    /// A call that returned just now, or will never be known to have.
    pub(super) fn record(&self, slot: Slot, call: Call, invoked: Moment, answer: Option<Answer>) {
        let returned = answer.map_or(Moment::MAX, |_| self.now());
        self.events.lock().expect("not poisoned").push(Event {
            slot,
            call,
            answer,
            invoked,
            returned,
        });
    }

    pub(super) fn record_count(&self, content: u8, references: usize, invoked: Moment) {
        let returned = self.now();
        self.counts.lock().expect("not poisoned").push(Count {
            content,
            references,
            invoked,
            returned,
        });
    }

    /// Everything, in the order of the answers.
    pub(super) fn take(&self) -> (Vec<Event>, Vec<Count>) {
        let events = std::mem::take(&mut *self.events.lock().expect("not poisoned"));
        let counts = std::mem::take(&mut *self.counts.lock().expect("not poisoned"));
        (events, counts)
    }
}
