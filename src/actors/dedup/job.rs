//! One upload on its way through the resolver.

use entity::{ImageId, LeaseToken, OriginalId};
use uuid::Uuid;

use super::flights::ContentKey;
use crate::ledger::batch::{CommitUpload, ContentClaim, NewImage, Operation, Outcome};
use crate::ledger::pending::NewGeneration;
use crate::seams::{Rule, enforced};
use crate::spool::SpooledBody;
use crate::upload::{Disposition, HashedUpload, TenantId};

/// Names Hapax in derived image ids; drawn once at random.
const IDEMPOTENCY_NAMESPACE: Uuid = Uuid::from_u128(0x5f0d_9c1e_7b1a_4d52_9a37_3f6c_2f84_e1b6);

/// An upload: its distinct contents, and the images that are to point at them.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) tenant: TenantId,
    pub(super) scope: String,
    pub(super) contents: Vec<Content>,
    images: Vec<NewImage>,
    must_not_exist: Option<ImageId>,
}

/// One distinct content of an upload.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) key: ContentKey,
    pub(super) mime_type: Option<String>,
    pub(super) dimensions: Option<(i32, i32)>,
    pub(super) body: SpooledBody,
    /// The generation under which this upload wrote the bytes, durable.
    pub(super) written: Option<NewGeneration>,
}

impl Job {
    pub(super) fn new(upload: HashedUpload, scope: String) -> Self {
        let ids = ImageIds::new(&upload.tenant, upload.idempotency_key.as_deref());
        let mut contents: Vec<Content> = Vec::new();
        let mut images = Vec::with_capacity(upload.files.len());
        for (index, file) in upload.files.into_iter().enumerate() {
            // Lengths come from files that fit on a disk.
            let file_size = i64::try_from(file.file_size).unwrap_or(i64::MAX);
            let key = (scope.clone(), file.digest, file_size);
            let known = contents.iter().position(|content| content.key == key);
            images.push(NewImage {
                id: ids.get(index),
                content: known.unwrap_or(contents.len()),
                filename: file.filename,
                mime_type: file.mime_type.clone(),
                metadata: upload.metadata.clone(),
            });
            if known.is_none() {
                contents.push(Content {
                    key,
                    mime_type: file.mime_type,
                    dimensions: file.dimensions.and_then(pixels),
                    body: file.body,
                    written: None,
                });
            }
        }
        let must_not_exist = ids.after_the_last(images.len());
        Self {
            tenant: upload.tenant,
            scope,
            contents,
            images,
            must_not_exist,
        }
    }

    pub(super) fn keys(&self) -> Vec<ContentKey> {
        self.contents
            .iter()
            .map(|content| content.key.clone())
            .collect()
    }

    /// The content of each image.
    pub(super) fn image_contents(&self) -> impl Iterator<Item = &Content> {
        self.images
            .iter()
            .map(|image| &self.contents[image.content])
    }

    /// Whether a row of this upload's own, or a damaged object, now waits for the reaper: it wrote
    /// what somebody else had stored, or what was stored was damaged.
    pub(super) fn leaves_rows_behind(&self, outcome: &Outcome) -> bool {
        let Outcome::Attached { images, .. } = outcome else {
            return false;
        };
        let wrote = self
            .contents
            .iter()
            .any(|content| content.written.is_some());
        let all_new = images
            .iter()
            .all(|image| image.disposition == Disposition::Miss);
        wrote && !all_new
    }

    /// Attach to what is stored, commit what this upload wrote, announce what is missing.
    pub(super) fn operation(&self, intents: Vec<NewGeneration>) -> Operation {
        let contents = self
            .contents
            .iter()
            .map(|content| ContentClaim {
                digest: content.key.1,
                file_size: content.key.2,
                own: content
                    .written
                    .as_ref()
                    .map(|own| (own.id, own.lease_token)),
            })
            .collect();
        Operation::Upload(CommitUpload {
            tenant: self.tenant.clone(),
            scope: self.scope.clone(),
            contents,
            intents,
            images: self.images.clone(),
            must_not_exist: self.must_not_exist,
        })
    }
}

impl Content {
    /// A generation of this content that has never been.
    pub(super) fn new_generation(
        &self,
        s3_key: impl FnOnce(OriginalId) -> String,
        lease: std::time::Duration,
        put_deadline: std::time::Duration,
    ) -> NewGeneration {
        let (scope, digest, file_size) = self.key.clone();
        // Time-ordered ids keep the primary key's index dense.
        let id = OriginalId(Uuid::now_v7());
        let named = if enforced(Rule::KeyPerGeneration) {
            id
        } else {
            OriginalId(Uuid::nil())
        };
        NewGeneration {
            id,
            lease_token: LeaseToken(Uuid::new_v4()),
            scope,
            digest,
            file_size,
            s3_key: s3_key(named),
            mime_type: self.mime_type.clone(),
            dimensions: self.dimensions,
            lease,
            put_deadline,
        }
    }
}

fn pixels((width, height): (u32, u32)) -> Option<(i32, i32)> {
    Some((i32::try_from(width).ok()?, i32::try_from(height).ok()?))
}

/// The image ids of one request, chosen before its commit (rule R10): derived from tenant and
/// `Idempotency-Key` where the client sent one, else new.
#[derive(Debug)]
pub(crate) struct ImageIds {
    seed: Option<String>,
}

impl ImageIds {
    pub(crate) fn new(tenant: &TenantId, idempotency_key: Option<&str>) -> Self {
        // Neither part can hold a NUL, so no two pairs make the same seed.
        Self {
            seed: idempotency_key
                .filter(|_| enforced(Rule::IdsFromKey))
                .map(|key| format!("{tenant}\0{key}")),
        }
    }

    /// The id of the request's image number `index`.
    pub(crate) fn get(&self, index: usize) -> ImageId {
        ImageId(match &self.seed {
            Some(seed) => Uuid::new_v5(
                &IDEMPOTENCY_NAMESPACE,
                format!("{seed}\0{index}").as_bytes(),
            ),
            None => Uuid::now_v7(),
        })
    }

    /// The id that one more image than `count` would have; it exists only if an earlier request
    /// with the same key had more.
    pub(crate) fn after_the_last(&self, count: usize) -> Option<ImageId> {
        self.seed.as_ref().map(|_| self.get(count))
    }
}
