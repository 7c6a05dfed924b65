use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use bytes::Bytes;
use entity::ContentDigest;
use prometheus::IntGauge;
use sha2::{Digest, Sha256};

use super::*;

const KIB: u64 = 1024;

struct TestSpool {
    spool: Spool,
    directory: tempfile::TempDir,
    free_at_start: (usize, usize),
    gauge: IntGauge,
}

impl TestSpool {
    fn new(memory_budget: u64, memory_threshold: u64) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // A gauge of its own: the process's one counts other tests' bytes too.
        let gauge = IntGauge::new("spool_bytes", "of this test").expect("a good name");
        let budget = Budget::new(memory_budget, gauge.clone());
        let folder = directory.path().join("spool");
        let spool = Spool::with_budget(&folder, budget, memory_threshold, Caching::Direct)
            .expect("a writable directory");
        let free_at_start = spool.free_permits();
        Self {
            spool,
            directory,
            free_at_start,
            gauge,
        }
    }

    /// Nothing is held any more and nothing has a name.
    async fn assert_clean(&self) {
        for _ in 0..200 {
            if self.spool.free_permits() == self.free_at_start {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.spool.free_permits(), self.free_at_start);
        assert_eq!(self.gauge.get(), 0);
        let spool = self.directory.path().join("spool");
        assert_eq!(std::fs::read_dir(spool).expect("readable").count(), 0);
    }
}

/// Bytes that repeat at no power of two.
fn content(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| ((i + seed) % 251) as u8).collect()
}

async fn write_all(spool: &Spool, bytes: &[u8], piece: usize) -> (SpooledBody, ContentDigest) {
    let mut writer = spool.writer(Expected::default());
    for chunk in bytes.chunks(piece) {
        let chunk = Bytes::copy_from_slice(chunk);
        writer.write(chunk).await.expect("spooled");
    }
    writer.finish().await.expect("spooled")
}

fn assert_holds(body: &SpooledBody, digest: ContentDigest, bytes: &[u8]) {
    assert_eq!(body.len(), bytes.len() as u64);
    assert_eq!(body.is_empty(), bytes.is_empty());
    assert_eq!(
        digest,
        ContentDigest::from(<[u8; 32]>::from(Sha256::digest(bytes)))
    );
    let mut read = Vec::new();
    body.reader().read_to_end(&mut read).expect("readable");
    assert!(read == bytes, "the bytes read are not the bytes written");
}

#[tokio::test]
async fn stays_in_memory_up_to_the_threshold() {
    let test = TestSpool::new(1024 * KIB, 100 * KIB);
    for length in [0, 1, 5000, 100 * 1024] {
        let bytes = content(length, length);
        let (body, digest) = write_all(&test.spool, &bytes, 7000).await;
        assert!(!body.is_file(), "{length}");
        assert_holds(&body, digest, &bytes);
        assert_eq!(test.spool.free_permits().0, test.free_at_start.0 - length);
        assert_eq!(test.gauge.get(), length as i64);
        let clone = body.clone();
        drop(body);
        assert_eq!(test.spool.free_permits().0, test.free_at_start.0 - length);
        drop(clone);
        test.assert_clean().await;
    }
}

#[tokio::test]
async fn spills_beyond_the_threshold() {
    let test = TestSpool::new(4096 * KIB, 100 * KIB);
    for (length, piece) in [
        (100 * 1024 + 1, 100 * 1024),
        (100 * 1024 + 1, 200 * 1024),
        (300 * 1024, 1),
        (1_500_000, 1000),
        (1_500_000, 64 * 1024),
        (1_500_000, 2_000_000),
    ] {
        let bytes = content(length, piece);
        let (body, digest) = write_all(&test.spool, &bytes, piece).await;
        assert!(body.is_file(), "{length} by {piece}");
        assert_holds(&body, digest, &bytes);
        // A body on disk holds no memory.
        test.assert_clean().await;
    }
}

#[tokio::test]
async fn goes_to_disk_at_once_when_announced_as_large() {
    let test = TestSpool::new(1024 * KIB, 100 * KIB);
    for bytes in [content(0, 0), content(10, 0), content(400_000, 0)] {
        let mut writer = test.spool.writer(Expected {
            at_least: Some(100 * KIB + 1),
            ..Expected::default()
        });
        writer
            .write(Bytes::from(bytes.clone()))
            .await
            .expect("spooled");
        let (body, digest) = writer.finish().await.expect("spooled");
        assert!(body.is_file());
        assert_holds(&body, digest, &bytes);
    }
    test.assert_clean().await;
}

#[tokio::test]
async fn spills_when_the_budget_is_used_up() {
    let test = TestSpool::new(100 * KIB, 1024 * KIB);
    let first = content(60_000, 1);
    let second = content(60_000, 2);
    let (in_memory, first_digest) = write_all(&test.spool, &first, 8000).await;
    let (on_disk, second_digest) = write_all(&test.spool, &second, 8000).await;
    assert!(!in_memory.is_file());
    assert!(on_disk.is_file());
    assert_holds(&in_memory, first_digest, &first);
    assert_holds(&on_disk, second_digest, &second);
    drop(in_memory);
    test.assert_clean().await;
}

#[tokio::test]
async fn tiny_budgets_slow_many_writers_down_but_never_stop_them() {
    for budget in [0, 1, 3000, 100_000] {
        let test = TestSpool::new(budget, 50_000);
        let writers = (0..64).map(|seed| {
            let spool = test.spool.clone();
            tokio::spawn(async move {
                let bytes = content(20_000 + 3000 * seed, seed);
                let mut writer = spool.writer(Expected::default());
                for chunk in bytes.chunks(700 + 500 * (seed % 7)) {
                    let chunk = Bytes::copy_from_slice(chunk);
                    writer.write(chunk).await.expect("spooled");
                    tokio::task::yield_now().await;
                }
                let (body, digest) = writer.finish().await.expect("spooled");
                assert_holds(&body, digest, &bytes);
            })
        });
        let all = futures::future::join_all(writers.collect::<Vec<_>>());
        let results = tokio::time::timeout(Duration::from_secs(60), all).await;
        for result in results.expect("no deadlock") {
            result.expect("no panic");
        }
        test.assert_clean().await;
    }
}

#[tokio::test]
async fn silent_clients_leave_the_in_flight_budget_to_others() {
    let test = TestSpool::new(100 * KIB, 0);
    let mut silent = Vec::new();
    for _ in 0..10 {
        let mut writer = test.spool.writer(Expected::default());
        let chunk = Bytes::from(content(20_000, 0));
        writer.write(chunk).await.expect("spooled");
        assert!(writer.holds_in_flight());
        writer.pause().await.expect("spooled");
        assert!(!writer.holds_in_flight());
        silent.push(writer);
    }
    let bytes = content(500_000, 3);
    let write = write_all(&test.spool, &bytes, 10_000);
    let (body, digest) = tokio::time::timeout(Duration::from_secs(30), write)
        .await
        .expect("no writer is starved");
    assert_holds(&body, digest, &bytes);
    for writer in silent {
        let (body, digest) = writer.finish().await.expect("spooled");
        assert_holds(&body, digest, &content(20_000, 0));
    }
    test.assert_clean().await;
}

#[tokio::test]
async fn a_body_given_up_frees_everything() {
    let test = TestSpool::new(1024 * KIB, 100 * KIB);
    for length in [50_000, 150_000, 900_000] {
        let mut writer = test.spool.writer(Expected::default());
        for chunk in content(length, 0).chunks(10_000) {
            let chunk = Bytes::copy_from_slice(chunk);
            writer.write(chunk).await.expect("spooled");
        }
        drop(writer);
        test.assert_clean().await;
    }
}

#[tokio::test]
async fn a_spool_that_cannot_be_written_is_an_error() {
    let test = TestSpool::new(1024 * KIB, 0);
    test.spool.check().await.expect("it works so far");
    std::fs::remove_dir(test.directory.path().join("spool")).expect("empty");
    assert!(test.spool.check().await.is_err());
    let mut writer = test.spool.writer(Expected::default());
    // The first pieces may be gathered before the error shows.
    let mut outcome = Ok(());
    for _ in 0..100 {
        outcome = writer.write(Bytes::from(content(64 * 1024, 0))).await;
        if outcome.is_err() {
            break;
        }
    }
    assert!(outcome.is_err());
    assert!(writer.finish().await.is_err());
    assert_eq!(test.spool.free_permits(), test.free_at_start);

    let file = tempfile::NamedTempFile::new().expect("a file");
    assert!(Spool::open(file.path(), 1024, 1024, Caching::Cached).is_err());
}

#[tokio::test]
async fn readers_are_independent_of_each_other() {
    let test = TestSpool::new(1024 * KIB, 100 * KIB);
    for length in [60_000, 160_000] {
        let bytes = content(length, 0);
        let (body, _) = write_all(&test.spool, &bytes, 3000).await;
        assert_eq!(body.head(8192).expect("readable"), bytes[..8192]);
        assert_eq!(body.head(usize::MAX).expect("readable"), bytes);
        let mut one = body.reader();
        let mut other = body.clone().reader();
        let mut buffer = [0; 100];
        one.seek(SeekFrom::End(-50)).expect("in range");
        other.seek(SeekFrom::Start(2950)).expect("in range");
        other.read_exact(&mut buffer).expect("readable");
        assert_eq!(buffer, bytes[2950..3050]);
        assert_eq!(one.read(&mut buffer).expect("readable"), 50);
        assert_eq!(buffer[..50], bytes[length - 50..]);
        assert_eq!(one.read(&mut buffer).expect("the end"), 0);
        assert_eq!(body.read_at(u64::MAX, &mut buffer).expect("the end"), 0);
    }
}

#[test]
fn the_directory_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let test = TestSpool::new(1024, 1024);
    let metadata = std::fs::metadata(test.directory.path().join("spool")).expect("it is there");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
}

#[test]
fn pieces_of_any_number_and_length_are_written_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let pieces: Vec<Bytes> = (0..2500_usize)
        .map(|n| Bytes::from(vec![n as u8; n % 7]))
        .collect();
    let file = std::fs::File::create(&path).expect("created");
    write_pieces(&pieces, &file).expect("written");
    assert_eq!(std::fs::read(&path).expect("readable"), pieces.concat());
}
