use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use entity::ContentDigest;
use sha2::{Digest, Sha256};

use super::known::STEP_BYTES;
use super::*;

const MIB: u64 = 1024 * 1024;
/// Several stretches of the thread that compares ahead; ends in the middle of a step.
const LENGTH: usize = 29 * STEP_BYTES + 70_001;
/// Enough to compare ahead, and too little.
const BUDGETS: [u64; 2] = [64 * MIB, MIB];

/// A spool, and an original of a store beside it.
struct Bench {
    folder: tempfile::TempDir,
    spool: Spool,
    known: KnownOriginals,
    original: Vec<u8>,
    free_at_start: (usize, usize),
}

impl Bench {
    /// One whose original has been uploaded.
    async fn new() -> Self {
        Self::with_original(64 * MIB).await
    }

    async fn with_original(memory: u64) -> Self {
        let bench = Self::with_budget(memory);
        let body = bench.upload(&bench.original.clone(), 100_000, "a").await;
        bench.learn(&body.expect("spooled").0).await;
        bench
    }

    fn with_budget(memory: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let known = KnownOriginals::default();
        let spool = Spool::open(folder.path().join("spool"), memory, 0, Caching::Direct)
            .expect("writable")
            .recognising(known.clone());
        let original = bytes(LENGTH);
        let bench = Self {
            free_at_start: spool.free_permits(),
            spool,
            known,
            original,
            folder,
        };
        std::fs::write(bench.path(), &bench.original).expect("written");
        bench
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("original")
    }

    async fn learn(&self, body: &SpooledBody) {
        let SpooledBody::File { marks, .. } = body else {
            panic!("{body:?} was kept")
        };
        assert_eq!(marks.len(), LENGTH / STEP_BYTES);
        let known = self.known.count();
        self.known
            .learn("a", digest_of(&self.original), marks, self.path());
        for _ in 0..500 {
            if self.known.count() > known {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing was learned");
    }

    fn expected(&self, bytes: usize, scope: &str) -> Expected {
        Expected {
            at_least: None,
            in_all: Some(bytes as u64 + 300),
            scope: scope.to_owned(),
        }
    }

    async fn upload(
        &self,
        bytes: &[u8],
        piece: usize,
        scope: &str,
    ) -> io::Result<(SpooledBody, ContentDigest)> {
        let writer = self.spool.writer(self.expected(bytes.len(), scope));
        feed(writer, bytes, piece).await
    }

    /// An upload of the original after two steps, and what is left to send.
    async fn begin_upload(&self) -> (SpoolWriter, &[u8]) {
        let mut writer = self.spool.writer(self.expected(LENGTH, "a"));
        let (first, rest) = self.original.split_at(2 * STEP_BYTES);
        let written = writer.write(Bytes::copy_from_slice(first)).await;
        written.expect("taken");
        (writer, rest)
    }

    /// Whether there are enough cores for that.
    fn compares_ahead(&self) -> bool {
        self.spool.shared.comparers.available_permits() > 0
    }

    /// What a store would write of a body that was recognised.
    fn write_elsewhere(&self, body: &SpooledBody) -> io::Result<Vec<u8>> {
        let SpooledBody::Original(recognised) = body else {
            panic!("{body:?} was kept")
        };
        let target = self.folder.path().join("another");
        recognised.write_to(File::create_new(&target)?)?;
        std::fs::read(target)
    }

    async fn assert_kept(&self, bytes: &[u8], scope: &str) {
        let (body, digest) = self.upload(bytes, 100_000, scope).await.expect("spooled");
        assert!(matches!(body, SpooledBody::File { .. }), "{body:?}");
        assert_holds(&body, digest, bytes);
    }

    async fn assert_recognised(&self) {
        let (body, digest) = self
            .upload(&self.original, 100_000, "a")
            .await
            .expect("taken");
        assert!(matches!(body, SpooledBody::Original(_)), "{body:?}");
        assert_holds(&body, digest, &self.original);
    }

    async fn assert_free(&self) {
        for _ in 0..500 {
            if self.spool.free_permits() == self.free_at_start {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("memory is still held: {:?}", self.spool.free_permits());
    }
}

async fn feed(
    mut writer: SpoolWriter,
    bytes: &[u8],
    piece: usize,
) -> io::Result<(SpooledBody, ContentDigest)> {
    for chunk in bytes.chunks(piece) {
        writer.write(Bytes::copy_from_slice(chunk)).await?;
    }
    writer.finish().await
}

/// Bytes that repeat at no power of two.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

fn digest_of(bytes: &[u8]) -> ContentDigest {
    ContentDigest::from(<[u8; 32]>::from(Sha256::digest(bytes)))
}

fn assert_holds(body: &SpooledBody, digest: ContentDigest, bytes: &[u8]) {
    assert_eq!(body.len(), bytes.len() as u64);
    assert_eq!(digest, digest_of(bytes));
    let mut read = Vec::new();
    body.reader().read_to_end(&mut read).expect("readable");
    assert!(read == bytes, "the bytes read are not the bytes written");
}

#[tokio::test]
async fn an_original_that_comes_again_is_not_written() {
    for memory in BUDGETS {
        let bench = Bench::with_original(memory).await;
        for piece in [1000, STEP_BYTES, 300_000, LENGTH] {
            let (body, digest) = bench
                .upload(&bench.original, piece, "a")
                .await
                .expect("taken");
            assert!(matches!(body, SpooledBody::Original(_)), "{piece}");
            assert!(body.is_file());
            assert_holds(&body, digest, &bench.original);
            bench.assert_free().await;
        }
    }
}

#[tokio::test]
async fn an_original_that_is_deleted_meanwhile_still_has_its_bytes() {
    let bench = Bench::new().await;
    let (writer, rest) = bench.begin_upload().await;
    std::fs::remove_file(bench.path()).expect("removed");
    let (body, digest) = feed(writer, rest, 100_000).await.expect("taken");
    assert_holds(&body, digest, &bench.original);

    let written = bench.write_elsewhere(&body).expect("written");
    assert!(written == bench.original);
    // Gone, so nobody is recognised by it any more.
    bench.assert_kept(&bench.original, "a").await;
}

#[tokio::test]
async fn what_only_begins_like_an_original_is_kept_whole() {
    for memory in BUDGETS {
        let bench = Bench::with_original(memory).await;
        let last = LENGTH - 1;
        let whole_steps = last - last % STEP_BYTES;
        for at in (STEP_BYTES..last)
            .step_by(STEP_BYTES)
            .flat_map(|at| [at - 1, at])
            .chain([3 * STEP_BYTES + 5, last])
        {
            let mut another = bench.original.clone();
            another[at] ^= 1;
            bench.assert_kept(&another, "a").await;
        }
        for shorter in [last, whole_steps, 9 * STEP_BYTES] {
            bench.assert_kept(&bench.original[..shorter], "a").await;
        }
        let mut longer = bench.original.clone();
        longer.extend_from_slice(&bytes(2 * STEP_BYTES / 5));
        bench.assert_kept(&longer, "a").await;
        bench.assert_free().await;
        bench.assert_recognised().await;
    }
}

#[tokio::test]
async fn a_client_that_is_silent_holds_one_step_and_may_go_on() {
    let bench = Bench::new().await;
    let compares_ahead = bench.compares_ahead();
    for after in [
        2 * STEP_BYTES,
        2 * STEP_BYTES + 10,
        9 * STEP_BYTES - 1,
        17 * STEP_BYTES + 3,
        LENGTH - 1,
    ] {
        for changed in [None, Some(after - 1), Some(after)] {
            let mut body = bench.original.clone();
            if let Some(at) = changed {
                body[at] ^= 1;
            }
            let (first, rest) = body.split_at(after);
            let mut writer = bench.spool.writer(bench.expected(LENGTH, "a"));
            let written = writer.write(Bytes::copy_from_slice(first)).await;
            written.expect("taken");
            if changed.is_none() {
                assert_eq!(writer.holds_in_flight(), compares_ahead, "{after}");
            }
            for _ in 0..2 {
                writer.pause().await.expect("taken");
                assert!(!writer.holds_in_flight());
            }
            if changed.is_none() {
                assert_eq!(
                    bench.free_at_start.0 - bench.spool.free_permits().0,
                    STEP_BYTES
                );
            }
            let (spooled, digest) = feed(writer, rest, 100_000).await.expect("taken");
            let recognised = matches!(spooled, SpooledBody::Original(_));
            assert_eq!(recognised, changed.is_none(), "{after} {changed:?}");
            assert_holds(&spooled, digest, &body);
            drop(spooled);
            bench.assert_free().await;
        }
    }
}

#[tokio::test]
async fn a_silent_client_for_whose_step_there_is_no_memory_goes_to_disk() {
    let bench = Bench::new().await;
    let (mut writer, rest) = bench.begin_upload().await;
    let (free, _) = bench.spool.free_permits();
    let others = bench.spool.shared.budget.try_hold_memory(free);
    let others = others.expect("it is free");
    writer.pause().await.expect("written");
    writer.pause().await.expect("written");
    drop(others);
    let (body, digest) = feed(writer, rest, 100_000).await.expect("spooled");
    let kept = matches!(body, SpooledBody::File { .. });
    assert_eq!(kept, bench.compares_ahead(), "{body:?}");
    assert_holds(&body, digest, &bench.original);
    bench.assert_free().await;
}

#[tokio::test]
async fn no_more_bodies_are_compared_ahead_than_there_are_cores_for() {
    let bench = Bench::new().await;
    let most = bench.spool.shared.comparers.available_permits();
    let mut writers = Vec::new();
    for _ in 0..most + 2 {
        writers.push(bench.begin_upload().await);
    }
    let ahead = writers
        .iter()
        .filter(|(writer, _)| writer.holds_in_flight())
        .count();
    assert_eq!(ahead, most);
    for (writer, rest) in writers {
        let (body, digest) = feed(writer, rest, 100_000).await.expect("taken");
        assert!(matches!(body, SpooledBody::Original(_)), "{body:?}");
        assert_holds(&body, digest, &bench.original);
    }
    bench.assert_free().await;
    assert_eq!(bench.spool.shared.comparers.available_permits(), most);
}

#[tokio::test]
async fn a_body_that_left_its_original_goes_on_as_any_other() {
    let bench = Bench::new().await;
    let fresh = Bench::with_budget(64 * MIB);
    for at in [2, 9, 20] {
        let mut another = bench.original.clone();
        another[at * STEP_BYTES] ^= 1;
        let (body, _) = bench.upload(&another, 4096, "a").await.expect("spooled");
        let (same, _) = fresh.upload(&another, 9999, "a").await.expect("spooled");
        match (body, same) {
            (SpooledBody::File { marks, .. }, SpooledBody::File { marks: same, .. }) => {
                assert_eq!(marks, same);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn only_what_the_whole_request_can_be_is_recognised_and_only_in_its_scope() {
    let bench = Bench::new().await;
    bench.assert_kept(&bench.original, "b").await;
    for in_all in [None, Some(LENGTH as u64 - 1), Some(LENGTH as u64 + MIB)] {
        let expected = Expected {
            in_all,
            ..bench.expected(LENGTH, "a")
        };
        let writer = bench.spool.writer(expected);
        let (body, _) = feed(writer, &bench.original, 100_000)
            .await
            .expect("spooled");
        assert!(matches!(body, SpooledBody::File { .. }), "{in_all:?}");
    }
    bench.assert_recognised().await;
}

#[tokio::test]
async fn a_file_that_changed_is_not_known_any_more() {
    let bench = Bench::new().await;
    bench.assert_recognised().await;
    // The same length and, to the second, the same time.
    let file = File::options().write(true).open(bench.path());
    file.expect("open").write_all_at(b"x", 9).expect("written");
    bench.assert_kept(&bench.original, "a").await;
    bench.assert_kept(&bench.original, "a").await;
}

#[tokio::test]
async fn broken_bytes_are_taken_from_no_file() {
    let bench = Bench::new().await;
    let spoil = |byte: u8| {
        let file = File::options().write(true).open(bench.path());
        file.expect("open")
            .write_all_at(&[byte], 9)
            .expect("written");
    };
    let (writer, rest) = bench.begin_upload().await;
    let (whole, _) = bench
        .upload(&bench.original, 9999, "a")
        .await
        .expect("taken");
    spoil(!bench.original[9]);

    // A body that turns out to be another.
    let mut another = rest.to_vec();
    another[0] ^= 1;
    let error = feed(writer, &another, 100_000).await.expect_err("broken");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    // One that must be stored again.
    let error = bench.write_elsewhere(&whole).expect_err("broken");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");

    bench.assert_kept(&bench.original, "a").await;
    drop(whole);
    bench.assert_free().await;
}

#[tokio::test]
async fn without_memory_for_a_step_the_body_is_written() {
    let rich = Bench::new().await;
    let (body, _) = rich
        .upload(&rich.original, 9999, "b")
        .await
        .expect("spooled");
    let poor = Bench::with_budget(100 * 1024);
    poor.learn(&body).await;
    poor.assert_kept(&poor.original, "a").await;
    poor.assert_free().await;
}

/// Thousands of slow clients hold one of these each.
#[test]
fn a_body_that_waits_for_its_bytes_holds_little() {
    let bench = Bench::with_budget(MIB);
    let mut writer = bench.spool.writer(bench.expected(LENGTH, "a"));
    assert!(size_of_val(&writer.write(Bytes::new())) <= 1000);
}
