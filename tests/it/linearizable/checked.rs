//! The checker checked: it takes what is right, and refuses each thing that must never be.

use super::checker::check;
use super::history::{Answer, Call, Count, Event, Moment};

const A: u8 = 0;
const B: u8 = 1;

fn event(call: Call, answer: Answer, invoked: Moment, returned: Moment) -> Event {
    Event {
        slot: 1,
        call,
        answer: Some(answer),
        invoked,
        returned,
    }
}

fn unseen(call: Call, invoked: Moment) -> Event {
    Event {
        answer: None,
        ..event(call, Answer::Is, invoked, Moment::MAX)
    }
}

fn takes(events: &[Event]) {
    check(events, &[]).expect("there is an order");
}

#[track_caller]
fn refuses(events: &[Event]) {
    let refused = check(events, &[]);
    assert!(refused.is_err(), "taken: {events:#?}");
}

pub(super) fn right_histories_are_taken() {
    takes(&[
        event(Call::Upload(A), Answer::Is, 0, 10),
        event(Call::Read, Answer::Bytes(A), 11, 20),
        event(Call::Delete, Answer::Deleted, 21, 30),
        event(Call::Delete, Answer::AlreadyDeleted, 31, 40),
        event(Call::Read, Answer::Gone, 41, 50),
        event(Call::Upload(A), Answer::Is, 51, 60),
        event(Call::Refer(B), Answer::KeyReused, 61, 70),
        event(Call::Read, Answer::Gone, 71, 80),
    ]);
    // A read beside a deletion may come before or after it.
    for answer in [Answer::Bytes(A), Answer::Gone] {
        takes(&[
            event(Call::Upload(A), Answer::Is, 0, 10),
            event(Call::Delete, Answer::Deleted, 20, 40),
            event(Call::Read, answer, 25, 35),
        ]);
    }
    // Two uploads of different content under one key at once: either wins, for everybody.
    takes(&[
        event(Call::Upload(A), Answer::KeyReused, 0, 10),
        event(Call::Upload(B), Answer::Is, 5, 20),
        event(Call::Read, Answer::Bytes(B), 21, 30),
    ]);
    // What nobody saw the answer of has taken effect, late or never.
    let unknown = [
        event(Call::Upload(A), Answer::Is, 0, 10),
        unseen(Call::Delete, 20),
    ];
    for answer in [Answer::Bytes(A), Answer::Gone] {
        takes(&[&unknown[..], &[event(Call::Read, answer, 100, 110)]].concat());
    }
    takes(&[
        unseen(Call::Upload(A), 0),
        unseen(Call::Upload(B), 5),
        event(Call::Read, Answer::Unknown, 10, 20),
        event(Call::Read, Answer::Bytes(B), 30, 40),
        event(Call::Upload(A), Answer::KeyReused, 50, 60),
    ]);
}

pub(super) fn a_lost_upload_is_refused() {
    refuses(&[
        event(Call::Upload(A), Answer::Is, 0, 10),
        event(Call::Read, Answer::Unknown, 11, 20),
    ]);
    refuses(&[
        event(Call::Upload(A), Answer::Is, 0, 10),
        event(Call::Read, Answer::Gone, 11, 20),
    ]);
    // An unknown deletion explains it only if it was asked for before.
    refuses(&[
        event(Call::Upload(A), Answer::Is, 0, 10),
        event(Call::Read, Answer::Gone, 11, 20),
        unseen(Call::Delete, 21),
    ]);
}

pub(super) fn a_resurrected_image_is_refused() {
    refuses(&[
        event(Call::Upload(A), Answer::Is, 0, 10),
        event(Call::Delete, Answer::Deleted, 11, 20),
        event(Call::Read, Answer::Bytes(A), 21, 30),
    ]);
    // Seen gone by one client, and there again for a later one, beside the same deletion.
    refuses(&[
        event(Call::Upload(A), Answer::Is, 0, 10),
        event(Call::Delete, Answer::Deleted, 20, 90),
        event(Call::Read, Answer::Gone, 30, 40),
        event(Call::Read, Answer::Bytes(A), 50, 60),
    ]);
}

pub(super) fn wrong_bytes_are_refused() {
    for answer in [Answer::Bytes(B), Answer::WrongBytes] {
        refuses(&[
            event(Call::Upload(A), Answer::Is, 0, 10),
            event(Call::Read, answer, 5, 20),
        ]);
    }
    // Nobody uploaded it at all.
    refuses(&[event(Call::Read, Answer::Bytes(A), 0, 10)]);
}

pub(super) fn a_double_effect_is_refused() {
    refuses(&[
        event(Call::Upload(A), Answer::Is, 0, 10),
        event(Call::Delete, Answer::Deleted, 20, 40),
        event(Call::Delete, Answer::Deleted, 20, 40),
    ]);
    refuses(&[
        event(Call::Upload(A), Answer::Is, 0, 10),
        event(Call::Upload(B), Answer::Is, 0, 10),
    ]);
    refuses(&[event(Call::Delete, Answer::AlreadyDeleted, 0, 10)]);
}

pub(super) fn wrong_counts_are_refused() {
    let mut events = vec![
        event(Call::Upload(A), Answer::Is, 0, 10),
        event(Call::Delete, Answer::Deleted, 50, 60),
    ];
    let count = |references, invoked, returned| Count {
        content: A,
        references,
        invoked,
        returned,
    };
    for (right, wrong, from, to) in [
        (&[1][..], &[0, 2][..], 20, 30),
        (&[0, 1], &[2], 5, 30),
        (&[0, 1], &[2], 20, 55),
        (&[0], &[1], 70, 80),
    ] {
        for references in right {
            check(&events, &[count(*references, from, to)]).expect("it may be");
        }
        for references in wrong {
            let refused = check(&events, &[count(*references, from, to)]);
            assert!(refused.is_err(), "{references} in {from}..{to}");
        }
    }
    // Content that a live image has is known.
    let refer = |invoked, returned| Event {
        slot: 2,
        ..event(Call::Refer(A), Answer::UnknownContent, invoked, returned)
    };
    events.push(refer(70, 80));
    check(&events, &[]).expect("it was deleted");
    events.push(refer(20, 30));
    assert!(check(&events, &[]).is_err(), "it was live");
}
