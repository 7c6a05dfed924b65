//! The usage counters, counted again from the rows they count.

use std::collections::{BTreeMap, BTreeSet};

use entity::original_images::OriginalState;
use entity::{images, original_images, usage_counters};

/// Images, their bytes, originals, their bytes, originals without a reference.
type Numbers = [i64; 5];

/// A line for every owner whose counters say something else than the rows.
pub(super) fn wrong_counters(
    originals: &[original_images::Model],
    images: &[images::Model],
    counters: &[usage_counters::Model],
) -> Vec<String> {
    let mut truth: BTreeMap<&str, Numbers> = BTreeMap::new();
    let mut counted: BTreeMap<&str, Numbers> = BTreeMap::new();
    let add = |owner, numbers: Numbers, to: &mut BTreeMap<_, Numbers>| {
        let sums = to.entry(owner).or_default();
        sums.iter_mut()
            .zip(numbers)
            .for_each(|(sum, number)| *sum += number);
    };
    for image in images.iter().filter(|image| image.deleted_at.is_none()) {
        let numbers = [1, image.file_size.unwrap_or(0), 0, 0, 0];
        add(image.tenant.as_str(), numbers, &mut truth);
    }
    let stored = |row: &&original_images::Model| row.state == OriginalState::Stored;
    for row in originals.iter().filter(stored) {
        let orphaned = i64::from(row.reference_count == 0);
        add(
            row.scope.as_str(),
            [0, 0, 1, row.file_size, orphaned],
            &mut truth,
        );
    }
    for row in counters {
        let numbers = [
            row.images,
            row.logical_bytes,
            row.originals,
            row.stored_bytes,
            row.orphaned,
        ];
        add(row.owner.as_str(), numbers, &mut counted);
    }
    let owners: BTreeSet<&str> = truth.keys().chain(counted.keys()).copied().collect();
    let of =
        |numbers: &BTreeMap<&str, Numbers>, owner| numbers.get(owner).copied().unwrap_or_default();
    owners
        .into_iter()
        .map(|owner| (owner, of(&counted, owner), of(&truth, owner)))
        .filter(|(_, counted, truth)| counted != truth)
        .map(|(owner, counted, truth)| {
            format!("the counters of {owner:?} say {counted:?}, the rows {truth:?}")
        })
        .collect()
}
