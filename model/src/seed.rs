//! The flow that the protocol replaces (its section 1): the object's key is the hash alone; a
//! deletion soft-deletes, decrements, deletes the object and removes the row, step by step. Kept to
//! show that the checker sees what is wrong with it.

use std::fmt;

use stateright::{Model, Property};

use crate::properties::{COUNTED, NO_LEAK, NO_LOSS};

/// Two uploads of one content and two deletions of the first one's image.
#[derive(Debug, Clone, Copy)]
pub struct Seed {
    /// Whether soft delete and decrement are one transaction; nothing else of the flow changes.
    pub one_transaction: bool,
    /// Whether a process may stop between two steps.
    pub crash: bool,
}

/// Where a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum At {
    #[default]
    Start,
    /// Upload: the row was not there.
    Put,
    /// Upload: the object is written.
    Count,
    /// Upload: the count is raised.
    Image,
    /// Deletion: the image is soft-deleted.
    Decrement,
    /// Deletion: the count became 0.
    Object,
    /// Deletion: the object is gone.
    Row,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Image {
    #[default]
    Absent,
    Live,
    Deleted,
}

/// The state of the flow; there is one hash, hence one row and one object at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeedState {
    count: Option<i8>,
    object: bool,
    late_put: bool,
    late_delete: bool,
    images: [Image; 2],
    uploads: [At; 2],
    deletions: [At; 2],
}

impl SeedState {
    fn live(&self) -> usize {
        self.images
            .iter()
            .filter(|image| **image == Image::Live)
            .count()
    }
}

/// A step, told in words, and where it leads.
#[derive(Debug, Clone, PartialEq)]
pub struct SeedStep(String, SeedState);

impl fmt::Display for SeedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Seed {
    fn upload(self, state: &SeedState, n: usize, out: &mut Vec<SeedStep>) {
        let mut go = |what: &str, at: At, change: &dyn Fn(&mut SeedState)| {
            let mut next = *state;
            next.uploads[n] = at;
            change(&mut next);
            out.push(SeedStep(format!("U{} {what}", n + 1), next));
        };
        match (state.uploads[n], state.count) {
            (At::Start, None) => go("finds no row", At::Put, &|_| {}),
            (At::Start, Some(count)) => {
                go("finds the row, count + 1", At::Image, &|next| {
                    next.count = Some(count + 1);
                });
            }
            (At::Put, _) => {
                go("PUT", At::Count, &|next| next.object = true);
                go("PUT times out, may land late", At::Over, &|next| {
                    next.late_put = true;
                });
            }
            (At::Count, count) => {
                let count = count.unwrap_or(0) + 1;
                go("inserts the row or count + 1", At::Image, &|next| {
                    next.count = Some(count);
                });
            }
            (At::Image, _) => {
                go("inserts the image, 201", At::Over, &|next| {
                    next.images[n] = Image::Live;
                });
            }
            _ => {}
        }
    }

    fn deletion(self, state: &SeedState, n: usize, out: &mut Vec<SeedStep>) {
        let mut go = |what: &str, at: At, change: &dyn Fn(&mut SeedState)| {
            let mut next = *state;
            next.deletions[n] = at;
            change(&mut next);
            out.push(SeedStep(format!("D{} {what}", n + 1), next));
        };
        let after = |count: i8| if count == 1 { At::Object } else { At::Over };
        match (state.deletions[n], state.images[0], state.count) {
            (At::Start, Image::Live, Some(count)) if self.one_transaction => {
                go("soft-deletes and decrements", after(count), &|next| {
                    next.images[0] = Image::Deleted;
                    next.count = Some(count - 1);
                });
            }
            (At::Start, Image::Live, _) if !self.one_transaction => {
                go("soft-deletes", At::Decrement, &|next| {
                    next.images[0] = Image::Deleted;
                });
            }
            (At::Start, Image::Deleted, _) => go("finds it deleted", At::Over, &|_| {}),
            (At::Decrement, _, Some(count)) => {
                go("decrements", after(count), &|next| {
                    next.count = Some(count - 1);
                });
            }
            (At::Decrement, _, None) => go("finds no row", At::Over, &|_| {}),
            (At::Object, ..) => {
                go("S3 DELETE", At::Row, &|next| next.object = false);
                go("S3 DELETE times out, may land late", At::Over, &|next| {
                    next.late_delete = true;
                });
            }
            (At::Row, ..) => go("removes the row", At::Over, &|next| next.count = None),
            _ => {}
        }
    }

    fn environment(self, state: &SeedState, out: &mut Vec<SeedStep>) {
        let mut go = |what: &str, next: SeedState| out.push(SeedStep(what.to_owned(), next));
        if state.late_put {
            let dies = SeedState {
                late_put: false,
                ..*state
            };
            go(
                "late PUT lands",
                SeedState {
                    object: true,
                    ..dies
                },
            );
            go("late PUT dies", dies);
        }
        if state.late_delete {
            let dies = SeedState {
                late_delete: false,
                ..*state
            };
            go(
                "late DELETE lands",
                SeedState {
                    object: false,
                    ..dies
                },
            );
            go("late DELETE dies", dies);
        }
        let moving = |at: At| self.crash && !matches!(at, At::Start | At::Over);
        for n in 0..2 {
            if moving(state.uploads[n]) {
                let mut next = *state;
                next.uploads[n] = At::Over;
                go(&format!("U{} crashes", n + 1), next);
            }
            if moving(state.deletions[n]) {
                let mut next = *state;
                next.deletions[n] = At::Over;
                go(&format!("D{} crashes", n + 1), next);
            }
        }
    }
}

impl Model for Seed {
    type State = SeedState;
    type Action = SeedStep;

    fn init_states(&self) -> Vec<SeedState> {
        vec![SeedState::default()]
    }

    fn actions(&self, state: &SeedState, out: &mut Vec<SeedStep>) {
        for n in 0..2 {
            self.upload(state, n, out);
            self.deletion(state, n, out);
        }
        self.environment(state, out);
    }

    fn next_state(&self, _: &SeedState, step: SeedStep) -> Option<SeedState> {
        Some(step.1)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_LOSS, |_, state: &SeedState| {
                state.live() == 0 || (state.object && state.count.is_some())
            }),
            Property::always(COUNTED, |_, state: &SeedState| {
                let between = |at: &At| !matches!(at, At::Start | At::Over);
                state.uploads.iter().chain(&state.deletions).any(between)
                    || state
                        .count
                        .is_none_or(|count| usize::try_from(count) == Ok(state.live()))
            }),
            Property::always(NO_LEAK, |_, state: &SeedState| {
                let over = state.uploads.iter().all(|at| *at == At::Over)
                    && state.deletions.iter().all(|at| match *at {
                        At::Start => state.images[0] == Image::Absent,
                        at => at == At::Over,
                    });
                let at_rest = over && !state.late_put && !state.late_delete;
                !at_rest || state.live() > 0 || (!state.object && state.count.is_none())
            }),
        ]
    }
}
