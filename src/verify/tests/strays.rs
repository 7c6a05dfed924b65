//! Objects without a row, the circuit breaker, and stores that are somebody else's.

use super::*;

#[tokio::test]
async fn strays_are_handed_to_the_reaper_only_when_asked() {
    let world = World::new().await;
    world.stored(1, 1).await;
    let key = stray_key(200);
    world.object(&key, "abc");
    let stray = |repaired| Finding::Stray {
        key: key.clone(),
        size: 3,
        repaired,
    };
    let (findings, summary) = world.verify(false, false).await;
    assert_eq!((findings, summary.strays), (vec![stray(false)], 1));
    assert!(world.condemned().await.is_empty());
    let (findings, summary) = world.verify(false, true).await;
    assert_eq!((findings, summary.strays), (vec![stray(true)], 0));

    // A row names the object now, and stays until no PUT for its key can land (rule R8).
    assert_eq!(world.condemned().await, std::slice::from_ref(&key));
    let taken = world.ledger.take_condemned(10, Duration::ZERO).await;
    let taken = taken.expect("taken");
    assert_eq!((taken[0].file_size, taken[0].past_put_deadline), (3, false));
    assert_eq!(world.verify(false, true).await.0, []);
}

#[tokio::test]
async fn a_key_that_has_a_row_by_now_is_not_condemned() {
    let world = World::new().await;
    let (stored, free) = (world.stored(1, 1).await, stray_key(9));
    let object = |key: &String| StrayObject {
        s3_key: key.clone(),
        content_hash: ContentDigest::from([9; 32]),
        file_size: 1,
    };
    for expected in [vec![free.clone()], vec![]] {
        let condemned = world
            .ledger
            .condemn_strays(&[object(&stored), object(&free)], Duration::ZERO)
            .await
            .expect("asked");
        assert_eq!(condemned.into_iter().collect::<Vec<_>>(), expected);
    }
    assert_eq!(world.condemned().await, [free]);
    assert_eq!(world.verify(true, false).await.0, []);
}

#[tokio::test]
async fn a_page_full_of_strays_stops_the_repair() {
    let world = World::with_pages_of(1000).await;
    for number in 0..=101 {
        world.object(&stray_key(number), "abc");
    }
    let (findings, summary) = world.verify(false, true).await;
    assert!(matches!(
        findings[0],
        Finding::TooManyStrays {
            strays: 102,
            limit: 100
        }
    ));
    assert_eq!((summary.problems, summary.repaired), (103, 0));
    assert!(world.condemned().await.is_empty());
    // Nor does a later page go, in the same run.
    let mut progress = Progress::new(None);
    progress.strays_are_doubted = true;
    world.shelf.objects.lock().expect("a lock").clear();
    world.object(&stray_key(1), "abc");
    let verifier = world.verifier(Mending::Repair, u64::MAX);
    let next = verifier.step(&progress, &mut Notes::default()).await;
    assert!(next.expect("a step").expect("whole").strays_are_doubted);
    assert!(world.condemned().await.is_empty());
}

#[tokio::test]
async fn as_many_strays_as_are_believed_are_handed_over() {
    let world = World::with_pages_of(1000).await;
    for number in 1..=100 {
        world.object(&stray_key(number), "abc");
    }
    let (_, summary) = world.verify(false, true).await;
    assert_eq!((summary.problems, summary.repaired), (100, 100));
    assert_eq!(world.condemned().await.len(), 100);
}

#[tokio::test]
async fn another_databases_store_is_left_alone() {
    let world = World::new().await;
    world.object(&stray_key(3), "abc");
    for foreign in [None, Some(Uuid::from_u128(43))] {
        *world.shelf.store_id.lock().expect("a lock") = foreign;
        let (findings, _) = world.verify(true, true).await;
        let database = Some(Uuid::from_u128(42));
        let store = foreign;
        assert_eq!(findings, [Finding::StoreMismatch { database, store }]);
    }
    // Neither has an id: objects are compared, but nothing is handed over.
    world.sql("DELETE FROM store_meta").await;
    *world.shelf.store_id.lock().expect("a lock") = None;
    let (findings, summary) = world.verify(false, true).await;
    assert!(matches!(
        findings[..],
        [Finding::Stray {
            repaired: false,
            ..
        }]
    ));
    assert_eq!(summary.repaired, 0);
    assert!(world.condemned().await.is_empty());
}
