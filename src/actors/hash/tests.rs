use std::cell::RefCell;
use std::io::Read;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entity::ContentDigest;
use sha2::{Digest, Sha256};

use super::*;
use crate::config::DedupScope;
use crate::sniff;
use crate::spool::Caching;
use crate::upload::TenantId;

/// Stands downstream: remembers what it was sent and how it was at that time.
#[derive(Default)]
struct Recorder {
    received: Rc<RefCell<Vec<HashedUpload>>>,
    answer_after: Duration,
}

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<ResolveUpload> for Recorder {
    type Result = ResponseFuture<Result<StoredUpload, UploadError>>;

    fn handle(
        &mut self,
        ResolveUpload(upload): ResolveUpload,
        _: &mut Self::Context,
    ) -> Self::Result {
        let (received, delay) = (Rc::clone(&self.received), self.answer_after);
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            received.borrow_mut().push(upload);
            Ok(StoredUpload {
                images: Vec::new(),
                replayed: false,
            })
        })
    }
}

struct Bench {
    hash: Addr<HashActor>,
    received: Rc<RefCell<Vec<HashedUpload>>>,
    spool: Spool,
    free_at_start: (usize, usize),
    directory: tempfile::TempDir,
}

fn config() -> UploadConfig {
    UploadConfig {
        max_bytes: 200_000,
        memory_threshold: 50_000,
        memory_budget: 1_000_000,
        idle_timeout: Duration::from_secs(5),
        ..UploadConfig::default()
    }
}

fn scoping() -> Scoping {
    Scoping(DedupScope::Tenant)
}

impl Bench {
    fn new(config: UploadConfig) -> Self {
        Self::with_delay(config, Duration::ZERO)
    }

    fn with_delay(config: UploadConfig, answer_after: Duration) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let spool = Spool::open(
            directory.path(),
            config.memory_budget,
            config.memory_threshold,
            Caching::Cached,
        )
        .expect("writable");
        let recorder = Recorder {
            answer_after,
            ..Recorder::default()
        };
        let received = Rc::clone(&recorder.received);
        let dedup = recorder.start().recipient();
        Self {
            hash: HashActor::new(dedup, spool.clone(), Arc::new(config), scoping()).start(),
            received,
            free_at_start: spool.free_permits(),
            spool,
            directory,
        }
    }

    /// Sends the events, then leaves.
    async fn upload(
        &self,
        request: UploadRequest,
        events: Vec<BodyEvent>,
    ) -> Result<StoredUpload, UploadError> {
        let (sender, body) = mpsc::channel(2);
        let answer = self.hash.send(HashUpload { request, body });
        let feed = async move {
            for event in events {
                if sender.send(event).await.is_err() {
                    break;
                }
            }
        };
        let (answer, ()) = tokio::join!(answer, feed);
        answer.expect("the actor is alive")
    }

    /// Nothing was handed on and nothing is held.
    async fn assert_refused(&self, events: Vec<BodyEvent>, request: UploadRequest) -> UploadError {
        let error = self.upload(request, events).await.expect_err("a refusal");
        assert!(self.received.borrow().is_empty(), "{error}");
        self.assert_free().await;
        error
    }

    async fn assert_free(&self) {
        for _ in 0..200 {
            if self.spool.free_permits() == self.free_at_start {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("memory is still held: {:?}", self.spool.free_permits());
    }
}

fn request() -> UploadRequest {
    UploadRequest {
        tenant: TenantId::default(),
        idempotency_key: Some("key".to_owned()),
        declared_digest: None,
        declared_bytes: None,
        expected_bytes: None,
        content_length: None,
    }
}

fn start() -> BodyEvent {
    BodyEvent::FileStarted {
        filename: Some("a.png".to_owned()),
    }
}

fn chunk(bytes: &[u8]) -> BodyEvent {
    BodyEvent::Chunk(Bytes::copy_from_slice(bytes))
}

fn file(bytes: &[u8]) -> Vec<BodyEvent> {
    let mut events = vec![start()];
    events.extend(bytes.chunks(10_000).map(chunk));
    events.push(BodyEvent::FileEnded);
    events
}

fn whole(bytes: &[u8]) -> Vec<BodyEvent> {
    let mut events = file(bytes);
    events.push(BodyEvent::Complete);
    events
}

fn sha256(bytes: &[u8]) -> ContentDigest {
    ContentDigest::from(<[u8; 32]>::from(Sha256::digest(bytes)))
}

fn png() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(7, 5)
        .write_to(&mut bytes, image::ImageFormat::Png)
        .expect("written");
    bytes.into_inner()
}

#[actix::test]
async fn hands_on_what_came_hashed_and_sniffed() {
    let bench = Bench::new(config());
    let (small, large) = (png(), vec![b'x'; 123_456]);
    let mut events = vec![BodyEvent::Metadata(serde_json::json!({"a": 1}))];
    events.extend(file(&small));
    events.extend(file(&large));
    events.push(BodyEvent::Complete);
    bench.upload(request(), events).await.expect("taken");
    let upload = bench.received.borrow_mut().pop().expect("handed on");
    assert_eq!(upload.tenant, TenantId::default());
    assert_eq!(upload.idempotency_key.as_deref(), Some("key"));
    assert_eq!(upload.metadata, Some(serde_json::json!({"a": 1})));
    assert_eq!(upload.files.len(), 2);
    for (file, bytes) in upload.files.iter().zip([&small, &large]) {
        assert_eq!(file.filename.as_deref(), Some("a.png"));
        assert_eq!(file.digest, sha256(bytes));
        assert_eq!(file.file_size, bytes.len() as u64);
        let mut read = Vec::new();
        let mut reader = file.body.reader();
        reader.read_to_end(&mut read).expect("readable");
        assert!(read == *bytes);
    }
    assert_eq!(upload.files[0].mime_type.as_deref(), Some("image/png"));
    assert_eq!(upload.files[0].dimensions, Some((7, 5)));
    assert_eq!(upload.files[1].mime_type, None);
    assert!(!upload.files[0].body.is_file() && upload.files[1].body.is_file());
    drop(upload);
    bench.assert_free().await;
}

#[actix::test]
async fn a_body_that_ends_early_is_incomplete() {
    let bench = Bench::new(config());
    for bytes in [vec![b'x'; 10_000], vec![b'x'; 150_000]] {
        let events = whole(&bytes);
        for length in 0..events.len() {
            let mut cut = whole(&bytes);
            cut.truncate(length);
            let error = bench.assert_refused(cut, request()).await;
            assert!(matches!(error, UploadError::Incomplete), "{error:?}");
        }
    }
    let declared = UploadRequest {
        declared_bytes: Some(11),
        expected_bytes: Some(11),
        ..request()
    };
    let error = bench.assert_refused(whole(b"0123456789"), declared).await;
    assert!(matches!(error, UploadError::Incomplete), "{error:?}");
}

#[actix::test]
async fn a_body_over_the_limit_is_refused_at_once() {
    let bench = Bench::new(config());
    let exact = vec![b'x'; 200_000];
    bench.upload(request(), whole(&exact)).await.expect("taken");
    bench.received.borrow_mut().clear();
    // No end: the answer comes although the body goes on.
    let mut events = file(&vec![b'x'; 200_001]);
    events.pop();
    let (sender, body) = mpsc::channel(100);
    for event in events {
        sender.send(event).await.expect("room");
    }
    let request = request();
    let answer = bench.hash.send(HashUpload { request, body }).await;
    let error = answer.expect("alive").expect_err("a refusal");
    assert!(matches!(
        error,
        UploadError::TooLarge {
            limit_bytes: 200_000
        }
    ));
    assert!(sender.is_closed());
    bench.assert_free().await;
}

#[actix::test]
async fn announced_as_too_large_is_refused_unread() {
    let bench = Bench::new(config());
    let request = UploadRequest {
        declared_bytes: Some(200_001),
        expected_bytes: Some(200_001),
        ..request()
    };
    let error = bench.assert_refused(Vec::new(), request).await;
    assert!(matches!(error, UploadError::TooLarge { .. }), "{error:?}");
}

#[actix::test]
async fn empty_requests_and_empty_files_are_refused() {
    let bench = Bench::new(config());
    let nothing = vec![BodyEvent::Complete];
    let error = bench.assert_refused(nothing, request()).await;
    assert!(matches!(error, UploadError::NoFile), "{error:?}");
    let mut events = file(b"something");
    events.extend(whole(b""));
    let error = bench.assert_refused(events, request()).await;
    assert!(matches!(error, UploadError::EmptyFile), "{error:?}");
}

#[actix::test]
async fn declared_digests_are_verified() {
    let bench = Bench::new(config());
    let declare = |bytes: &[u8]| UploadRequest {
        declared_digest: Some(sha256(bytes)),
        ..request()
    };
    let error = bench.assert_refused(whole(b"one"), declare(b"two")).await;
    match error {
        UploadError::DigestMismatch { declared, actual } => {
            assert_eq!((declared, actual), (sha256(b"two"), sha256(b"one")));
        }
        other => panic!("{other:?}"),
    }
    bench
        .upload(declare(b"one"), whole(b"one"))
        .await
        .expect("taken");
}

#[actix::test]
async fn refused_types_end_the_upload_as_soon_as_they_are_known() {
    let bench = Bench::new(UploadConfig {
        accept: vec!["image/*".to_owned()],
        ..config()
    });
    bench.upload(request(), whole(&png())).await.expect("taken");
    bench.received.borrow_mut().clear();
    let error = bench.assert_refused(whole(b"some text"), request()).await;
    assert!(
        matches!(&error, UploadError::UnsupportedMediaType { mime_type } if mime_type == sniff::UNKNOWN_TYPE),
        "{error:?}"
    );
    let mut pdf = b"%PDF-1.7\n".to_vec();
    pdf.resize(10_000, b' ');
    let (sender, body) = mpsc::channel(100);
    sender.send(start()).await.expect("room");
    sender.send(chunk(&pdf)).await.expect("room");
    let request = request();
    let answer = bench.hash.send(HashUpload { request, body }).await;
    let error = answer.expect("alive").expect_err("a refusal");
    assert!(
        matches!(&error, UploadError::UnsupportedMediaType { mime_type } if mime_type == "application/pdf"),
        "{error:?}"
    );
}

#[actix::test]
async fn silent_clients_are_ended() {
    let bench = Bench::new(UploadConfig {
        idle_timeout: Duration::from_millis(250),
        memory_threshold: 0,
        ..config()
    });
    for events in [vec![], vec![start()], vec![start(), chunk(b"bytes")]] {
        let (sender, body) = mpsc::channel(10);
        for event in events {
            sender.send(event).await.expect("room");
        }
        let request = request();
        let answer = bench.hash.send(HashUpload { request, body }).await;
        let error = answer.expect("alive").expect_err("a refusal");
        assert!(matches!(error, UploadError::TooSlow), "{error:?}");
        assert!(sender.is_closed());
        bench.assert_free().await;
    }
}

#[actix::test]
async fn slow_clients_are_ended_and_steady_ones_are_not() {
    let bench = Bench::new(UploadConfig {
        min_rate: 1000,
        min_rate_after: Duration::from_millis(300),
        ..config()
    });
    for (bytes, taken) in [(1, false), (2000, true)] {
        let (sender, body) = mpsc::channel(1);
        let request = request();
        let answer = bench.hash.send(HashUpload { request, body });
        let feed = async move {
            let _ = sender.send(start()).await;
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = sender.send(chunk(&vec![b'x'; bytes])).await;
            }
            let _ = sender.send(BodyEvent::FileEnded).await;
            let _ = sender.send(BodyEvent::Complete).await;
        };
        let (answer, ()) = tokio::join!(answer, feed);
        match answer.expect("alive") {
            Ok(_) => assert!(taken),
            Err(error) => assert!(!taken && matches!(error, UploadError::TooSlow), "{error:?}"),
        }
    }
}

#[actix::test]
async fn a_broken_spool_is_told_apart_and_leaves_small_bodies_alone() {
    let bench = Bench::new(config());
    std::fs::remove_dir(bench.directory.path()).expect("nothing in it has a name");
    let large = whole(&vec![b'x'; 190_000]);
    let error = bench.assert_refused(large, request()).await;
    assert!(matches!(error, UploadError::Spool(_)), "{error:?}");
    let small = whole(b"small");
    bench.upload(request(), small).await.expect("taken");
}

#[actix::test]
async fn events_out_of_order_are_our_bug() {
    let bench = Bench::new(config());
    for events in [
        vec![chunk(b"x")],
        vec![BodyEvent::FileEnded],
        vec![start(), start()],
        vec![start(), chunk(b"x"), BodyEvent::Complete],
    ] {
        let error = bench.assert_refused(events, request()).await;
        assert!(matches!(error, UploadError::Internal(_)), "{error:?}");
    }
}

#[actix::test]
async fn a_whole_body_outlives_its_caller_and_drain_waits_for_it() {
    let bench = Bench::with_delay(config(), Duration::from_millis(200));
    let (sender, body) = mpsc::channel(10);
    let request = request();
    let answer = bench.hash.send(HashUpload { request, body });
    for event in whole(b"bytes") {
        sender.send(event).await.expect("room");
    }
    // The caller leaves after the message is out but long before the answer.
    let left = tokio::time::timeout(Duration::from_millis(20), answer).await;
    assert!(left.is_err());
    assert!(bench.received.borrow().is_empty());
    bench.hash.send(Drain).await.expect("alive");
    assert_eq!(bench.received.borrow().len(), 1);
    bench.hash.send(Drain).await.expect("it may be asked again");
}

#[actix::test]
async fn without_anybody_downstream_the_outcome_is_unknown() {
    let bench = Bench::new(config());
    let gone = actix::Arbiter::new();
    let dedup = Recorder::start_in_arbiter(&gone.handle(), |_| Recorder::default()).recipient();
    gone.stop();
    gone.join().expect("ended");
    let hash = HashActor::new(dedup, bench.spool.clone(), Arc::new(config()), scoping()).start();
    let (sender, body) = mpsc::channel(10);
    for event in whole(b"bytes") {
        sender.send(event).await.expect("room");
    }
    let request = request();
    let answer = hash.send(HashUpload { request, body }).await;
    let error = answer.expect("alive").expect_err("nobody answered");
    assert!(
        matches!(error, UploadError::Unavailable { .. }),
        "{error:?}"
    );
    bench.assert_free().await;
}
