//! Hashing a state, some hundred million times in the long runs: packed into a few words instead of
//! field by field, which takes several times as long.

use std::hash::{Hash, Hasher};

use crate::state::{Db, Image, Process, Row, Scrub, Set, State};

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hash_db(&self.db, hasher);
        hash_db(&self.replica, hasher);
        let sets = [
            self.objects,
            self.spoiled,
            self.rotten,
            self.puts,
            self.deletes,
            self.expired,
            self.gone,
            self.seen_zero,
        ];
        hasher.write_u64(u64::from_le_bytes(sets.map(|Set(bits)| bits)));
        let (scrub, scrubbed) = match self.scrub {
            Scrub::Idle => (0, Set::default()),
            Scrub::First(set) => (1, set),
            Scrub::Strays(set) => (2, set),
        };
        let rest = [
            self.acked.0,
            self.excused.0,
            self.failovers,
            self.damages,
            scrub,
            scrubbed.0,
            0,
            0,
        ];
        hasher.write_u64(u64::from_le_bytes(rest));
        for process in &self.processes {
            hasher.write_u64(pack_process(process));
        }
    }
}

fn hash_db<H: Hasher>(db: &Db, hasher: &mut H) {
    for rows in db.rows.chunks(4) {
        let packed = rows
            .iter()
            .fold(0, |packed, row| packed << 16 | u64::from(pack_row(*row)));
        hasher.write_u64(packed);
    }
    let packed = db
        .images
        .iter()
        .fold(0, |packed, image| packed << 8 | pack_image(*image));
    hasher.write_u64(packed);
}

fn pack_row(row: Row) -> u16 {
    let count = u16::from(row.count.cast_unsigned() & 0x1f);
    (row.state as u16) << 14 | count << 8 | u16::from(row.key) << 1 | u16::from(row.damaged)
}

fn pack_image(image: Image) -> u64 {
    match image {
        Image::Absent => 0,
        Image::Deleted => 1,
        Image::Live(row) => 2 + u64::from(row),
    }
}

fn pack_process(process: &Process) -> u64 {
    let Process {
        next,
        round,
        own,
        todo,
        lost,
        note,
    } = process;
    u64::from_le_bytes([
        *next as u8,
        *round,
        own[0],
        own[1],
        todo.0,
        lost.0,
        *note,
        0,
    ])
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::*;
    use crate::state::{Next, RowState};

    fn hash(state: &State) -> u64 {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn every_field_counts() {
        let changes: [fn(&mut State); 22] = [
            |_| {},
            |state| state.db.rows[7].state = RowState::Pending,
            |state| state.db.rows[3].count = 1,
            |state| state.db.rows[3].count = -1,
            |state| state.db.rows[4].key = 7,
            |state| state.db.rows[4].damaged = true,
            |state| state.db.images[5] = Image::Live(0),
            |state| state.db.images[5] = Image::Deleted,
            |state| state.replica.rows[7].state = RowState::Pending,
            |state| state.objects = Set(1),
            |state| state.spoiled = Set(1),
            |state| state.puts = Set(1),
            |state| state.expired = Set(1),
            |state| state.gone = Set(1),
            |state| state.acked = Set(1),
            |state| state.excused = Set(1),
            |state| state.scrub = Scrub::First(Set(1)),
            |state| state.scrub = Scrub::Strays(Set(1)),
            |state| state.processes[5].next = Next::Done,
            |state| state.processes[0].own[1] = 2,
            |state| state.processes[0].lost = Set(2),
            |state| state.processes[0].note = 1,
        ];
        let mut hashes: Vec<u64> = changes
            .iter()
            .map(|change| {
                let mut state = State::default();
                change(&mut state);
                hash(&state)
            })
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), changes.len());
    }
}
