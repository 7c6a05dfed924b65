//! What a history is made of, and how one is drawn.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// How many contents there are: few, so that they meet.
pub(super) const CONTENTS: usize = 4;

/// A whole history.
#[derive(Debug, Clone)]
pub(super) struct History {
    /// Whether unreferenced originals are kept until a clean-up asks for them, or go at once.
    pub(super) grace: bool,
    pub(super) steps: Vec<Step>,
}

/// A client's call that changes something. An image is picked by its age; the pick after the
/// youngest names one that never was.
#[derive(Debug, Clone)]
pub(super) enum Call {
    Upload { files: Vec<usize>, key: Option<u8> },
    ReferToContent { content: usize, key: Option<u8> },
    ReferToOriginal { of_image: u8, key: Option<u8> },
    Delete { images: Vec<u8> },
    Webhook { event: u8, images: Vec<u8> },
}

/// One step of a history.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A call that is answered.
    Call(Call),
    /// An upload whose body ends too early.
    Truncated { files: Vec<usize> },
    /// A read of an image's bytes.
    Read { image: u8 },
    /// Somebody damages a content's object in the store.
    Harm { content: usize, harm: Harm },
    /// `hapax cleanup --older-than 0s`
    Cleanup,
    /// `hapax verify --deep --repair`
    Verify,
    /// Every lease is over, whoever holds it.
    LeasesEnd,
    /// PUTs that a dead process had sent arrive at the store.
    LatePutsLand,
    /// They do, and then every deadline is over.
    TimePasses,
    /// The process dies and is started again.
    Crash,
    /// The process dies during a call and is started again.
    CrashDuring { call: Call, moment: Moment },
    /// An upload stands still at its first PUT while other things happen.
    Paused {
        files: Vec<usize>,
        key: Option<u8>,
        landed: bool,
        meanwhile: Vec<Step>,
    },
}

/// What becomes of an object behind the server's back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Harm {
    Missing,
    Short,
    OtherBytes,
}

/// When the process dies.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    /// Before the first PUT is sent; after the call, if it needs none.
    BeforePut,
    /// When the first PUT was carried out and not yet answered.
    AfterPut,
    /// When the first PUT is on its way; it arrives in a later step.
    PutUnderway,
    /// So many microseconds after the call began.
    Micros(u16),
}

/// Draws histories.
pub(super) fn history() -> impl Strategy<Value = History> {
    let steps = vec(step(), 1..24);
    (any::<bool>(), steps).prop_map(|(grace, steps)| History { grace, steps })
}

fn step() -> impl Strategy<Value = Step> {
    let simple = simple_step();
    let paused = (files(), key(), any::<bool>(), vec(simple_step(), 0..4)).prop_map(
        |(files, key, landed, meanwhile)| Step::Paused {
            files,
            key,
            landed,
            meanwhile,
        },
    );
    let crash_during =
        (call(), moment()).prop_map(|(call, moment)| Step::CrashDuring { call, moment });
    prop_oneof![
        8 => upload().prop_map(Step::Call),
        1 => files().prop_map(|files| Step::Truncated { files }),
        14 => simple,
        2 => (content(), harm()).prop_map(|(content, harm)| Step::Harm { content, harm }),
        1 => Just(Step::Cleanup),
        1 => Just(Step::Verify),
        1 => Just(Step::LatePutsLand),
        1 => Just(Step::TimePasses),
        1 => Just(Step::Crash),
        4 => crash_during,
        2 => paused,
    ]
}

/// What may also happen while an upload stands still: nothing that has to wait for it.
fn simple_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => not_upload().prop_map(Step::Call),
        4 => any::<u8>().prop_map(|image| Step::Read { image }),
        2 => Just(Step::LeasesEnd),
        1 => Just(Step::Cleanup),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![2 => upload(), 1 => not_upload()]
}

fn upload() -> impl Strategy<Value = Call> {
    (files(), key()).prop_map(|(files, key)| Call::Upload { files, key })
}

fn not_upload() -> impl Strategy<Value = Call> {
    let images = || vec(any::<u8>(), 1..4);
    prop_oneof![
        (content(), key()).prop_map(|(content, key)| Call::ReferToContent { content, key }),
        (any::<u8>(), key()).prop_map(|(of_image, key)| Call::ReferToOriginal { of_image, key }),
        images().prop_map(|images| Call::Delete { images }),
        any::<u8>().prop_map(|image| Call::Delete {
            images: vec![image]
        }),
        (0u8..4, images()).prop_map(|(event, images)| Call::Webhook { event, images }),
    ]
}

fn files() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        3 => content().prop_map(|content| vec![content]),
        2 => vec(content(), 1..4),
    ]
}

fn content() -> impl Strategy<Value = usize> {
    0..CONTENTS
}

/// Few keys: they are used again, for the same content and for other content.
fn key() -> impl Strategy<Value = Option<u8>> {
    option::weighted(0.4, 0u8..4)
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        Just(Harm::Missing),
        Just(Harm::Short),
        Just(Harm::OtherBytes)
    ]
}

fn moment() -> impl Strategy<Value = Moment> {
    prop_oneof![
        Just(Moment::BeforePut),
        Just(Moment::AfterPut),
        Just(Moment::PutUnderway),
        (0u16..12_000).prop_map(Moment::Micros),
    ]
}
