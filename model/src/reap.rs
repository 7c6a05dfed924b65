//! The reapers and the scrub.

use crate::config::{MAX_GENERATIONS, Rule};
use crate::protocol::{Protocol, Steps};
use crate::state::{Row, RowState, Scrub, Set, State, Who};

impl Protocol {
    /// Section 5, Reapers. Any number of them on any number of nodes: every step is one that any
    /// of them may take at any moment, and what one remembers (`gone`) is as good as what all do.
    pub(crate) fn reaper_steps(&self, state: &State, steps: &mut Steps<'_>) {
        for row in 0..MAX_GENERATIONS {
            match state.db.rows[row].state {
                RowState::Absent => {}
                // A lease runs out at any moment: time never decides who is right (rule R7).
                RowState::Pending => {
                    let next = self.condemn(state, row);
                    steps.progress(Who::Reaper, "lease ran out, condemns", row as u8, next);
                }
                RowState::Stored => self.claim(state, row, steps),
                RowState::Deleting => self.purge(state, row, steps),
            }
        }
        if self.config.crash && !state.gone.is_empty() {
            let mut next = *state;
            next.gone = Set::default();
            steps.hazard(Who::Reaper, "crashes", 0, next);
        }
    }

    fn condemn(&self, state: &State, row: usize) -> State {
        self.transaction(state, |next| next.db.rows[row].state = RowState::Deleting)
    }

    /// `stored` with count 0 → `deleting`, in one conditional statement (rule R4).
    fn claim(&self, state: &State, row: usize, steps: &mut Steps<'_>) {
        let unreferenced = state.db.rows[row].count == 0;
        let about = row as u8;
        if self.config.has(Rule::ConditionalClaim) {
            if unreferenced {
                steps.progress(
                    Who::Reaper,
                    "claims at count 0",
                    about,
                    self.condemn(state, row),
                );
            }
        } else if state.seen_zero.has(row) {
            let mut next = self.condemn(state, row);
            next.seen_zero = next.seen_zero.without(row);
            steps.progress(Who::Reaper, "claims what it read", about, next);
        } else if unreferenced {
            let mut next = *state;
            next.seen_zero = next.seen_zero.with(row);
            steps.progress(Who::Reaper, "reads count 0", about, next);
        }
    }

    /// `deleting`: S3 DELETE once the claim is durable (rule R9); then the row, if the DELETE began
    /// past `put_deadline` (rule R8).
    fn purge(&self, state: &State, row: usize, steps: &mut Steps<'_>) {
        let about = row as u8;
        if state.gone.has(row) {
            let mut next = self.transaction(state, |next| next.db.rows[row] = Row::default());
            next.gone = next.gone.without(row);
            steps.progress(Who::Reaper, "removes the row", about, next);
        }
        let first = state.db.in_state(RowState::Deleting).next() == Some(row);
        let its_turn = first || self.config.has(Rule::PastPoison);
        if !self.is_durable(state, row) || self.config.poison == Some(about) || !its_turn {
            return;
        }
        let key = state.db.rows[row].key as usize;
        let mut deleted = *state;
        deleted.objects = deleted.objects.without(key);
        if state.expired.has(row) || !self.config.has(Rule::PutDeadline) {
            deleted.gone = deleted.gone.with(row);
        }
        steps.progress(Who::Reaper, "S3 DELETE", about, deleted);
        let mut late = *state;
        late.deletes = late.deletes.with(key);
        steps.hazard(
            Who::Reaper,
            "S3 DELETE times out, may land late",
            about,
            late,
        );
    }

    fn is_durable(&self, state: &State, row: usize) -> bool {
        self.config.failovers == 0
            || !self.config.has(Rule::DurableClaim)
            || state.replica.rows[row] == state.db.rows[row]
    }

    /// Rule R12: LIST, then SELECT on the primary; what no row names goes, after one more look at
    /// its row.
    pub(crate) fn scrub_steps(&self, state: &State, steps: &mut Steps<'_>) {
        if !self.config.scrub {
            return;
        }
        let rows = state.db.keys();
        let list_first = self.config.has(Rule::ListFirst);
        let (what, key, objects, scrub) = match state.scrub {
            Scrub::Idle if list_first => (
                "lists the bucket",
                0,
                state.objects,
                Scrub::First(state.objects),
            ),
            Scrub::Idle => ("selects all rows", 0, state.objects, Scrub::First(rows)),
            Scrub::First(listed) if list_first => (
                "selects all rows",
                0,
                state.objects,
                strays_left(listed.minus(rows)),
            ),
            Scrub::First(selected) => {
                let strays = state.objects.minus(selected);
                ("lists the bucket", 0, state.objects, strays_left(strays))
            }
            Scrub::Strays(strays) => {
                let Some(key) = strays.first() else { return };
                let keeps = list_first && rows.has(key);
                let objects = if keeps {
                    state.objects
                } else {
                    state.objects.without(key)
                };
                (
                    "deletes a stray",
                    key as u8,
                    objects,
                    strays_left(strays.without(key)),
                )
            }
        };
        // A scrub that finds nothing runs for ever; that is no progress.
        let there_are_strays = !state.objects.minus(rows).is_empty();
        let next = State {
            scrub,
            objects,
            ..*state
        };
        steps.push(Who::Scrub, what, key, there_are_strays, next);
    }
}

fn strays_left(strays: Set) -> Scrub {
    if strays.is_empty() {
        Scrub::Idle
    } else {
        Scrub::Strays(strays)
    }
}
