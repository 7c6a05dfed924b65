//! Planning deletions: each image gives up its own reference, once.

use chrono::{DateTime, Utc};
use entity::original_images::OriginalState;
use entity::{ImageId, OriginalId};

use super::{Planner, Refusal};
use crate::ledger::batch::operation::{Outcome, ReleaseImages};
use crate::upload::{DeleteOutcome, OriginalFate, ReleasedImage, ReleasedOriginal, TenantId};

impl Planner {
    pub(super) fn release(&mut self, release: &ReleaseImages) -> Result<Outcome, Refusal> {
        let delivery = release
            .event_id
            .as_ref()
            .map(|event_id| (release.tenant.to_string(), event_id.clone()));
        if let Some(result) = delivery
            .as_ref()
            .and_then(|key| self.seen.receipts.get(key))
        {
            let result = result.clone();
            return Ok(Outcome::Receipt {
                result,
                replayed: true,
                released_last: false,
            });
        }
        let mut released = Vec::with_capacity(release.ids.len());
        for id in &release.ids {
            released.push(self.release_one(&release.tenant, *id)?);
        }
        let Some((source, event_id)) = delivery else {
            return Ok(Outcome::Released(released));
        };
        let result = receipt(&released);
        self.seen
            .receipts
            .insert((source.clone(), event_id.clone()), result.clone());
        self.plan.receipts.push((source, event_id, result.clone()));
        let released_last = released.iter().any(ReleasedImage::released_last);
        Ok(Outcome::Receipt {
            result,
            replayed: false,
            released_last,
        })
    }

    fn release_one(&mut self, tenant: &TenantId, id: ImageId) -> Result<ReleasedImage, Refusal> {
        let now = self.plan.now;
        let Some(image) = self
            .seen
            .images
            .get_mut(&id)
            .filter(|image| image.tenant == tenant.as_str())
        else {
            let outcome = DeleteOutcome::Unknown;
            return Ok(ReleasedImage {
                id,
                outcome,
                deleted_at: None,
                original: None,
            });
        };
        let outcome = match image.deleted_at {
            Some(_) => DeleteOutcome::AlreadyDeleted,
            None => {
                image.deleted_at = Some(now);
                image.was_original_id = image.original_image_id.take();
                self.plan.release.push(id);
                self.plan
                    .usage
                    .image_deleted(tenant.as_str(), image.file_size);
                DeleteOutcome::Deleted
            }
        };
        let (deleted_at, original) = (image.deleted_at, image.was_original_id);
        if let (DeleteOutcome::Deleted, Some(original)) = (outcome, original) {
            self.decrement(original)?;
        }
        let original = original.map(|id| self.released_original(id));
        Ok(ReleasedImage {
            id,
            outcome,
            deleted_at,
            original,
        })
    }

    fn decrement(&mut self, original: OriginalId) -> Result<(), Refusal> {
        let Some(row) = self
            .seen
            .originals
            .get_mut(&original)
            .filter(|row| row.state == OriginalState::Stored)
        else {
            // The image was read before the lock: it was deleted, and its original reaped, meanwhile.
            return Err(Refusal::Changed);
        };
        row.reference_count -= 1;
        if row.reference_count < 0 {
            return Err(Refusal::BelowZero(original));
        }
        *self.plan.deltas.entry(original).or_default() -= 1;
        let count = row.reference_count;
        self.plan.usage.recounted(&row.scope, count + 1, count);
        if row.reference_count == 0 {
            row.zero_since = Some(self.plan.now);
        }
        Ok(())
    }

    fn released_original(&self, id: OriginalId) -> ReleasedOriginal {
        let row = self
            .seen
            .originals
            .get(&id)
            .filter(|row| row.state == OriginalState::Stored);
        let (reference_count, fate) = match row.map(|row| (row.reference_count, row.zero_since)) {
            Some((0, Some(zero_since))) => (0, self.fate_since(zero_since)),
            Some((count, _)) => (count, OriginalFate::Retained),
            None => (0, OriginalFate::Deleting { purge_after: None }),
        };
        ReleasedOriginal {
            id,
            reference_count,
            fate,
        }
    }

    /// What becomes of an original that nobody has referenced since then.
    fn fate_since(&self, zero_since: DateTime<Utc>) -> OriginalFate {
        if self.grace_period.is_zero() {
            return OriginalFate::Deleting {
                purge_after: Some(zero_since),
            };
        }
        let purge_after = zero_since.checked_add_signed(self.grace_period);
        OriginalFate::Scheduled {
            purge_after: purge_after.unwrap_or(DateTime::<Utc>::MAX_UTC),
        }
    }
}

/// The webhook's answer, as it is stored and repeated.
fn receipt(released: &[ReleasedImage]) -> serde_json::Value {
    let results: Vec<serde_json::Value> = released
        .iter()
        .map(|image| serde_json::json!({ "id": image.id.0, "outcome": image.outcome.as_str() }))
        .collect();
    serde_json::json!({ "results": results })
}
