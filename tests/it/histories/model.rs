//! The reference: image id → content, content → count, and what was promised under a key or an event
//! id. It knows nothing of rows, objects or reapers.

use std::collections::{HashMap, HashSet};

use entity::{ImageId, OriginalId};
use hapax::upload::{DeleteOutcome, Disposition};
use serde_json::{Value, json};

/// An image that was acknowledged, or found after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) id: ImageId,
    pub(super) content: usize,
    pub(super) original: OriginalId,
    pub(super) live: bool,
}

/// All that a client may rely on.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    /// In the order in which they came into being.
    pub(super) images: Vec<Image>,
    /// The images that came into being under each `Idempotency-Key`.
    pub(super) requests: HashMap<u8, Vec<ImageId>>,
    /// The answer to each event.
    pub(super) receipts: HashMap<u8, Value>,
    /// Originals that are known to be damaged.
    pub(super) marked: HashSet<OriginalId>,
}

/// What a request for images must come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// So many new images.
    New,
    /// The images of the earlier request with the same key.
    Same(Vec<ImageId>),
    KeyReused,
    UnknownContent,
}

/// What a new reference names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Content(usize),
    Original(OriginalId),
}

/// What became of one image that was to be deleted, and the references its original has left.
pub(super) type Deleted = (ImageId, DeleteOutcome, Option<i64>);

impl Model {
    pub(super) fn image(&self, id: ImageId) -> Option<&Image> {
        self.images.iter().find(|image| image.id == id)
    }

    pub(super) fn count(&self, content: usize) -> i64 {
        self.live().filter(|image| image.content == content).count() as i64
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Image> {
        self.images.iter().filter(|image| image.live)
    }

    /// The original that a content's live images point at.
    pub(super) fn original(&self, content: usize) -> Option<OriginalId> {
        let mut live = self.live().filter(|image| image.content == content);
        live.next().map(|image| image.original)
    }

    fn references(&self, original: OriginalId) -> i64 {
        let pointing = self.live().filter(|image| image.original == original);
        pointing.count() as i64
    }

    pub(super) fn expect_upload(&self, files: &[usize], key: Option<u8>) -> Expected {
        match key.and_then(|key| self.requests.get(&key)) {
            None => Expected::New,
            Some(ids) if self.contents(ids) == files => Expected::Same(ids.clone()),
            Some(_) => Expected::KeyReused,
        }
    }

    pub(super) fn expect_reference(&self, named: Named, key: Option<u8>) -> Expected {
        let names = |image: &Image| match named {
            Named::Content(content) => image.content == content,
            Named::Original(original) => image.original == original,
        };
        if let Some(ids) = key.and_then(|key| self.requests.get(&key)) {
            let first = self.image(ids[0]);
            return match ids.len() == 1 && first.is_some_and(names) {
                true => Expected::Same(ids.clone()),
                false => Expected::KeyReused,
            };
        }
        let held = self
            .live()
            .any(|image| names(image) && !self.marked.contains(&image.original));
        match held {
            true => Expected::New,
            false => Expected::UnknownContent,
        }
    }

    fn contents(&self, ids: &[ImageId]) -> Vec<usize> {
        let images = ids.iter().filter_map(|id| self.image(*id));
        images.map(|image| image.content).collect()
    }

    /// Takes new images in, each with how it met the bytes that were there, where that was told.
    pub(super) fn add(
        &mut self,
        new: &[(Image, Option<Disposition>)],
        key: Option<u8>,
    ) -> Result<(), String> {
        for (image, disposition) in new {
            if self.image(image.id).is_some() {
                return Err(format!("{image:?} was there before"));
            }
            let is_known = self.images.iter().any(|one| one.original == image.original);
            let is_marked = self.marked.contains(&image.original);
            let fits = match (self.original(image.content), disposition) {
                (Some(original), _) if original != image.original => false,
                (_, None) => true,
                (Some(_), Some(Disposition::Hit)) => !is_marked,
                (_, Some(Disposition::Repaired)) => is_known && is_marked,
                (None, Some(Disposition::Resurrected)) => is_known && !is_marked,
                (None, Some(Disposition::Miss)) => !is_known,
                _ => false,
            };
            if !fits {
                return Err(format!("{image:?} met its content as {disposition:?}"));
            }
            self.marked.remove(&image.original);
            self.images.push(*image);
        }
        if let Some(key) = key {
            let ids = new.iter().map(|(image, _)| image.id).collect();
            self.requests.insert(key, ids);
        }
        Ok(())
    }

    /// Deletes images one after the other; what is to be said of each.
    pub(super) fn delete(&mut self, ids: &[ImageId]) -> Vec<Deleted> {
        let mut answers = Vec::new();
        for id in ids {
            let Some(image) = self.images.iter_mut().find(|image| image.id == *id) else {
                answers.push((*id, DeleteOutcome::Unknown, None));
                continue;
            };
            let outcome = match std::mem::replace(&mut image.live, false) {
                true => DeleteOutcome::Deleted,
                false => DeleteOutcome::AlreadyDeleted,
            };
            let original = image.original;
            answers.push((*id, outcome, Some(self.references(original))));
        }
        answers
    }
}

/// The body of a webhook's answer.
pub(super) fn receipt(deleted: &[Deleted]) -> Value {
    let results: Vec<Value> = deleted
        .iter()
        .map(|(id, outcome, _)| json!({ "id": id.0, "outcome": outcome.as_str() }))
        .collect();
    json!({ "results": results })
}
