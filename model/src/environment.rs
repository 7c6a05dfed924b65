//! What happens without anybody wanting it: late requests, time, failover, decay.

use crate::config::{MAX_GENERATIONS, Rule};
use crate::protocol::{Protocol, Steps};
use crate::state::{RowState, State, Who};

impl Protocol {
    pub(crate) fn environment_steps(&self, state: &State, steps: &mut Steps<'_>) {
        late_requests(state, steps);
        time(state, steps);
        if self.config.failovers > 0 && state.replica != state.db {
            replication(state, steps);
        }
        if self.config.damages > 0 {
            self.decay(state, steps);
        }
    }

    /// The store loses or spoils a stored object by itself; a reader or `verify` notices, and marks the
    /// row if it still has the same key (a failed read marks nothing).
    fn decay(&self, state: &State, steps: &mut Steps<'_>) {
        for row in state.db.in_state(RowState::Stored) {
            let at = &state.db.rows[row];
            let key = at.key as usize;
            let sound = state.objects.has(key) && !state.spoiled.has(key);
            if let Some(damages) = state.damages.checked_sub(1)
                && sound
            {
                let mut lost = State { damages, ..*state };
                lost.rotten = lost.rotten.with(key);
                lost.excused = lost.excused.with_all(state.db.images_at(row));
                let mut spoiled = lost;
                lost.objects = lost.objects.without(key);
                spoiled.spoiled = spoiled.spoiled.with(key);
                steps.hazard(Who::Store, "loses an object", key as u8, lost);
                steps.hazard(Who::Store, "spoils an object", key as u8, spoiled);
            }
            if state.rotten.has(key) && !at.damaged {
                let next = self.transaction(state, |next| next.db.rows[row].damaged = true);
                steps.hazard(Who::Reader, "marks the row damaged", row as u8, next);
            }
        }
    }

    /// The key of a generation: its own (rule R1).
    pub(crate) fn key_of(&self, generation: usize) -> u8 {
        match self.config.has(Rule::KeyPerGeneration) {
            true => generation as u8,
            false => self.layout.content_of[generation] as u8,
        }
    }
}

/// A PUT or DELETE that timed out lands, or never will.
fn late_requests(state: &State, steps: &mut Steps<'_>) {
    for key in state.puts.iter() {
        let mut dies = *state;
        dies.puts = dies.puts.without(key);
        let mut lands = dies;
        lands.objects = lands.objects.with(key);
        steps.progress(Who::Store, "late PUT lands", key as u8, lands);
        steps.progress(Who::Store, "late PUT dies", key as u8, dies);
    }
    for key in state.deletes.iter() {
        let mut dies = *state;
        dies.deletes = dies.deletes.without(key);
        let mut lands = dies;
        lands.objects = lands.objects.without(key);
        steps.progress(Who::Store, "late DELETE lands", key as u8, lands);
        steps.progress(Who::Store, "late DELETE dies", key as u8, dies);
    }
}

/// `put_deadline` passes: it is chosen so that no PUT for the key is in flight by then.
fn time(state: &State, steps: &mut Steps<'_>) {
    for row in 0..MAX_GENERATIONS {
        let at = &state.db.rows[row];
        let in_flight = state.puts.has(at.key as usize);
        if at.state != RowState::Absent && !in_flight && !state.expired.has(row) {
            let mut next = *state;
            next.expired = next.expired.with(row);
            steps.progress(Who::Clock, "put_deadline passes", row as u8, next);
        }
    }
}

/// An asynchronous replica is one transaction behind, or none; a failover to it loses that one.
fn replication(state: &State, steps: &mut Steps<'_>) {
    let caught_up = State {
        replica: state.db,
        ..*state
    };
    steps.progress(Who::Database, "replica catches up", 0, caught_up);
    if let Some(failovers) = state.failovers.checked_sub(1) {
        let mut failed_over = State {
            db: state.replica,
            failovers,
            ..*state
        };
        // A deletion or a heal that was lost brings back what the store had lost before.
        for row in state.replica.in_state(RowState::Stored) {
            if state.rotten.has(state.replica.rows[row].key as usize) {
                failed_over.excused = failed_over.excused.with_all(state.replica.images_at(row));
            }
        }
        steps.hazard(
            Who::Database,
            "fails over, last transaction lost",
            0,
            failed_over,
        );
    }
}
