//! The invariants of the protocol's section 7, as far as they are about state.

use stateright::{Model, Property};

use crate::config::{MAX_GENERATIONS, Rule};
use crate::protocol::Protocol;
use crate::state::{Image, Next, RowState, State};

/// I1: a live image's row is stored and its object is there and right. Every live image is one that
/// was, or may have been, acknowledged.
pub const NO_LOSS: &str = "I1 no loss";
/// I2: every object has a row.
pub const NO_STRAY: &str = "I2 every object has a row";
/// I3: at rest, objects are exactly the stored rows with references, and no other row is left.
pub const NO_LEAK: &str = "I3 no leak";
/// I4: a stored row's count is the number of live images that point at it; other rows count 0.
pub const COUNTED: &str = "I4 counts";
/// I5: at most one stored row per content.
pub const ONE_ROW: &str = "I5 one stored row";
/// I9: no 201 without its image.
pub const NO_FALSE_ACK: &str = "I9 no 201 without its image";
/// R10: one request makes its images once.
pub const ONCE: &str = "R10 an upload counts once";
/// The contract: all images of a request, or none.
pub const ATOMIC: &str = "all images of a request or none";

/// All of them.
pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(NO_LOSS, no_loss),
        Property::always(NO_STRAY, no_stray),
        Property::always(NO_LEAK, no_leak),
        Property::always(COUNTED, counted),
        Property::always(ONE_ROW, one_row),
        Property::always(NO_FALSE_ACK, no_false_ack),
        Property::always(ONCE, once),
        Property::always(ATOMIC, atomic),
    ]
}

fn no_loss(_: &Protocol, state: &State) -> bool {
    state.db.images.iter().enumerate().all(|(image, at)| {
        let Image::Live(row) = *at else { return true };
        let row = &state.db.rows[row as usize];
        let key = row.key as usize;
        let readable = state.objects.has(key) && !state.spoiled.has(key);
        row.state == RowState::Stored && (readable || state.excused.has(image))
    })
}

fn no_stray(protocol: &Protocol, state: &State) -> bool {
    !protocol.rows_come_first() || state.objects.minus(state.db.keys()).is_empty()
}

fn counted(protocol: &Protocol, state: &State) -> bool {
    // Two messages are allowed their time between them; being dropped there is not.
    let between = |upload: usize| state.processes[upload].note > 0;
    if !protocol.config.has(Rule::OneMessage) && (0..protocol.config.uploads.len()).any(between) {
        return true;
    }
    (0..MAX_GENERATIONS).all(|row| {
        let Some(count) = usize::try_from(state.db.rows[row].count).ok() else {
            return false;
        };
        count == state.db.references(row)
    })
}

fn one_row(protocol: &Protocol, state: &State) -> bool {
    let mut contents = 0u8;
    state.db.in_state(RowState::Stored).all(|row| {
        let content = 1 << protocol.layout.content_of[row];
        let new = contents & content == 0;
        contents |= content;
        new
    })
}

/// A failover to an asynchronous replica loses what was acknowledged last: no protocol above the
/// database can help that, and the operator's documentation says so.
fn no_false_ack(protocol: &Protocol, state: &State) -> bool {
    protocol.config.failovers > 0
        || state
            .acked
            .iter()
            .all(|image| state.db.images[image] != Image::Absent)
}

fn once(protocol: &Protocol, state: &State) -> bool {
    let images = protocol.layout.images;
    protocol.config.has(Rule::StableImageId)
        || (0..images).all(|image| {
            let ids = [image, image + images];
            ids.iter().any(|id| state.db.images[*id] == Image::Absent)
        })
}

fn atomic(protocol: &Protocol, state: &State) -> bool {
    protocol.layout.files.iter().all(|files| {
        let mut exists = files
            .iter()
            .map(|(image, _)| state.db.images[*image] != Image::Absent);
        let first = exists.next();
        exists.all(|other| Some(other) == first)
    })
}

/// At rest nothing is under way and nothing that may be counted on can change anything: what is
/// left then is left for ever.
fn no_leak(protocol: &Protocol, state: &State) -> bool {
    let poisoned = |row: usize| protocol.config.poison == Some(row as u8);
    let referenced = |row: &usize| state.db.references(*row) > 0 || poisoned(*row);
    let rows = (0..MAX_GENERATIONS).filter(|row| state.db.rows[*row].state != RowState::Absent);
    let mut kept = crate::state::Set::default();
    let mut all_referenced = true;
    for row in rows {
        if referenced(&row) {
            kept = kept.with(state.db.rows[row].key as usize);
        } else {
            all_referenced = false;
        }
    }
    (all_referenced && state.objects.minus(kept).is_empty()) || !is_at_rest(protocol, state)
}

fn is_at_rest(protocol: &Protocol, state: &State) -> bool {
    let uploads = protocol.config.uploads.len();
    let over = state.processes[..uploads]
        .iter()
        .all(|process| process.is_over())
        && (0..protocol.config.deletes.len()).all(|deletion| {
            state.processes[uploads + deletion].next == Next::Done
                || !protocol.delete_can_run(state, deletion)
        });
    if !over || !state.puts.is_empty() || !state.deletes.is_empty() {
        return false;
    }
    let mut steps = Vec::new();
    protocol.actions(state, &mut steps);
    !steps.iter().any(|step| step.progress)
}
