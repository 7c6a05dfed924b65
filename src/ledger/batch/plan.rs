//! The middle of a batch, in memory and without I/O: what each operation does, in their order.

mod release;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use entity::original_images::OriginalState;
use entity::{ContentDigest, ImageId, LeaseToken, OriginalId, images};

use super::look::{Seen, SeenOriginal};
use super::operation::{AcquireReference, CommitUpload, ContentClaim, Operation, Outcome};
use crate::ledger::pending::NewGeneration;
use crate::ledger::usage::UsageChanges;
use crate::seams::{Rule, enforced};
use crate::upload::{ContentRef, Disposition, ImageView, StoredImage, TenantId};

/// The rows to write, and the answers to give once they are committed.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The batch's time.
    pub(super) now: DateTime<Utc>,
    /// One per operation.
    pub(super) outcomes: Vec<Outcome>,
    /// New `pending` rows.
    pub(super) announce: Vec<NewGeneration>,
    /// `pending` rows that become `stored`.
    pub(super) promote: Vec<(OriginalId, LeaseToken)>,
    /// `pending` rows whose content somebody else stored: they become `deleting`.
    pub(super) discard: Vec<OriginalId>,
    /// Damaged rows that take over the object of a pending row.
    pub(super) heal: Vec<Heal>,
    /// New images.
    pub(super) insert: Vec<images::Model>,
    /// Live images that end.
    pub(super) release: Vec<ImageId>,
    /// By how much each count changes; 0 where references came and went.
    pub(super) deltas: BTreeMap<OriginalId, i64>,
    /// (source, event id, answer).
    pub(super) receipts: Vec<(String, String, serde_json::Value)>,
    /// What becomes of the counters.
    pub(super) usage: UsageChanges,
    /// Those of the originals that belong to the scope of all tenants.
    pub(super) shared: HashSet<OriginalId>,
}

/// A damaged stored row and the pending row whose sound object it takes over.
#[derive(Debug)]
pub(super) struct Heal {
    pub(super) damaged: OriginalId,
    pub(super) damaged_key: String,
    pub(super) sound: OriginalId,
    pub(super) sound_key: String,
}

/// Why what was seen cannot be planned on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// An original changed between the look at an image and the original's lock.
    Changed,
    /// The count of this original would fall below 0: images were deleted between the look at them
    /// and the original's lock, or the count is wrong.
    BelowZero(OriginalId),
}

/// Plans the operations in their order, each on what the earlier ones leave behind.
///
/// # Errors
/// See [`Refusal`].
pub(super) fn plan(
    operations: &[Operation],
    seen: Seen,
    grace_period: Duration,
) -> Result<Plan, Refusal> {
    let mut planner = Planner::new(seen, grace_period);
    for operation in operations {
        let outcome = match operation {
            Operation::Upload(upload) => planner.upload(upload),
            Operation::Reference(reference) => planner.reference(reference),
            Operation::Release(release) => planner.release(release)?,
        };
        planner.plan.outcomes.push(outcome);
    }
    Ok(planner.plan)
}

type ContentKey = (String, ContentDigest, i64);

/// How a content that is there can be attached to.
#[derive(Clone, Copy)]
enum Standing {
    /// A sound stored row.
    Stored(OriginalId),
    /// The caller's own pending row, to be promoted.
    Own(OriginalId),
    /// A damaged stored row, and the caller's own pending row to heal it with.
    Damaged { stored: OriginalId, own: OriginalId },
}

struct Planner {
    /// Kept up to date as if each planned operation had happened.
    seen: Seen,
    stored: HashMap<ContentKey, OriginalId>,
    /// Contents that uploads of this batch are about to write.
    announced: HashSet<ContentKey>,
    grace_period: TimeDelta,
    plan: Plan,
}

impl Planner {
    fn new(seen: Seen, grace_period: Duration) -> Self {
        let stored = seen
            .originals
            .values()
            .filter(|row| row.state == OriginalState::Stored)
            .map(|row| (key_of(row), row.id))
            .collect();
        let shared = seen.originals.values().filter(|row| row.scope.is_empty());
        let plan = Plan {
            now: seen.now,
            shared: shared.map(|row| row.id).collect(),
            ..Plan::default()
        };
        let grace_period = TimeDelta::from_std(grace_period).unwrap_or(TimeDelta::MAX);
        Self {
            seen,
            stored,
            announced: HashSet::new(),
            grace_period,
            plan,
        }
    }

    fn upload(&mut self, upload: &CommitUpload) -> Outcome {
        let ids: Vec<ImageId> = upload.images.iter().map(|image| image.id).collect();
        let digest_of = |index: usize| upload.contents[upload.images[index].content].digest;
        match self.earlier(&ids, upload.must_not_exist, |index, image| {
            image.content_hash == Some(digest_of(index))
        }) {
            Earlier::None => {}
            Earlier::Other => return Outcome::IdempotencyKeyReused,
            Earlier::Same(images) => {
                for claim in &upload.contents {
                    if let Some(own) = self.own_row(claim) {
                        self.discard(own);
                    }
                }
                return Outcome::Attached {
                    images,
                    replayed: true,
                };
            }
        }
        // A row of the caller's own that is gone must be given up before anything is attached: its
        // object may have landed after the reaper's DELETE (rule R8).
        let lost = self.lost_claims(upload);
        if !lost.is_empty() && enforced(Rule::LostRowBeforeAttach) {
            return Outcome::Missing {
                contents: lost,
                announced: false,
            };
        }
        let standings: Vec<Option<Standing>> = upload
            .contents
            .iter()
            .map(|claim| self.standing(&upload.scope, claim))
            .collect();
        let missing: Vec<usize> = (0..standings.len())
            .filter(|i| standings[*i].is_none())
            .collect();
        if !missing.is_empty() {
            let announced = self.announce(upload, &missing);
            return Outcome::Missing {
                contents: missing,
                announced,
            };
        }
        let mut targets: Vec<(OriginalId, Disposition)> = standings
            .into_iter()
            .flatten()
            .zip(&upload.contents)
            .map(|(standing, claim)| self.take(standing, claim))
            .collect();
        let images = upload
            .images
            .iter()
            .map(|image| {
                let (original, first) = &mut targets[image.content];
                // The second image of one request on one content met bytes already stored.
                let disposition = std::mem::replace(first, Disposition::Hit);
                let (original, new) = (
                    *original,
                    New {
                        id: image.id,
                        tenant: &upload.tenant,
                        filename: image.filename.clone(),
                        mime_type: image.mime_type.clone(),
                        metadata: image.metadata.clone(),
                    },
                );
                self.attach(new, original, disposition)
            })
            .collect();
        Outcome::Attached {
            images,
            replayed: false,
        }
    }

    fn reference(&mut self, reference: &AcquireReference) -> Outcome {
        let same_content = |image: &images::Model| match reference.content {
            ContentRef::Digest(digest) => image.content_hash == Some(digest),
            ContentRef::Original(id) => {
                image.original_image_id == Some(id) || image.was_original_id == Some(id)
            }
        };
        let ids = [reference.image];
        match self.earlier(&ids, reference.must_not_exist, |_, image| {
            same_content(image)
        }) {
            Earlier::None => {}
            Earlier::Other => return Outcome::IdempotencyKeyReused,
            Earlier::Same(images) => {
                return Outcome::Attached {
                    images,
                    replayed: true,
                };
            }
        }
        let Some(original) = self.held_original(reference) else {
            return Outcome::UnknownContent;
        };
        let new = New {
            id: reference.image,
            tenant: &reference.tenant,
            filename: reference.filename.clone(),
            mime_type: self.seen.originals[&original].mime_type.clone(),
            metadata: reference.metadata.clone(),
        };
        let image = self.attach(new, original, Disposition::Hit);
        Outcome::Attached {
            images: vec![image],
            replayed: false,
        }
    }

    /// What the database already has under these image ids.
    fn earlier(
        &self,
        ids: &[ImageId],
        must_not_exist: Option<ImageId>,
        same_content: impl Fn(usize, &images::Model) -> bool,
    ) -> Earlier {
        let found: Vec<Option<&images::Model>> =
            ids.iter().map(|id| self.seen.images.get(id)).collect();
        let more = must_not_exist.is_some_and(|id| self.seen.images.contains_key(&id));
        if !more && found.iter().all(Option::is_none) {
            return Earlier::None;
        }
        let same = found
            .iter()
            .enumerate()
            .all(|(index, image)| image.is_some_and(|image| same_content(index, image)));
        if more || !same {
            return Earlier::Other;
        }
        Earlier::Same(
            found
                .into_iter()
                .flatten()
                .map(|image| StoredImage {
                    view: self.view(image),
                    disposition: match image.deduplicated {
                        true => Disposition::Hit,
                        false => Disposition::Miss,
                    },
                })
                .collect(),
        )
    }

    fn standing(&self, scope: &str, claim: &ContentClaim) -> Option<Standing> {
        let key = (scope.to_owned(), claim.digest, claim.file_size);
        let own = self.own_row(claim);
        match self.stored.get(&key) {
            Some(id)
                if self.seen.originals[id].damaged_at.is_none()
                    || !enforced(Rule::DamagedIsMissing) =>
            {
                Some(Standing::Stored(*id))
            }
            Some(id) => own.map(|own| Standing::Damaged { stored: *id, own }),
            None => own.map(Standing::Own),
        }
    }

    /// Announces all of these contents, or none: none where another upload of this batch announces one
    /// of them, since its bytes are about to come.
    fn announce(&mut self, upload: &CommitUpload, missing: &[usize]) -> bool {
        let intents: Vec<&NewGeneration> = missing
            .iter()
            .filter_map(|index| upload.intents.get(*index))
            .collect();
        let taken = |intent: &&NewGeneration| self.announced.contains(&content_of(intent));
        if intents.len() < missing.len() || intents.iter().any(taken) {
            return false;
        }
        // A run whose outcome is unknown may have announced them.
        let (there, new): (Vec<_>, Vec<_>) = intents
            .into_iter()
            .partition(|intent| self.seen.originals.contains_key(&intent.id));
        let still_ours = |intent: &&NewGeneration| {
            let row = &self.seen.originals[&intent.id];
            row.state == OriginalState::Pending && row.lease_token == Some(intent.lease_token)
        };
        if !there.iter().all(still_ours) {
            return false;
        }
        self.announced
            .extend(there.iter().chain(&new).map(|intent| content_of(intent)));
        self.plan.announce.extend(new.into_iter().cloned());
        true
    }

    /// Contents that the caller wrote under a row that is no longer its own.
    fn lost_claims(&self, upload: &CommitUpload) -> Vec<usize> {
        let claims = upload.contents.iter().enumerate();
        claims
            .filter(|(_, claim)| claim.own.is_some() && self.own_row(claim).is_none())
            .map(|(index, _)| index)
            .collect()
    }

    /// The caller's pending row, if it still is one and still the caller's.
    fn own_row(&self, claim: &ContentClaim) -> Option<OriginalId> {
        let (id, token) = claim.own?;
        let row = self.seen.originals.get(&id)?;
        let ours = match enforced(Rule::RowDecides) {
            true => row.state == OriginalState::Pending,
            false => row.state != OriginalState::Stored,
        };
        (ours && row.lease_token == Some(token)).then_some(id)
    }

    /// Settles on the row that a content's images will point at.
    fn take(&mut self, standing: Standing, claim: &ContentClaim) -> (OriginalId, Disposition) {
        match standing {
            Standing::Stored(id) => {
                if let Some(own) = self.own_row(claim) {
                    self.discard(own);
                }
                let resurrected = self.seen.originals[&id].reference_count == 0;
                let disposition = if resurrected {
                    Disposition::Resurrected
                } else {
                    Disposition::Hit
                };
                (id, disposition)
            }
            Standing::Own(own) => {
                let row = self.row(own);
                row.state = OriginalState::Stored;
                let key = key_of(row);
                let token = row.lease_token.take();
                self.plan.promote.extend(token.map(|token| (own, token)));
                self.plan.usage.original_stored(&key.0, key.2);
                self.stored.insert(key, own);
                (own, Disposition::Miss)
            }
            Standing::Damaged { stored, own } => {
                let damaged_key = self.seen.originals[&stored].s3_key.clone();
                let sound_key = std::mem::replace(&mut self.row(own).s3_key, damaged_key.clone());
                self.row(own).state = OriginalState::Deleting;
                self.row(stored).s3_key.clone_from(&sound_key);
                self.row(stored).damaged_at = None;
                self.plan.heal.push(Heal {
                    damaged: stored,
                    damaged_key,
                    sound: own,
                    sound_key,
                });
                (stored, Disposition::Repaired)
            }
        }
    }

    fn attach(&mut self, new: New, original: OriginalId, disposition: Disposition) -> StoredImage {
        *self.plan.deltas.entry(original).or_default() += 1;
        let now = self.plan.now;
        let row = self.row(original);
        row.reference_count += 1;
        let row = &self.seen.originals[&original];
        let count = row.reference_count;
        self.plan.usage.recounted(&row.scope, count - 1, count);
        self.plan
            .usage
            .image_created(new.tenant.as_str(), Some(row.file_size));
        let image = images::Model {
            id: new.id,
            tenant: new.tenant.to_string(),
            original_image_id: Some(original),
            was_original_id: None,
            content_hash: Some(row.content_hash),
            file_size: Some(row.file_size),
            original_url: None,
            legacy: false,
            filename: new.filename,
            mime_type: new.mime_type,
            metadata: new.metadata,
            deduplicated: disposition.deduplicated(),
            created_at: now,
            deleted_at: None,
        };
        let view = self.view(&image);
        self.plan.insert.push(image.clone());
        // A second request with the same Idempotency-Key in this very batch finds it here.
        self.seen.images.insert(image.id, image);
        StoredImage { view, disposition }
    }

    /// The stored original that a reference means, if the tenant has a live image of it.
    fn held_original(&self, reference: &AcquireReference) -> Option<OriginalId> {
        let named = self.seen.originals.values().find(|row| {
            row.state == OriginalState::Stored
                && row.scope == reference.scope
                && match reference.content {
                    ContentRef::Digest(digest) => row.content_hash == digest,
                    ContentRef::Original(id) => row.id == id,
                }
        })?;
        let held = match named.scope.is_empty() {
            // In a scope of the tenant's own, every reference is the tenant's.
            false => named.reference_count > 0,
            true => self
                .seen
                .held
                .contains(&(reference.tenant.to_string(), named.id)),
        };
        (held && named.damaged_at.is_none()).then_some(named.id)
    }

    fn discard(&mut self, own: OriginalId) {
        self.row(own).state = OriginalState::Deleting;
        self.plan.discard.push(own);
    }

    fn view(&self, image: &images::Model) -> ImageView {
        let original = image.original_image_id.or(image.was_original_id);
        let original = original.and_then(|id| self.seen.originals.get(&id));
        ImageView {
            width: original.and_then(|row| row.width),
            height: original.and_then(|row| row.height),
            s3_key: original.map(|row| row.s3_key.clone()),
            image: image.clone(),
        }
    }

    fn row(&mut self, id: OriginalId) -> &mut SeenOriginal {
        self.seen
            .originals
            .get_mut(&id)
            .expect("callers pass ids they found in this map")
    }
}

/// What an image to be is made of.
struct New<'a> {
    id: ImageId,
    tenant: &'a TenantId,
    filename: Option<String>,
    mime_type: Option<String>,
    metadata: Option<serde_json::Value>,
}

enum Earlier {
    /// Nothing: the ids are new.
    None,
    /// The same images.
    Same(Vec<StoredImage>),
    /// Images of other content, or more or fewer of them.
    Other,
}

fn key_of(row: &SeenOriginal) -> ContentKey {
    (row.scope.clone(), row.content_hash, row.file_size)
}

fn content_of(intent: &NewGeneration) -> ContentKey {
    (intent.scope.clone(), intent.digest, intent.file_size)
}

#[cfg(test)]
mod tests;
