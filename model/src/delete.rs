//! The deletion, by HTTP or webhook: one transaction, at least once.

use crate::config::Rule;
use crate::protocol::{Protocol, Steps};
use crate::state::{Image, Next, RowState, State, Who};

impl Protocol {
    /// Section 5, Delete: soft-delete the images that are still live and decrement their counts.
    /// A deletion of images that do not exist yet waits for them: answering "unknown" at once
    /// changes nothing.
    pub(crate) fn delete_steps(&self, state: &State, deletion: usize, steps: &mut Steps<'_>) {
        let process = self.config.uploads.len() + deletion;
        if state.processes[process].is_over() || !self.delete_can_run(state, deletion) {
            return;
        }
        if self.altered_delete(state, deletion, steps) {
            return;
        }
        let about = deletion as u8;
        let committed = self.transaction(state, |next| {
            for image in self.config.deletes[deletion]
                .iter()
                .map(|image| *image as usize)
            {
                release_image(next, image);
            }
        });
        let mut answered = committed;
        answered.stop(process, Next::Done);
        if committed == *state {
            steps.progress(Who::Delete, "finds them deleted", about, answered);
        } else {
            steps.progress(Who::Delete, "deletes, 200", about, answered);
            steps.hazard(
                Who::Delete,
                "deletes, outcome unknown: retried",
                about,
                committed,
            );
        }
    }

    /// Some image it names exists, and none points at a row that a failover took away.
    pub(crate) fn delete_can_run(&self, state: &State, deletion: usize) -> bool {
        let images = self.config.deletes[deletion].iter();
        let mut exist = false;
        for image in images.map(|image| state.db.images[*image as usize]) {
            exist |= image != Image::Absent;
            if let Image::Live(row) = image
                && state.db.rows[row as usize].state == RowState::Absent
            {
                return false;
            }
        }
        exist
    }

    /// Without R4: the image is read, then deleted and decremented whatever it has become.
    fn altered_delete(&self, state: &State, deletion: usize, steps: &mut Steps<'_>) -> bool {
        if self.config.has(Rule::ConditionalDelete) {
            return false;
        }
        let process = self.config.uploads.len() + deletion;
        let image = self.config.deletes[deletion][0] as usize;
        let about = deletion as u8;
        match (state.processes[process].note, state.db.images[image]) {
            (0, Image::Live(row)) => {
                let mut next = *state;
                next.processes[process].note = row + 1;
                steps.progress(Who::Delete, "reads that the image is live", about, next);
                true
            }
            (0, _) => false,
            (noted, _) => {
                let mut next = self.transaction(state, |next| {
                    next.db.images[image] = Image::Deleted;
                    next.db.rows[noted as usize - 1].count -= 1;
                });
                next.stop(process, Next::Done);
                steps.progress(Who::Delete, "deletes and decrements", about, next);
                true
            }
        }
    }
}

/// `WHERE id AND deleted_at IS NULL`: an image frees its reference once.
fn release_image(next: &mut State, image: usize) {
    if let Image::Live(row) = next.db.images[image] {
        next.db.images[image] = Image::Deleted;
        next.db.rows[row as usize].count -= 1;
        next.excused = next.excused.without(image);
    }
}
