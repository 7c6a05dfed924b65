//! The upload: steps 3 to 7 of the protocol. Steps 1 and 2 (receive, hash, verify) touch nothing
//! that others see.

use crate::config::Rule;
use crate::protocol::{Protocol, Steps};
use crate::state::{Image, Next, Process, Row, RowState, Set, State, Who};

/// What a content of an upload finds in the database.
pub(crate) enum Standing {
    /// A stored row to attach to.
    Stored(usize),
    /// Its own row, to be promoted.
    Own(usize),
    /// A damaged row, and its own row to heal it with.
    Damaged {
        /// The damaged row.
        stored: usize,
        /// Its own pending row.
        own: usize,
    },
    /// Nothing: write a generation first.
    Missing,
}

impl Protocol {
    pub(crate) fn upload_steps(&self, state: &State, upload: usize, steps: &mut Steps<'_>) {
        let process = &state.processes[upload];
        if process.is_over() {
            return;
        }
        let about = upload as u8;
        let untouched = *process == Process::default();
        if (self.config.crash || !self.config.has(Rule::OneMessage)) && !untouched {
            let mut next = *state;
            next.stop(upload, Next::Stopped);
            let why = if self.config.crash {
                "crashes"
            } else {
                "is dropped by a disconnect"
            };
            steps.hazard(Who::Upload, why, about, next);
        }
        match process.next {
            Next::Transact if self.altered_transact(state, upload, steps) => {}
            Next::Transact => self.transact(state, upload, steps),
            Next::Intent => {
                let next = self.announce(state, upload);
                steps.progress(Who::Upload, "announces a generation", about, next);
            }
            Next::Put => self.put(state, upload, steps),
            Next::Release | Next::GiveUp => self.release(state, upload, steps),
            Next::Done | Next::Stopped => {}
        }
    }

    /// Steps 3 and 6, one transaction: attach every image to what is stored or was written, or
    /// none of them. Step 7: an unknown outcome runs the same again, with the same image ids.
    fn transact(&self, state: &State, upload: usize, steps: &mut Steps<'_>) {
        let about = upload as u8;
        if !state.processes[upload].owned().is_empty() {
            // The budget of step 7 ends, whether a commit succeeded or not: 503, and what was
            // written is given up.
            let mut next = *state;
            next.processes[upload].lost = state.processes[upload].owned();
            next.processes[upload].next = Next::GiveUp;
            steps.hazard(Who::Upload, "runs out of time", about, next);
        }
        if self
            .images_of(upload, state)
            .all(|(image, _)| state.db.images[image] != Image::Absent)
        {
            let mut next = self.transaction(state, |next| self.discard_own(next, upload));
            self.acknowledge(&mut next, upload);
            steps.progress(Who::Upload, "finds its images committed", about, next);
            return;
        }
        let lost = self.lost_generations(state, upload);
        if !lost.is_empty() {
            let mut next = *state;
            next.processes[upload].lost = lost;
            next.processes[upload].next = Next::Release;
            steps.progress(Who::Upload, "finds its lease lost", about, next);
            return;
        }
        match self.settle(state, upload) {
            Ok(committed) => {
                let mut answered = committed;
                self.acknowledge(&mut answered, upload);
                steps.progress(Who::Upload, "commits, 201", about, answered);
                let mut unknown = committed;
                if !self.config.has(Rule::StableImageId) {
                    unknown.processes[upload].note = 1;
                }
                steps.hazard(Who::Upload, "commits, outcome unknown", about, unknown);
            }
            Err(missing) => {
                let next = self.plan_generations(state, upload, missing);
                steps.progress(Who::Upload, "finds content missing", about, next);
            }
        }
    }

    /// The contents whose generation is no longer this upload's own: they are given up before
    /// anything is attached to, even if another row stands ready, because a row that a reaper or a
    /// failover took may leave an object that nobody else knows of (rule R8).
    fn lost_generations(&self, state: &State, upload: usize) -> Set {
        let owned = state.processes[upload].owned();
        let lost = |content: &usize| {
            let missing = || matches!(self.standing(state, upload, *content), Standing::Missing);
            self.own_row(state, upload, *content).is_none()
                && (self.config.has(Rule::LostComesFirst) || missing())
        };
        owned.iter().filter(lost).fold(Set::default(), Set::with)
    }

    /// What is missing is written under a new generation.
    fn plan_generations(&self, state: &State, upload: usize, missing: Set) -> State {
        let mut next = *state;
        let process = &mut next.processes[upload];
        if process.round < self.config.rounds {
            process.todo = missing;
            process.next = if self.config.has(Rule::IntentRow) {
                Next::Intent
            } else {
                Next::Put
            };
            if !self.config.has(Rule::IntentRow) {
                own_this_round(process);
            }
        } else if !process.owned().is_empty() {
            process.lost = process.owned();
            process.next = Next::GiveUp;
        } else {
            next.stop(upload, Next::Stopped);
        }
        next
    }

    /// The transaction of steps 3 and 6, or the contents for which there is nothing to commit.
    pub(crate) fn settle(&self, state: &State, upload: usize) -> Result<State, Set> {
        let mut missing = Set::default();
        let next = self.transaction(state, |next| {
            for content in self.layout.contents[upload].iter().copied() {
                match self.standing(state, upload, content) {
                    Standing::Missing => missing = missing.with(content),
                    standing => self.take(next, upload, content, &standing),
                }
            }
        });
        if missing.is_empty() {
            Ok(next)
        } else {
            Err(missing)
        }
    }

    pub(crate) fn standing(&self, state: &State, upload: usize, content: usize) -> Standing {
        let of_content = |row: &usize| self.layout.content_of.get(*row) == Some(&content);
        let own = self.own_row(state, upload, content);
        if let Some(stored) = state.db.in_state(RowState::Stored).find(of_content) {
            let damaged = state.db.rows[stored].damaged && self.config.has(Rule::DamagedIsNoHit);
            return match (damaged, own) {
                (false, _) => Standing::Stored(stored),
                (true, Some(own)) => Standing::Damaged { stored, own },
                (true, None) => Standing::Missing,
            };
        }
        if !self.config.has(Rule::DeletingIsTerminal) {
            let still_there = |row: &usize| state.objects.has(state.db.rows[*row].key as usize);
            let mut condemned = state.db.in_state(RowState::Deleting);
            if let Some(row) = condemned.find(|row| of_content(row) && still_there(row)) {
                return Standing::Stored(row);
            }
        }
        own.map_or(Standing::Missing, Standing::Own)
    }

    /// The row this upload announced for a content, while it is still pending.
    fn own_row(&self, state: &State, upload: usize, content: usize) -> Option<usize> {
        let round = state.processes[upload].own[content].checked_sub(1)?;
        let own = self.layout.generation(upload, round, content);
        let mine = match state.db.rows[own].state {
            RowState::Pending => true,
            RowState::Deleting => !self.config.has(Rule::RowDecides),
            RowState::Absent => !self.config.has(Rule::IntentRow),
            RowState::Stored => false,
        };
        mine.then_some(own)
    }

    /// Settles a content on a row and points its images there.
    pub(crate) fn take(&self, next: &mut State, upload: usize, content: usize, at: &Standing) {
        let row = match *at {
            Standing::Missing => return,
            Standing::Stored(row) => {
                next.db.rows[row].state = RowState::Stored;
                if let Some(own) = self
                    .own_row(next, upload, content)
                    .filter(|own| *own != row)
                {
                    next.db.rows[own].state = RowState::Deleting;
                }
                row
            }
            Standing::Own(own) => {
                self.promote(next, own);
                own
            }
            Standing::Damaged { stored, own } => {
                self.heal(next, stored, own);
                stored
            }
        };
        for (image, _) in self
            .images_of(upload, next)
            .filter(|(_, of)| *of == content)
        {
            attach(next, image, row);
        }
    }

    /// `pending → stored`; the one PUT for the key has been answered, so none can land any more.
    pub(crate) fn promote(&self, next: &mut State, own: usize) {
        let key = self.key_of(own);
        next.db.rows[own] = Row {
            state: RowState::Stored,
            key,
            ..Row::default()
        };
        if !self.config.first_model_put {
            next.expired = next.expired.with(own);
        }
    }

    /// The two rows exchange their keys; the damaged object goes with the other row.
    fn heal(&self, next: &mut State, stored: usize, own: usize) {
        let damaged_key = next.db.rows[stored].key;
        next.db.rows[stored].key = next.db.rows[own].key;
        next.db.rows[stored].damaged = false;
        next.db.rows[own] = match self.config.has(Rule::HealKeepsOldKey) {
            true => Row {
                state: RowState::Deleting,
                key: damaged_key,
                ..Row::default()
            },
            false => Row::default(),
        };
        next.expired = next.expired.with(own);
        pardon_no_more(next, stored);
    }

    fn discard_own(&self, next: &mut State, upload: usize) {
        for content in self.layout.contents[upload].iter().copied() {
            if let Some(own) = self.own_row(next, upload, content) {
                next.db.rows[own].state = RowState::Deleting;
            }
        }
    }

    pub(crate) fn acknowledge(&self, next: &mut State, upload: usize) {
        for (image, _) in self.images_of(upload, next) {
            next.acked = next.acked.with(image);
        }
        next.stop(upload, Next::Done);
    }

    /// Step 4, one transaction: a `pending` row names each key before its first byte is sent.
    fn announce(&self, state: &State, upload: usize) -> State {
        let mut next = self.transaction(state, |next| {
            let process = state.processes[upload];
            for content in process.todo.iter() {
                let own = self.layout.generation(upload, process.round, content);
                let key = self.key_of(own);
                next.db.rows[own] = Row {
                    state: RowState::Pending,
                    key,
                    ..Row::default()
                };
            }
        });
        own_this_round(&mut next.processes[upload]);
        next.processes[upload].next = Next::Put;
        next
    }

    /// Step 5: one PUT per key. Several contents are written side by side; their keys differ, so
    /// the order in which they are asked for here is all the same.
    fn put(&self, state: &State, upload: usize, steps: &mut Steps<'_>) {
        let process = &state.processes[upload];
        let Some(content) = process.todo.first() else {
            return;
        };
        let own = self.layout.generation(upload, process.round - 1, content);
        let key = self.key_of(own) as usize;
        let after = |answered: bool| {
            let mut next = *state;
            let process = &mut next.processes[upload];
            process.todo = process.todo.without(content);
            if !answered {
                process.lost = process.lost.with(content);
            }
            if process.todo.is_empty() {
                let all_written = process.lost.is_empty();
                process.next = if all_written {
                    Next::Transact
                } else {
                    Next::Release
                };
            }
            next
        };
        let stored = |mut next: State| {
            next.objects = next.objects.with(key);
            next.spoiled = next.spoiled.without(key);
            next
        };
        let about = upload as u8;
        steps.hazard(Who::Upload, "PUT is refused", about, after(false));
        if state.expired.has(own) && !self.config.puts_late() {
            return;
        }
        steps.progress(Who::Upload, "PUT", about, stored(after(true)));
        steps.hazard(
            Who::Upload,
            "PUT is stored and times out",
            about,
            stored(after(false)),
        );
        let mut late = after(false);
        late.puts = late.puts.with(key);
        steps.hazard(Who::Upload, "PUT times out, may land late", about, late);
        if self.config.first_model_put || !self.config.has(Rule::OnePut) {
            let mut twice = stored(after(true));
            twice.puts = twice.puts.with(key);
            steps.hazard(
                Who::Upload,
                "PUT, an earlier attempt in flight",
                about,
                twice,
            );
        }
        if !self.config.has(Rule::VerifiedBytes) {
            let mut wrong = stored(after(true));
            wrong.spoiled = wrong.spoiled.with(key);
            steps.hazard(Who::Upload, "PUT of damaged bytes is taken", about, wrong);
        }
    }

    /// Gives a generation up, whatever became of its PUT (rule R8): `pending` becomes `deleting`;
    /// a row that was reaped meanwhile is inserted again as `deleting`, with a `put_deadline` of
    /// its own, because the PUT may have landed after the reaper's DELETE. A row that was committed
    /// after all is left alone, and so is a key that a heal has moved to another row: there the
    /// unique index on `s3_key` refuses the insert (rule R5).
    fn release(&self, state: &State, upload: usize, steps: &mut Steps<'_>) {
        let process = &state.processes[upload];
        let Some(content) = process.lost.first() else {
            return;
        };
        let own = self
            .layout
            .generation(upload, process.own[content] - 1, content);
        let forget = |mut next: State| {
            let process = &mut next.processes[upload];
            process.own[content] = 0;
            process.lost = process.lost.without(content);
            if process.lost.is_empty() {
                match process.next {
                    Next::GiveUp => next.stop(upload, Next::Stopped),
                    _ => process.next = Next::Transact,
                }
            }
            next
        };
        let key = self.key_of(own);
        let given_up = self.transaction(state, |next| match next.db.rows[own].state {
            RowState::Pending => next.db.rows[own].state = RowState::Deleting,
            RowState::Absent if self.reinserts(&next.db.keys(), key) => {
                next.db.rows[own] = Row {
                    state: RowState::Deleting,
                    key,
                    ..Row::default()
                };
                next.expired = next.expired.without(own);
            }
            _ => {}
        });
        let about = upload as u8;
        steps.progress(
            Who::Upload,
            "gives its generation up",
            about,
            forget(given_up),
        );
        if self.config.crash {
            // The database did not answer; the lease is left to run out.
            steps.hazard(
                Who::Upload,
                "cannot give its generation up",
                about,
                forget(*state),
            );
        }
    }

    fn reinserts(&self, keys_in_rows: &Set, key: u8) -> bool {
        let announced = self.config.has(Rule::IntentRow) && self.config.has(Rule::Reinsert);
        let unique = !keys_in_rows.has(key as usize)
            || !self.config.has(Rule::UniqueKey)
            || !self.config.has(Rule::KeyPerGeneration);
        announced && unique
    }

    /// The (image id, content) pairs of an upload.
    pub(crate) fn images_of(
        &self,
        upload: usize,
        state: &State,
    ) -> impl Iterator<Item = (usize, usize)> + '_ {
        // Only without R10 is there a second set of ids.
        let renamed = !self.config.has(Rule::StableImageId) && state.processes[upload].note == 1;
        let shift = if renamed { self.layout.images } else { 0 };
        self.layout.files[upload]
            .iter()
            .map(move |(image, content)| (image + shift, *content))
    }
}

fn own_this_round(process: &mut Process) {
    process.round += 1;
    for content in process.todo.iter() {
        process.own[content] = process.round;
    }
}

/// Image row and count, in one transaction (rule R3).
pub(crate) fn attach(next: &mut State, image: usize, row: usize) {
    next.db.images[image] = Image::Live(row as u8);
    next.db.rows[row].count += 1;
    let Row { key, damaged, .. } = next.db.rows[row];
    if next.rotten.has(key as usize) && !damaged {
        // Nobody could know yet that the object is gone.
        next.excused = next.excused.with(image);
    }
}

/// Once a row is healed, its images must be readable again.
pub(crate) fn pardon_no_more(next: &mut State, row: usize) {
    next.excused = next.excused.minus(next.db.images_at(row));
}
