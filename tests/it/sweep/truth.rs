//! What a case's clients know: the measure of what the server has.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{Api, Outside, sha256_hex};

/// What was acknowledged, and what nobody knows yet.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Contents of this case. Those of earlier cases are in the same tables.
    hashes: BTreeSet<String>,
    /// Acknowledged and not deleted: id → SHA-256.
    live: BTreeMap<String, String>,
    /// Acknowledged deletions.
    gone: BTreeSet<String>,
    /// Asked to be deleted, without an answer so far.
    going: BTreeSet<String>,
    /// Images of an upload without an answer so far.
    coming: usize,
    /// Damaged from outside, and not healed: image and key.
    damaged: Option<(String, String)>,
}

impl Truth {
    pub(super) fn expects_content(&mut self, bytes: &[u8]) -> String {
        let hash = sha256_hex(bytes);
        self.hashes.insert(hash.clone());
        hash
    }

    pub(super) fn asks_for(&mut self, images: usize) {
        self.coming = images;
    }

    pub(super) fn got(&mut self, id: &str, hash: &str) {
        self.coming = 0;
        self.live.insert(id.to_owned(), hash.to_owned());
    }

    pub(super) fn asks_to_delete(&mut self, ids: &[String]) {
        self.going.extend(ids.iter().cloned());
    }

    pub(super) fn deleted(&mut self, ids: &[String]) {
        for id in ids {
            self.going.remove(id);
            self.live.remove(id);
            self.gone.insert(id.clone());
        }
    }

    pub(super) fn is_live(&self, id: &str) -> bool {
        self.live.contains_key(id)
    }

    pub(super) fn damaged(&mut self, id: &str, key: &str) {
        self.damaged = Some((id.to_owned(), key.to_owned()));
    }

    pub(super) fn healed(&mut self) {
        self.damaged = None;
    }

    /// Whether a complaint is about the damage that the case did itself.
    pub(super) fn explains(&self, complaint: &str) -> bool {
        let key = self.damaged.as_ref().map(|(_, key)| key);
        key.is_some_and(|key| complaint.starts_with(&format!("{key}: its object is")))
    }

    /// Compares with rows and bytes; what is known of the answers decides how exactly.
    pub(super) async fn check(&self, outside: &Outside, api: &Api) {
        self.check_rows(outside).await;
        for (id, hash) in &self.live {
            let is_damaged = self.damaged.as_ref().is_some_and(|(image, _)| image == id);
            if is_damaged || self.going.contains(id) {
                continue;
            }
            let reply = api.content(id).await;
            assert_eq!(
                reply.status,
                200,
                "image {id} was acknowledged: {}",
                reply.text()
            );
            assert_eq!(
                &sha256_hex(&reply.body),
                hash,
                "image {id} reads back otherwise"
            );
        }
        for id in &self.gone {
            let status = api.image(id).await.status;
            assert_eq!(status, 410, "the deletion of image {id} was acknowledged");
        }
    }

    async fn check_rows(&self, outside: &Outside) {
        let (mut live, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for image in outside.images().await {
            let hash = image.content_hash.map(|hash| hash.to_string());
            if !hash.is_some_and(|hash| self.hashes.contains(&hash)) {
                continue;
            }
            match image.deleted_at {
                None => live.insert(image.id.to_string()),
                Some(_) => gone.insert(image.id.to_string()),
            };
        }
        for id in self.live.keys().filter(|id| !self.going.contains(*id)) {
            assert!(
                live.contains(id),
                "image {id} was acknowledged and is not there"
            );
        }
        for id in &self.gone {
            assert!(gone.contains(id), "image {id} is there after its deletion");
        }
        let unasked: Vec<_> = gone.iter().filter(|id| !self.gone.contains(*id)).collect();
        let all_or_none = [0, self.going.len()];
        assert!(
            unasked.iter().all(|id| self.going.contains(*id))
                && all_or_none.contains(&unasked.len()),
            "deleted without a word: {unasked:?}, of {:?}",
            self.going
        );
        let unknown: Vec<_> = live
            .iter()
            .filter(|id| !self.live.contains_key(*id))
            .collect();
        let all_or_none = [0, self.coming];
        assert!(
            all_or_none.contains(&unknown.len()),
            "live without a word: {unknown:?}; an upload of {} is open",
            self.coming
        );
    }
}
