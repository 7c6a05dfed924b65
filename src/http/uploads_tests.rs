//! The race between a body and the service's answer, and what the service hears of a raw body.

use std::cell::Cell;

use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use futures::{future, stream};

use super::*;

type Chunks = Vec<Result<Bytes, PayloadError>>;

fn payload(chunks: Chunks) -> Payload {
    Payload::Stream {
        payload: stream::iter(chunks).boxed_local(),
    }
}

fn two_chunks() -> Chunks {
    vec![Ok(Bytes::from_static(b"ab")), Ok(Bytes::from_static(b"c"))]
}

/// A service that takes what comes: how many bytes, and whether the body was complete.
async fn listen(mut events: mpsc::Receiver<BodyEvent>) -> Result<usize, UploadError> {
    let mut bytes = 0;
    while let Some(event) = events.recv().await {
        match event {
            BodyEvent::Chunk(chunk) => bytes += chunk.len(),
            BodyEvent::Complete => return Ok(bytes),
            _ => {}
        }
    }
    Err(UploadError::Incomplete)
}

#[actix_web::test]
async fn whoever_takes_a_piece_is_woken_before_it_where_more_waits() {
    let full = || Ok(Bytes::from(vec![b'x'; FULL_READ_BYTES]));
    let short = || Ok(Bytes::from_static(b"ab"));
    let (events, mut heard) = mpsc::channel(2);
    let mut pieces = Pieces::of(payload(vec![full(), short(), full(), short()]));
    for woken in [false, true, false, true, false] {
        let piece = pieces.next(&events).await;
        assert_eq!(heard.try_recv().is_ok(), woken, "before {piece:?}");
    }
    // It is awake.
    let mut pieces = Pieces::of(payload(vec![full(), short()]));
    let first = pieces.next(&events).await.expect("a piece").expect("whole");
    let sent = send(&events, BodyEvent::Chunk(first)).await;
    assert!(sent.is_ok() && pieces.next(&events).await.is_some());
    assert!(matches!(heard.try_recv(), Ok(BodyEvent::Chunk(_))));
    assert!(heard.try_recv().is_err());
}

#[actix_web::test]
async fn a_whole_body_passes_a_channel_of_one() {
    let (sender, receiver) = mpsc::channel(1);
    let feeding = feed_raw(payload(two_chunks()), None, sender);
    let result = first_decided(pin!(feeding), pin!(listen(receiver))).await;
    assert_eq!(result.map_err(|problem| problem.code), Ok(3));
}

#[actix_web::test]
async fn a_cut_body_is_refused_after_the_service_let_go() {
    let mut chunks = two_chunks();
    chunks.push(Err(PayloadError::Incomplete(None)));
    let (sender, receiver) = mpsc::channel(1);
    let let_go = Cell::new(false);
    let outcome = async {
        let outcome = listen(receiver).await;
        tokio::task::yield_now().await;
        let_go.set(true);
        outcome
    };
    let feeding = feed_raw(payload(chunks), None, sender);
    let result = first_decided(pin!(feeding), pin!(outcome)).await;
    assert_eq!(
        result.map_err(|problem| problem.code),
        Err(Code::IncompleteBody)
    );
    assert!(let_go.get());
}

#[actix_web::test]
async fn an_early_refusal_does_not_wait_for_the_body() {
    let too_large = || UploadError::TooLarge { limit_bytes: 1 };
    let never = future::pending::<Result<(), FeedError>>();
    let refused = async { Err::<(), _>(too_large()) };
    let result = first_decided(pin!(never), pin!(refused)).await;
    assert_eq!(
        result.map_err(|problem| problem.code),
        Err(Code::BodyTooLarge)
    );

    // The service stops listening a moment before its answer is there.
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    let outcome = async {
        tokio::task::yield_now().await;
        Err::<(), _>(too_large())
    };
    let result = first_decided(
        pin!(feed_raw(payload(two_chunks()), None, sender)),
        pin!(outcome),
    )
    .await;
    assert_eq!(
        result.map_err(|problem| problem.code),
        Err(Code::BodyTooLarge)
    );
}

fn future_bytes<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
    size_of::<F>()
}

/// Every connection whose body is still coming holds it, and slow clients hold it for long. What is passed on
/// by value from one future into the next is kept by both.
#[test]
fn an_upload_that_waits_is_small() {
    let bytes = future_bytes(upload_images);
    assert!(bytes <= 2560, "{bytes}");
}
