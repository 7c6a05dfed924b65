//! Calls every function of the ledger, in each way that makes other statements.

use std::time::Duration;

use entity::{ApiKeyId, ContentDigest, ImageId, LeaseToken, OriginalId};
use hapax::ledger::batch::{
    AcquireReference, CommitUpload, ContentClaim, NewImage, Operation, Outcome, ReleaseImages, Run,
};
use hapax::ledger::keys::NewKey;
use hapax::ledger::pending::NewGeneration;
use hapax::ledger::verify::StrayObject;
use hapax::ledger::verify::passes::PassKind;
use hapax::ledger::{Ledger, ListCursor};
use hapax::upload::{ContentRef, TenantId};
use sea_orm::{ConnectionTrait, DatabaseConnection};
use uuid::Uuid;

use super::Log;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Ids and hashes of this run's own, far from those of the loaded rows.
struct Caller<'a> {
    ledger: &'a Ledger,
    log: &'a Log,
    /// For what no function of the ledger does: to make counts wrong.
    hand: &'a DatabaseConnection,
    last: u8,
}

/// Calls all of them.
pub(super) async fn every_function(ledger: &Ledger, log: &Log, hand: &DatabaseConnection) {
    let mut caller = Caller {
        ledger,
        log,
        hand,
        last: 0,
    };
    caller.uploads("default").await;
    caller.uploads("").await;
    caller.batches().await;
    caller.reads().await;
    caller.reapers().await;
    caller.verification().await;
    caller.keys_and_store().await;
}

fn tenant() -> TenantId {
    TenantId::default()
}

impl Caller<'_> {
    fn number(&mut self) -> u8 {
        self.last += 1;
        self.last
    }

    fn generation(&mut self, scope: &str, digest: ContentDigest) -> NewGeneration {
        let number = self.number();
        NewGeneration {
            id: OriginalId(Uuid::now_v7()),
            lease_token: LeaseToken(Uuid::new_v4()),
            scope: scope.to_owned(),
            digest,
            file_size: 5,
            s3_key: format!("queries/{number}"),
            mime_type: None,
            dimensions: None,
            lease: DAY,
            put_deadline: DAY,
        }
    }

    async fn announced(&mut self, scope: &str, digest: ContentDigest) -> NewGeneration {
        let generation = self.generation(scope, digest);
        self.announce(&generation).await;
        generation
    }

    async fn announce(&self, generation: &NewGeneration) {
        let mut upload = upload(&generation.scope, generation.digest, None);
        upload.intents.push(generation.clone());
        let outcome = self.apply(Operation::Upload(upload), Run::First).await;
        let announced = matches!(
            outcome,
            Outcome::Missing {
                announced: true,
                ..
            }
        );
        assert!(announced, "{outcome:?}");
    }

    async fn apply(&self, operation: Operation, run: Run) -> Outcome {
        self.apply_all(vec![operation], run).await.remove(0)
    }

    async fn apply_all(&self, operations: Vec<Operation>, run: Run) -> Vec<Outcome> {
        self.log.calling("apply_batch");
        let outcomes = self.ledger.apply_batch(&operations, run, Duration::ZERO);
        outcomes.await.expect("applied")
    }

    /// Uploads one file; its image.
    async fn upload(
        &self,
        scope: &str,
        digest: ContentDigest,
        own: Option<&NewGeneration>,
    ) -> ImageId {
        let upload = upload(scope, digest, own);
        let image = upload.images[0].id;
        let outcome = self.apply(Operation::Upload(upload), Run::First).await;
        assert!(matches!(outcome, Outcome::Attached { .. }), "{outcome:?}");
        image
    }

    async fn release(&self, image: ImageId, event_id: Option<&str>) {
        let release = ReleaseImages {
            tenant: tenant(),
            ids: vec![image],
            event_id: event_id.map(str::to_owned),
        };
        self.apply(Operation::Release(release), Run::First).await;
    }

    /// Sets a count, whatever the images say.
    async fn miscount(&self, s3_key: &str, count: u8) {
        let zero_since = if count == 0 { "created_at" } else { "NULL" };
        let update = format!(
            "UPDATE original_images SET reference_count = {count}, zero_since = {zero_since}
             WHERE s3_key = '{s3_key}'"
        );
        self.hand.execute_unprepared(&update).await.expect(&update);
    }

    async fn uploads(&mut self, scope: &str) {
        let digest = ContentDigest::from([self.number(); 32]);
        let first = self.announced(scope, digest).await;
        let late = self.announced(scope, digest).await;
        let image = self.upload(scope, digest, Some(&first)).await;
        let duplicate = self.upload(scope, digest, None).await;
        self.upload(scope, digest, Some(&late)).await;
        let again = Operation::Upload(upload(scope, digest, None));
        self.apply(again, Run::Again).await;
        for content in [ContentRef::Digest(digest), ContentRef::Original(first.id)] {
            let reference = AcquireReference {
                tenant: tenant(),
                scope: scope.to_owned(),
                content,
                image: ImageId(Uuid::now_v7()),
                filename: None,
                metadata: None,
                must_not_exist: Some(ImageId(Uuid::now_v7())),
            };
            let outcome = self
                .apply(Operation::Reference(reference), Run::First)
                .await;
            assert!(matches!(outcome, Outcome::Attached { .. }), "{outcome:?}");
        }
        self.log.calling("mark_damaged");
        let marked = self.ledger.mark_damaged(first.id, &first.s3_key).await;
        assert!(marked.expect("asked"));
        let sound = self.announced(scope, digest).await;
        self.upload(scope, digest, Some(&sound)).await;
        self.release(image, None).await;
        self.release(duplicate, Some(&format!("event {scope}")))
            .await;

        let given_up = self
            .announced(scope, ContentDigest::from([self.last; 32]))
            .await;
        self.log.calling("abandon_generation");
        let abandoned = self.ledger.abandon_generation(&given_up, "a test").await;
        abandoned.expect("abandoned");
    }

    /// Lists of several rows may be planned otherwise than those of one.
    async fn batches(&mut self) {
        let scope = "default";
        let digests = [self.number(), self.number(), self.number()];
        let digests = digests.map(|number| ContentDigest::from([number; 32]));
        let own = digests.map(|digest| self.generation(scope, digest));
        let announce = own.iter().map(|generation| {
            let mut upload = upload(scope, generation.digest, None);
            upload.intents.push(generation.clone());
            Operation::Upload(upload)
        });
        self.apply_all(announce.collect(), Run::First).await;
        let mut images = Vec::new();
        for own in [own.each_ref().map(Some), [None; 3]] {
            let uploads = digests.iter().zip(own);
            let uploads = uploads.map(|(digest, own)| upload(scope, *digest, own));
            let uploads: Vec<CommitUpload> = uploads.collect();
            images.extend(uploads.iter().map(|upload| upload.images[0].id));
            let operations = uploads.into_iter().map(Operation::Upload).collect();
            for outcome in self.apply_all(operations, Run::First).await {
                assert!(matches!(outcome, Outcome::Attached { .. }), "{outcome:?}");
            }
        }
        // Each keeps its other reference: what the reapers find is made for them below.
        images.truncate(digests.len());
        let release = ReleaseImages {
            tenant: tenant(),
            ids: images,
            event_id: None,
        };
        self.apply(Operation::Release(release), Run::First).await;
    }

    async fn reads(&self) {
        let (ledger, log) = (self.ledger, self.log);
        let digest = ContentDigest::from([1; 32]);
        log.calling("list_images");
        let page = ledger
            .list_images(&tenant(), None, 50, false)
            .await
            .expect("listed");
        let (image, original) = page.last().expect("there are images").clone();
        let after = ListCursor {
            created_at: image.created_at,
            id: image.id,
        };
        for include_deleted in [false, true] {
            let next = ledger
                .list_images(&tenant(), Some(after), 50, include_deleted)
                .await;
            assert_eq!(next.expect("listed").len(), 50);
        }
        let deleted = ledger.list_images(&tenant(), None, 50, true).await;
        assert_eq!(deleted.expect("listed").len(), 50);
        log.calling("find_image");
        assert!(
            ledger
                .find_image(&tenant(), image.id)
                .await
                .expect("asked")
                .is_some()
        );
        log.calling("find_known_digests");
        let digests: Vec<ContentDigest> = (0..10).map(|n| ContentDigest::from([n; 32])).collect();
        let known = ledger.find_known_digests(&tenant(), &digests).await;
        assert!(known.expect("asked").contains(&digest));
        log.calling("count_tenant_references");
        let original = original.expect("a live image has an original").id;
        let count = ledger.count_tenant_references(&tenant(), original).await;
        assert!(count.expect("counted") > 0);
        log.calling("find_stored_original");
        let stored = ledger.find_stored_original("default", digest).await;
        assert!(stored.expect("asked").is_some());
        log.calling("stats");
        ledger.stats(None).await.expect("asked");
        // The uploads to the global scope have left originals of which the tenant has images.
        ledger.stats(Some("default")).await.expect("asked");
        log.calling("observe_originals");
        ledger
            .observe_originals(Duration::ZERO)
            .await
            .expect("asked");
    }

    async fn reapers(&mut self) {
        let digest = ContentDigest::from([self.number(); 32]);
        let other = ContentDigest::from([self.number(); 32]);
        let mut expired = self.generation("default", other);
        expired.lease = Duration::ZERO;
        let own = self.announced("default", digest).await;
        let image = self.upload("default", digest, Some(&own)).await;
        self.release(image, None).await;
        let (ledger, log) = (self.ledger, self.log);
        self.announce(&expired).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        log.calling("condemn_expired");
        assert_eq!(ledger.condemn_expired(100).await.expect("condemned"), 1);
        log.calling("prune_receipts");
        ledger.prune_receipts(DAY, 100).await.expect("pruned");
        log.calling("list_unreferenced");
        let listed = ledger.list_unreferenced(Duration::ZERO, 100).await;
        assert_eq!(listed.expect("listed").len(), 1);
        // One whose images say something else is left alone.
        log.calling("originals_by_key");
        let first = ledger.originals_by_key(None, None, 1).await.expect("read");
        self.miscount(&first[0].s3_key, 0).await;
        log.calling("claim_unreferenced");
        let claimed = ledger
            .claim_unreferenced(Duration::ZERO, 100, Duration::ZERO)
            .await;
        assert_eq!(claimed.expect("claimed").claimed.len(), 1);
        tokio::time::sleep(Duration::from_millis(5)).await;
        log.calling("take_condemned");
        let taken = ledger.take_condemned(100, DAY).await.expect("taken");
        let ids: Vec<OriginalId> = taken.iter().map(|row| row.id).collect();
        assert!(ids.len() >= 2, "{taken:?}");
        log.calling("await_put_deadline");
        ledger.await_put_deadline(&ids).await.expect("put off");
        log.calling("postpone_condemned");
        ledger
            .postpone_condemned(ids[0], DAY, "a test")
            .await
            .expect("put off");
        log.calling("remove_condemned");
        assert_eq!(
            ledger.remove_condemned(&ids).await.expect("removed"),
            ids.len() as u64
        );
    }

    async fn verification(&self) {
        let (ledger, log) = (self.ledger, self.log);
        log.calling("originals_by_key");
        let page = ledger
            .originals_by_key(None, None, 100)
            .await
            .expect("read");
        let (first, last) = (&page[0], &page[99]);
        let rest = ledger
            .originals_by_key(Some(&first.s3_key), Some(&last.s3_key), 100)
            .await;
        assert_eq!(rest.expect("read").len(), 99);
        log.calling("original_of_key");
        assert!(
            ledger
                .original_of_key(&first.s3_key)
                .await
                .expect("read")
                .is_some()
        );
        log.calling("count_originals");
        ledger.count_originals().await.expect("counted");
        log.calling("next_count_slice");
        let slice = ledger.next_count_slice(None, 100, 1000).await;
        let after = Some(slice.expect("read").expect("there are rows").through);
        let slice = ledger.next_count_slice(after, 100, 1000).await;
        let through = slice.expect("read").expect("there are rows").through;
        log.calling("miscounted_originals");
        for from in [None, after] {
            let wrong = ledger.miscounted_originals(from, through).await;
            wrong.expect("counted");
        }
        self.miscount(&first.s3_key, 9).await;
        log.calling("recount_original");
        let recounted = ledger.recount_original(first.id, true).await;
        assert!(
            recounted
                .expect("recounted")
                .is_some_and(|was| was.repaired)
        );
        log.calling("condemn_strays");
        let stray = StrayObject {
            s3_key: "no row's".to_owned(),
            content_hash: first.content_hash,
            file_size: 1,
        };
        let condemned = ledger.condemn_strays(&[stray], DAY).await;
        assert_eq!(condemned.expect("condemned").len(), 1);
        self.passes().await;
        log.calling("clear_damage");
        ledger
            .clear_damage(first.id, &first.s3_key)
            .await
            .expect("cleared");
        log.calling("check_usage");
        let differences = ledger.check_usage().await.expect("checked");
        assert!(!differences.is_empty(), "the loaded rows are not counted");
        log.calling("repair_usage");
        for difference in &differences {
            assert!(ledger.repair_usage(difference).await.expect("repaired"));
        }
        log.calling("check_usage");
        assert_eq!(ledger.check_usage().await.expect("checked"), []);
    }

    async fn passes(&self) {
        let (ledger, log) = (self.ledger, self.log);
        log.calling("take_command_pass");
        let taken = ledger.take_command_pass().await.expect("taken");
        log.calling("take_background_pass");
        for _ in 0..2 {
            let pass = ledger.take_background_pass(DAY, DAY).await;
            pass.expect("asked");
        }
        log.calling("keep_pass");
        let progress = serde_json::json!({});
        let kept = ledger.keep_pass(&taken, &progress, DAY).await;
        assert!(kept.expect("kept"));
        log.calling("complete_pass");
        let completed = ledger.complete_pass(&taken, &progress).await;
        assert!(completed.expect("completed"));
        log.calling("pass_state");
        let state = ledger.pass_state(PassKind::Command).await;
        assert!(state.expect("read").completed.is_some());
    }

    async fn keys_and_store(&mut self) {
        let key_hash = ContentDigest::from([self.number(); 32]);
        let (ledger, log) = (self.ledger, self.log);
        let key = NewKey {
            id: ApiKeyId(Uuid::now_v7()),
            tenant: "default".to_owned(),
            name: "queries".to_owned(),
            key_hash,
            scopes: "read".to_owned(),
            expires_at: None,
        };
        let id = key.id;
        log.calling("insert_key");
        ledger.insert_key(key).await.expect("made");
        log.calling("find_working_key");
        assert!(
            ledger
                .find_working_key(&key_hash)
                .await
                .expect("asked")
                .is_some()
        );
        log.calling("list_keys");
        ledger.list_keys().await.expect("listed");
        log.calling("revoke_key");
        ledger.revoke_key(id).await.expect("revoked");
        log.calling("database_time");
        ledger.database_time().await.expect("a time");
        log.calling("ensure_store_id");
        ledger
            .ensure_store_id(Uuid::new_v4())
            .await
            .expect("chosen");
        log.calling("is_unused");
        assert!(!ledger.is_unused().await.expect("asked"));
    }
}

fn upload(scope: &str, digest: ContentDigest, own: Option<&NewGeneration>) -> CommitUpload {
    CommitUpload {
        tenant: tenant(),
        scope: scope.to_owned(),
        contents: vec![ContentClaim {
            digest,
            file_size: 5,
            own: own.map(|generation| (generation.id, generation.lease_token)),
        }],
        intents: Vec::new(),
        images: vec![NewImage {
            id: ImageId(Uuid::now_v7()),
            content: 0,
            filename: Some("a.jpg".to_owned()),
            mime_type: None,
            metadata: None,
        }],
        must_not_exist: None,
    }
}
