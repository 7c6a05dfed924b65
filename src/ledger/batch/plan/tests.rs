use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::ledger::batch::{NewImage, ReleaseImages};
use crate::upload::{DeleteOutcome, OriginalFate};

const GRACE: Duration = Duration::from_secs(60);

fn digest(n: u8) -> ContentDigest {
    ContentDigest::from([n; 32])
}

fn original(n: u128, state: OriginalState, count: i64) -> SeenOriginal {
    let now = DateTime::<Utc>::UNIX_EPOCH;
    SeenOriginal {
        id: OriginalId(Uuid::from_u128(n)),
        scope: "t".to_owned(),
        content_hash: digest(1),
        file_size: 5,
        s3_key: format!("key-{n}"),
        mime_type: None,
        width: Some(3),
        height: Some(4),
        state,
        reference_count: count,
        lease_token: (state == OriginalState::Pending).then_some(token(n)),
        zero_since: (state == OriginalState::Stored && count == 0).then_some(now),
        damaged_at: None,
    }
}

fn token(n: u128) -> LeaseToken {
    LeaseToken(Uuid::from_u128(n + 1000))
}

fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

fn image_id(n: u128) -> ImageId {
    ImageId(Uuid::from_u128(n))
}

fn upload(image: u128, own: Option<u128>) -> Operation {
    let own = own.map(|n| (OriginalId(Uuid::from_u128(n)), token(n)));
    Operation::Upload(CommitUpload {
        tenant: tenant(),
        scope: "t".to_owned(),
        contents: vec![ContentClaim {
            digest: digest(1),
            file_size: 5,
            own,
        }],
        intents: Vec::new(),
        images: vec![NewImage {
            id: image_id(image),
            content: 0,
            filename: None,
            mime_type: None,
            metadata: None,
        }],
        must_not_exist: None,
    })
}

fn release(ids: &[u128], event_id: Option<&str>) -> Operation {
    Operation::Release(ReleaseImages {
        tenant: tenant(),
        ids: ids.iter().copied().map(image_id).collect(),
        event_id: event_id.map(str::to_owned),
    })
}

fn live_image(n: u128, original: u128) -> images::Model {
    images::Model {
        id: image_id(n),
        tenant: "t".to_owned(),
        original_image_id: Some(OriginalId(Uuid::from_u128(original))),
        was_original_id: None,
        content_hash: Some(digest(1)),
        file_size: Some(5),
        original_url: None,
        legacy: false,
        filename: None,
        mime_type: None,
        metadata: None,
        deduplicated: true,
        created_at: DateTime::UNIX_EPOCH,
        deleted_at: None,
    }
}

fn seen(originals: Vec<SeenOriginal>, images: Vec<images::Model>) -> Seen {
    Seen {
        now: DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(1),
        originals: originals.into_iter().map(|row| (row.id, row)).collect(),
        images: images.into_iter().map(|row| (row.id, row)).collect(),
        ..Seen::default()
    }
}

fn dispositions(outcome: &Outcome) -> Vec<Disposition> {
    match outcome {
        Outcome::Attached { images, .. } => images.iter().map(|image| image.disposition).collect(),
        other => panic!("{other:?}"),
    }
}

fn outcomes_of(outcome: &Outcome) -> Vec<(DeleteOutcome, Option<(i64, OriginalFate)>)> {
    match outcome {
        Outcome::Released(released) => released
            .iter()
            .map(|image| {
                let original = image.original.clone();
                (image.outcome, original.map(|o| (o.reference_count, o.fate)))
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn new_content_without_a_row_is_missing_and_changes_nothing() {
    let plan = plan(&[upload(1, None)], seen(vec![], vec![]), GRACE).unwrap();
    assert!(
        matches!(&plan.outcomes[0], Outcome::Missing { contents, announced: false } if contents == &[0])
    );
    assert!(plan.insert.is_empty() && plan.deltas.is_empty() && plan.promote.is_empty());
}

#[test]
fn of_two_writers_in_one_batch_one_row_stays() {
    let rows = vec![
        original(7, OriginalState::Pending, 0),
        original(8, OriginalState::Pending, 0),
    ];
    let plan = plan(
        &[upload(1, Some(7)), upload(2, Some(8))],
        seen(rows, vec![]),
        GRACE,
    )
    .unwrap();
    let kept = OriginalId(Uuid::from_u128(7));
    assert_eq!(plan.promote, [(kept, token(7))]);
    assert_eq!(plan.discard, [OriginalId(Uuid::from_u128(8))]);
    assert_eq!(plan.deltas[&kept], 2);
    assert_eq!(dispositions(&plan.outcomes[0]), [Disposition::Miss]);
    assert_eq!(dispositions(&plan.outcomes[1]), [Disposition::Hit]);
}

#[test]
fn a_lost_lease_does_not_commit() {
    let mut row = original(7, OriginalState::Pending, 0);
    row.lease_token = Some(token(99));
    let stolen = plan(&[upload(1, Some(7))], seen(vec![row], vec![]), GRACE).unwrap();
    assert!(matches!(stolen.outcomes[0], Outcome::Missing { .. }));
    let reaped = original(7, OriginalState::Deleting, 0);
    let reaped = plan(&[upload(1, Some(7))], seen(vec![reaped], vec![]), GRACE).unwrap();
    assert!(matches!(reaped.outcomes[0], Outcome::Missing { .. }));
}

#[test]
fn a_row_that_was_reaped_is_given_up_before_anything_is_attached() {
    let stored = original(7, OriginalState::Stored, 1);
    let plan = plan(&[upload(1, Some(8))], seen(vec![stored], vec![]), GRACE).unwrap();
    assert!(
        matches!(&plan.outcomes[0], Outcome::Missing { contents, announced: false } if contents == &[0])
    );
    assert!(plan.insert.is_empty() && plan.deltas.is_empty());
}

#[test]
fn a_row_without_references_is_resurrected_once() {
    let rows = vec![original(7, OriginalState::Stored, 0)];
    let plan = plan(
        &[upload(1, None), upload(2, None)],
        seen(rows, vec![]),
        GRACE,
    )
    .unwrap();
    assert_eq!(dispositions(&plan.outcomes[0]), [Disposition::Resurrected]);
    assert_eq!(dispositions(&plan.outcomes[1]), [Disposition::Hit]);
}

#[test]
fn a_damaged_row_takes_over_the_sound_object() {
    let mut damaged = original(7, OriginalState::Stored, 2);
    damaged.damaged_at = Some(DateTime::UNIX_EPOCH);
    let missing = plan(
        &[upload(1, None)],
        seen(vec![damaged.clone()], vec![]),
        GRACE,
    )
    .unwrap();
    assert!(matches!(missing.outcomes[0], Outcome::Missing { .. }));
    let rows = vec![damaged, original(8, OriginalState::Pending, 0)];
    let plan = plan(
        &[upload(1, Some(8)), upload(2, None)],
        seen(rows, vec![]),
        GRACE,
    )
    .unwrap();
    assert_eq!(dispositions(&plan.outcomes[0]), [Disposition::Repaired]);
    assert_eq!(dispositions(&plan.outcomes[1]), [Disposition::Hit]);
    assert_eq!(
        (
            plan.heal[0].damaged_key.as_str(),
            plan.heal[0].sound_key.as_str()
        ),
        ("key-7", "key-8")
    );
    assert_eq!(plan.deltas.len(), 1);
    assert!(plan.promote.is_empty() && plan.discard.is_empty());
}

#[test]
fn each_of_several_deletions_counts_and_the_last_schedules() {
    let rows = vec![original(7, OriginalState::Stored, 2)];
    let images = vec![live_image(1, 7), live_image(2, 7)];
    let operations = [release(&[1, 1], None), release(&[2, 3], None)];
    let plan = plan(&operations, seen(rows, images), GRACE).unwrap();
    let purge_after = plan.now + GRACE;
    assert_eq!(
        outcomes_of(&plan.outcomes[0]),
        [
            (DeleteOutcome::Deleted, Some((1, OriginalFate::Retained))),
            (
                DeleteOutcome::AlreadyDeleted,
                Some((1, OriginalFate::Retained))
            ),
        ]
    );
    assert_eq!(
        outcomes_of(&plan.outcomes[1]),
        [
            (
                DeleteOutcome::Deleted,
                Some((0, OriginalFate::Scheduled { purge_after }))
            ),
            (DeleteOutcome::Unknown, None),
        ]
    );
    assert_eq!(plan.release, [image_id(1), image_id(2)]);
    assert_eq!(plan.deltas.values().copied().collect::<Vec<_>>(), [-2]);
}

#[test]
fn another_tenants_image_is_unknown() {
    let mut foreign = live_image(1, 7);
    foreign.tenant = "other".to_owned();
    let rows = vec![original(7, OriginalState::Stored, 1)];
    let plan = plan(&[release(&[1], None)], seen(rows, vec![foreign]), GRACE).unwrap();
    assert_eq!(
        outcomes_of(&plan.outcomes[0]),
        [(DeleteOutcome::Unknown, None)]
    );
    assert!(plan.deltas.is_empty() && plan.release.is_empty());
}

#[test]
fn a_legacy_image_is_deleted_without_a_decrement() {
    let mut legacy = live_image(1, 7);
    legacy.legacy = true;
    legacy.original_image_id = None;
    let plan = plan(&[release(&[1], None)], seen(vec![], vec![legacy]), GRACE).unwrap();
    assert_eq!(
        outcomes_of(&plan.outcomes[0]),
        [(DeleteOutcome::Deleted, None)]
    );
    assert!(plan.deltas.is_empty());
    assert_eq!(plan.release, [image_id(1)]);
}

#[test]
fn a_count_never_falls_below_zero() {
    let rows = vec![original(7, OriginalState::Stored, 0)];
    let refused = plan(
        &[release(&[1], None)],
        seen(rows, vec![live_image(1, 7)]),
        GRACE,
    );
    let original = OriginalId(Uuid::from_u128(7));
    assert_eq!(refused.err(), Some(Refusal::BelowZero(original)));
}

#[test]
fn one_webhook_id_has_one_effect_within_a_batch() {
    let rows = vec![original(7, OriginalState::Stored, 1)];
    let operations = [release(&[1], Some("e")), release(&[1], Some("e"))];
    let plan = plan(&operations, seen(rows, vec![live_image(1, 7)]), GRACE).unwrap();
    let [
        Outcome::Receipt {
            result,
            replayed: false,
            released_last: true,
        },
        Outcome::Receipt {
            result: again,
            replayed: true,
            ..
        },
    ] = &plan.outcomes[..]
    else {
        panic!("{:?}", plan.outcomes)
    };
    assert_eq!(result, again);
    assert_eq!(plan.receipts.len(), 1);
    assert_eq!(result["results"][0]["outcome"], "deleted");
}

#[test]
fn the_same_image_id_is_one_image_and_other_content_is_refused() {
    let rows = vec![original(7, OriginalState::Stored, 1)];
    let same = plan(
        &[upload(1, None), upload(1, None)],
        seen(rows.clone(), vec![]),
        GRACE,
    )
    .unwrap();
    assert_eq!(same.insert.len(), 1);
    assert!(matches!(
        same.outcomes[1],
        Outcome::Attached { replayed: true, .. }
    ));
    let mut other = live_image(1, 7);
    other.content_hash = Some(digest(2));
    let reused = plan(&[upload(1, None)], seen(rows, vec![other]), GRACE).unwrap();
    assert!(matches!(reused.outcomes[0], Outcome::IdempotencyKeyReused));
    assert!(reused.insert.is_empty());
}

#[test]
fn a_replay_that_wrote_anew_gives_its_row_up() {
    let rows = vec![
        original(7, OriginalState::Stored, 1),
        original(8, OriginalState::Pending, 0),
    ];
    let plan = plan(
        &[upload(1, Some(8))],
        seen(rows, vec![live_image(1, 7)]),
        GRACE,
    )
    .unwrap();
    assert!(matches!(
        plan.outcomes[0],
        Outcome::Attached { replayed: true, .. }
    ));
    assert_eq!(plan.discard, [OriginalId(Uuid::from_u128(8))]);
}
