use super::*;
use crate::history::{Event, What};
use crate::journal::Upload;

const HASH: &str = "aa";

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// One original, two live images of one upload, one object; a deleted image of an upload before.
fn sound() -> (State, Record) {
    let image = |number: u128, filename: &str| ImageRow {
        id: uuid(number),
        original: Some(uuid(100)),
        was_original: None,
        hash: HASH.to_owned(),
        size: 5,
        filename: filename.to_owned(),
        deleted: false,
    };
    let mut deleted = image(3, "b-0");
    deleted.original = None;
    deleted.was_original = Some(uuid(99));
    deleted.deleted = true;
    let state = State {
        originals: vec![OriginalRow {
            id: uuid(100),
            scope: "default".to_owned(),
            hash: HASH.to_owned(),
            size: 5,
            key: "hapax/aa/key".to_owned(),
            state: "stored".to_owned(),
            count: 2,
            damaged: false,
            last_error: None,
        }],
        images: vec![image(1, "a-0"), image(2, "a-1"), deleted],
        objects: BTreeMap::from([("hapax/aa/key".to_owned(), 5)]),
        webhooks: HashSet::from(["msg".to_owned()]),
    };
    let created = |image: u128| {
        let event = Event {
            what: What::Created,
            invoked: 1,
            returned: Some(2),
        };
        (uuid(image), vec![event])
    };
    let mut record = Record {
        uploads: vec![
            upload(
                &["a-0", "a-1"],
                UploadOutcome::Acknowledged(vec![uuid(1), uuid(2)]),
            ),
            upload(&["b-0"], UploadOutcome::Acknowledged(vec![uuid(3)])),
            upload(&["c-0"], UploadOutcome::Refused),
            upload(&["d-0", "d-1"], UploadOutcome::Unknown),
        ],
        events: HashMap::from([created(1), created(2), created(3)]),
        webhooks: HashSet::from(["msg".to_owned()]),
        ..Record::default()
    };
    record.events.entry(uuid(3)).or_default().push(Event {
        what: What::Deleted,
        invoked: 5,
        returned: Some(6),
    });
    (state, record)
}

fn upload(names: &[&str], outcome: UploadOutcome) -> Upload {
    let file = |name: &&str| FileClaim {
        filename: (*name).to_owned(),
        hash: HASH.to_owned(),
        size: 5,
    };
    Upload {
        invoked: 1,
        files: names.iter().map(file).collect(),
        outcome,
    }
}

fn all(state: &State, record: &Record) -> Wrong {
    [
        check_state(state),
        check_uploads(state, record),
        check_histories(state, record),
    ]
    .concat()
}

/// What breaks it is seen, as the right kind.
#[track_caller]
fn sees(kind: Kind, text: &str, break_it: impl FnOnce(&mut State, &mut Record)) {
    let (mut state, mut record) = sound();
    break_it(&mut state, &mut record);
    let wrong = all(&state, &record);
    assert!(
        wrong
            .iter()
            .any(|(found, said)| *found == kind && said.contains(text)),
        "{kind:?}, {text}: {wrong:#?}"
    );
}

#[test]
fn a_sound_state_passes() {
    let (state, record) = sound();
    assert_eq!(all(&state, &record), []);
}

#[test]
fn losses_are_seen() {
    sees(Kind::Lost, "has None of 5 bytes", |state, _| {
        state.objects.clear();
    });
    sees(Kind::Lost, "has Some(4) of 5 bytes", |state, _| {
        state.objects.insert("hapax/aa/key".to_owned(), 4);
    });
    sees(Kind::Lost, "which is no row", |state, _| {
        state.originals.clear();
    });
    sees(Kind::Lost, "is deleting and has 2 images", |state, _| {
        state.originals[0].state = "deleting".to_owned();
    });
    sees(Kind::Lost, "marked as damaged", |state, _| {
        state.originals[0].damaged = true;
    });
    sees(Kind::Lost, "of a-0 has no row", |state, _| {
        state.images.remove(1);
    });
    sees(Kind::Lost, "has no row", |state, _| {
        state.images.remove(0);
    });
    sees(Kind::Lost, "nobody deleted it", |state, _| {
        let image = &mut state.images[0];
        image.was_original = image.original.take();
        image.deleted = true;
        state.originals[0].count = 1;
    });
    sees(Kind::Lost, "is kept as bb", |state, _| {
        state.images[0].hash = "bb".to_owned();
    });
    sees(Kind::Lost, "has no receipt", |state, _| {
        state.webhooks.clear();
    });
    sees(Kind::Lost, "absent after its creation", |_, record| {
        let seen = Event {
            what: What::SeenAbsent,
            invoked: 8,
            returned: Some(9),
        };
        record.events.entry(uuid(1)).or_default().push(seen);
    });
}

#[test]
fn leaks_are_seen() {
    sees(Kind::Leaked, "stray has no row", |state, _| {
        state.objects.insert("hapax/bb/stray".to_owned(), 1);
    });
    sees(Kind::Leaked, "nobody refers to it", |state, record| {
        state.images.truncate(0);
        state.originals[0].count = 0;
        record.uploads.clear();
        record.events.clear();
    });
    for open in ["pending", "deleting"] {
        sees(Kind::Leaked, "is still", |state, _| {
            let mut row = state.originals[0].clone();
            row.id = uuid(101);
            row.key = "hapax/aa/other".to_owned();
            row.state = open.to_owned();
            row.count = 0;
            state.originals.push(row);
        });
    }
}

#[test]
fn double_counts_are_seen() {
    sees(Kind::Miscounted, "counts 3 images and has 2", |state, _| {
        state.originals[0].count = 3;
    });
    sees(Kind::Miscounted, "counts 1 images and has 2", |state, _| {
        state.originals[0].count = 1;
    });
    sees(Kind::Miscounted, "stored twice", |state, _| {
        let mut row = state.originals[0].clone();
        row.id = uuid(101);
        row.key = "hapax/aa/other".to_owned();
        state.originals.push(row);
    });
    sees(Kind::Miscounted, "came into being 2 times", |state, _| {
        let mut image = state.images[0].clone();
        image.id = uuid(7);
        state.images.push(image);
        state.originals[0].count = 3;
    });
    sees(Kind::Miscounted, "was refused, and 1", |state, _| {
        state.images[0].filename = "c-0".to_owned();
    });
    sees(Kind::Miscounted, "1 of its 2 images", |state, _| {
        state.images[0].filename = "d-0".to_owned();
    });
    sees(Kind::Miscounted, "which nobody uploaded", |state, _| {
        state.images[0].filename = "e-0".to_owned();
    });
    sees(
        Kind::Miscounted,
        "is deleted: true, and points at Some",
        |state, _| {
            state.images[0].deleted = true;
        },
    );
    sees(Kind::Miscounted, "two deletions", |_, record| {
        let deleted = Event {
            what: What::Deleted,
            invoked: 8,
            returned: Some(9),
        };
        record.events.entry(uuid(3)).or_default().push(deleted);
    });
}

#[test]
fn a_deletion_without_effect_is_seen() {
    sees(Kind::Wrong, "is live, and was deleted", |_, record| {
        let deleted = Event {
            what: What::Deleted,
            invoked: 8,
            returned: Some(9),
        };
        record.events.entry(uuid(1)).or_default().push(deleted);
    });
    sees(
        Kind::Wrong,
        "seen live after it was deleted",
        |_, record| {
            let seen = Event {
                what: What::SeenLive,
                invoked: 8,
                returned: Some(9),
            };
            record.events.entry(uuid(3)).or_default().push(seen);
        },
    );
}

#[test]
fn images_of_unknown_uploads_are_found_out() {
    let (mut state, record) = sound();
    assert!(found_out(&state, &record).is_empty());
    state.images[0].filename = "d-0".to_owned();
    state.images[1].filename = "d-1".to_owned();
    let found = found_out(&state, &record);
    let names: Vec<&str> = found.iter().map(|(row, _)| row.filename.as_str()).collect();
    assert_eq!(names, ["d-0", "d-1"]);
}
