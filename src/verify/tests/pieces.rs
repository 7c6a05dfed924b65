//! Samples, pieces, and what is kept between them.

use super::*;

#[tokio::test]
async fn a_sample_reads_its_share_and_seeds_in_a_row_read_all() {
    let world = World::new().await;
    for number in 1..=40 {
        world.stored(number, 1).await;
    }
    let share: Share = "25%".parse().expect("a share");
    let mut hashed = 0;
    for seed in 7..11 {
        let verifier = world.verifier(Mending::ReportOnly, u64::MAX);
        let sample = Sample { share, seed };
        let (findings, summary) = world.verify_with(&verifier, Some(sample)).await;
        assert_eq!(findings, []);
        assert!(
            summary.hashed < 40 && summary.sampled_from == 40,
            "{summary:?}"
        );
        hashed += summary.hashed;
    }
    assert_eq!(hashed, 40);
}

/// Stopped after every so many looks, and gone on with from what was kept each time, a verification
/// finds what one in one piece does, once each.
#[tokio::test]
async fn an_interrupted_verification_goes_on_where_it_was() {
    let world = World::new().await;
    for number in 1..=30 {
        world.stored(number, 1).await;
    }
    for number in [3, 11, 29] {
        let key = world.original(number + 100, "stored", 1).await;
        world.object(&key, vec![0; usize::from(number) + 100]);
        world.object(&stray_key(number + 200), "abc");
        world
            .sql(&format!(
                "UPDATE original_images SET reference_count = 9 WHERE id = x'{number:032x}'"
            ))
            .await;
    }
    let deep = Some(Sample::ALL);
    let (_, whole) = world.verify(true, false).await;
    assert_eq!(whole.problems, 9);
    for (piece, bytes_per_step) in [(1, 1), (5, 40), (17, u64::MAX)] {
        let (mut progress, mut runs) = (Progress::new(deep), 0);
        let summary = loop {
            let verifier = world.verifier(Mending::ReportOnly, bytes_per_step);
            let mut notes = Notes {
                stop_after: Some((progress.summary.looks() + piece, verifier.stop().clone())),
                ..Notes::default()
            };
            let (mut keeper, pace) = (world.keeper().await, Pace::new(None));
            runs += 1;
            assert!(runs < 1000, "it comes to its end");
            match run(&verifier, progress, &pace, &mut keeper, &mut notes).await {
                Ok(Ended::Complete(summary)) => break summary,
                Ok(Ended::Interrupted(_)) => {
                    progress = world.kept().await.expect("where it is was kept");
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert!(runs > 3, "{runs}");
        let figures = |summary: VerifySummary| {
            let VerifySummary {
                rows,
                objects,
                hashed,
                hashed_bytes,
                counts,
                problems,
                ..
            } = summary;
            [rows, objects, hashed, hashed_bytes, counts, problems]
        };
        assert_eq!(figures(summary), figures(whole), "in pieces of {piece}");
    }
}

#[tokio::test]
async fn a_failure_keeps_where_it_was_and_a_newer_run_is_not_overwritten() {
    let world = World::new().await;
    for number in 1..=9 {
        world.stored(number, 1).await;
    }
    let verifier = world.verifier(Mending::ReportOnly, u64::MAX);
    let mut progress = Progress::new(None);
    for _ in 0..2 {
        let next = verifier.step(&progress, &mut Notes::default()).await;
        progress = next.expect("a step").expect("whole");
    }
    let (pace, mut older) = (Pace::new(None), world.keeper().await);
    *world.shelf.cannot_list.lock().expect("a lock") = true;
    let failed = run(
        &verifier,
        progress.clone(),
        &pace,
        &mut older,
        &mut Notes::default(),
    )
    .await;
    assert!(matches!(failed, Err(VerifyError::Store(_))), "{failed:?}");
    assert_eq!(world.kept().await.as_ref(), Some(&progress));

    *world.shelf.cannot_list.lock().expect("a lock") = false;
    let newer = world.keeper().await;
    let ended = run(
        &verifier,
        progress.clone(),
        &pace,
        &mut older,
        &mut Notes::default(),
    )
    .await;
    assert!(matches!(ended, Ok(Ended::Complete(_))));
    assert_eq!(
        world.kept().await,
        Some(progress),
        "the newer run's to go on with"
    );
    drop(newer);
}

#[tokio::test]
async fn a_step_that_is_broken_off_is_as_if_it_had_not_begun() {
    let world = World::new().await;
    world.stored(1, 1).await;
    world.original(2, "stored", 1).await;
    for cursor in [
        Cursor::Objects { after: None },
        Cursor::Bytes { after: None },
    ] {
        let verifier = world.verifier(Mending::ReportOnly, u64::MAX);
        let mut progress = Progress::new(Some(Sample::ALL));
        progress.cursor = cursor;
        verifier.stop().cancel();
        let step = verifier.step(&progress, &mut Notes::default()).await;
        assert!(matches!(step, Ok(None)), "{step:?}");
    }
}
