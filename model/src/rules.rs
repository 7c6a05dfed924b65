//! Uploads as they would be without one of the rules. Nothing here happens in the full protocol.

use crate::config::Rule;
use crate::protocol::{Protocol, Steps};
use crate::state::{Image, Row, RowState, State, Who};
use crate::upload::{Standing, attach, pardon_no_more};

impl Protocol {
    /// Takes the place of steps 3 and 6; false where the rule left out makes no difference here.
    pub(crate) fn altered_transact(
        &self,
        state: &State,
        upload: usize,
        steps: &mut Steps<'_>,
    ) -> bool {
        let Some(rule) = self.config.without else {
            return false;
        };
        let absent = |(image, _): (usize, usize)| state.db.images[image] == Image::Absent;
        if !self.images_of(upload, state).any(absent) {
            return false;
        }
        match rule {
            Rule::OneTransaction | Rule::OneMessage => self.count_then_image(state, upload, steps),
            Rule::ConditionalAttach => self.read_then_write(state, upload, steps),
            Rule::UniqueStored => self.look_then_promote(state, upload, steps),
            Rule::AckAfterCommit => self.answer_then_commit(state, upload, steps),
            Rule::AllOrNone => self.one_by_one(state, upload, steps),
            Rule::HealInOneTransaction => self.heal_in_two(state, upload, steps),
            _ => false,
        }
    }

    /// A step of an upload that remembers something for its next step.
    fn noting(
        &self,
        state: &State,
        upload: usize,
        note: u8,
        apply: impl FnOnce(&mut State),
    ) -> State {
        let mut next = self.transaction(state, apply);
        next.processes[upload].note = note;
        next
    }

    /// The row that the first file of an upload finds stored.
    fn stored_for(&self, state: &State, upload: usize) -> Option<(usize, usize)> {
        let (image, content) = self.layout.files[upload][0];
        match self.standing(state, upload, content) {
            Standing::Stored(row) => Some((image, row)),
            _ => None,
        }
    }

    /// Without R3 (two transactions) or R13 (two messages).
    fn count_then_image(&self, state: &State, upload: usize, steps: &mut Steps<'_>) -> bool {
        let about = upload as u8;
        let (image, _) = self.layout.files[upload][0];
        if let Some(row) = state.processes[upload].note.checked_sub(1) {
            let mut next = self.transaction(state, |next| next.db.images[image] = Image::Live(row));
            self.acknowledge(&mut next, upload);
            steps.progress(Who::Upload, "inserts the image, 201", about, next);
            return true;
        }
        let Some((_, row)) = self.stored_for(state, upload) else {
            return false;
        };
        let note = row as u8 + 1;
        let next = self.noting(state, upload, note, |next| next.db.rows[row].count += 1);
        steps.progress(Who::Upload, "increments the count", about, next);
        true
    }

    /// Without R4.
    fn read_then_write(&self, state: &State, upload: usize, steps: &mut Steps<'_>) -> bool {
        let about = upload as u8;
        let Some((image, row)) = self.stored_for(state, upload) else {
            return false;
        };
        let Some(count) = state.processes[upload].note.checked_sub(1) else {
            let count = state.db.rows[row].count.unsigned_abs();
            let next = self.noting(state, upload, count + 1, |_| {});
            steps.progress(Who::Upload, "reads the count", about, next);
            return true;
        };
        let mut next = self.transaction(state, |next| {
            attach(next, image, row);
            next.db.rows[row].count = count as i8 + 1;
        });
        self.acknowledge(&mut next, upload);
        steps.progress(Who::Upload, "writes what it read + 1, 201", about, next);
        true
    }

    /// Without the partial unique index of R5.
    fn look_then_promote(&self, state: &State, upload: usize, steps: &mut Steps<'_>) -> bool {
        let about = upload as u8;
        let (_, content) = self.layout.files[upload][0];
        let process = &state.processes[upload];
        if process.note == 0 {
            let Standing::Own(_) = self.standing(state, upload, content) else {
                return false;
            };
            let next = self.noting(state, upload, 1, |_| {});
            steps.progress(Who::Upload, "looks: none is stored", about, next);
            return true;
        }
        let own = self
            .layout
            .generation(upload, process.own[content] - 1, content);
        if state.db.rows[own].state != RowState::Pending {
            let next = self.noting(state, upload, 0, |_| {});
            steps.progress(Who::Upload, "finds its lease lost", about, next);
            return true;
        }
        let mut next = self.transaction(state, |next| {
            self.take(next, upload, content, &Standing::Own(own));
        });
        self.acknowledge(&mut next, upload);
        steps.progress(Who::Upload, "promotes its row, 201", about, next);
        true
    }

    /// Without R15.
    fn answer_then_commit(&self, state: &State, upload: usize, steps: &mut Steps<'_>) -> bool {
        if state.processes[upload].note > 0 || self.settle(state, upload).is_err() {
            return false;
        }
        let mut next = self.noting(state, upload, 1, |_| {});
        for (image, _) in self.images_of(upload, state) {
            next.acked = next.acked.with(image);
        }
        steps.progress(Who::Upload, "201 before COMMIT", upload as u8, next);
        true
    }

    /// Without "all or none": what can be committed is, one content at a time.
    fn one_by_one(&self, state: &State, upload: usize, steps: &mut Steps<'_>) -> bool {
        let open = |content: &usize| {
            self.images_of(upload, state)
                .any(|(image, of)| of == *content && state.db.images[image] == Image::Absent)
        };
        for content in self.layout.contents[upload].iter().copied().filter(open) {
            let standing = self.standing(state, upload, content);
            if !matches!(standing, Standing::Missing) {
                let take = |next: &mut State| self.take(next, upload, content, &standing);
                let next = self.transaction(state, take);
                steps.progress(
                    Who::Upload,
                    "commits one of its contents",
                    upload as u8,
                    next,
                );
                return true;
            }
        }
        false
    }

    /// Heal in two transactions: the stored row takes the new key, then the other the old one.
    fn heal_in_two(&self, state: &State, upload: usize, steps: &mut Steps<'_>) -> bool {
        let about = upload as u8;
        let (_, content) = self.layout.files[upload][0];
        let process = &state.processes[upload];
        if let Some(old_key) = process.note.checked_sub(1) {
            let own = self
                .layout
                .generation(upload, process.own[content] - 1, content);
            let next = self.noting(state, upload, 0, |next| {
                if next.db.rows[own].state == RowState::Pending {
                    let state = RowState::Deleting;
                    next.db.rows[own] = Row {
                        state,
                        key: old_key,
                        ..Row::default()
                    };
                }
            });
            steps.progress(Who::Upload, "gives its row the old key", about, next);
            return true;
        }
        let Standing::Damaged { stored, own } = self.standing(state, upload, content) else {
            return false;
        };
        let note = state.db.rows[stored].key + 1;
        let next = self.noting(state, upload, note, |next| {
            next.db.rows[stored].key = next.db.rows[own].key;
            next.db.rows[stored].damaged = false;
            pardon_no_more(next, stored);
        });
        steps.progress(Who::Upload, "gives the damaged row its key", about, next);
        true
    }
}
