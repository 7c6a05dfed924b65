//! What goes over the wire, seen by the server.

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::store::StoreErrorKind::{NotFound, Throttled};
use crate::store::testing::{BUCKET, S3Server, SeenRequest, digest_of, file_body, memory_body};

async fn serve(prefix: &str) -> (S3Server, S3Store) {
    let server = S3Server::start().await;
    let store = S3Store::open(&server.config(prefix)).await.expect("opened");
    (server, store)
}

fn new_key(store: &S3Store, digest: &ContentDigest) -> String {
    store
        .key_for(digest, OriginalId(Uuid::new_v4()))
        .to_string()
}

fn header<'a>(request: &'a SeenRequest, name: &str) -> Option<&'a str> {
    request
        .headers
        .get(name)
        .map(|value| value.to_str().expect("ASCII"))
}

#[tokio::test]
async fn a_put_is_one_request_with_its_length_and_its_sha256() {
    let (server, store) = serve("hapax").await;
    let spool = tempfile::tempdir().expect("a directory");
    let large = vec![7; 3 * 1024 * 1024 + 1];
    for (bytes, body) in [
        (&large[..5000], memory_body(&large[..5000])),
        (&large[..], file_body(&large, spool.path())),
    ] {
        let digest = digest_of(bytes);
        let key = new_key(&store, &digest);
        store.put(&key, &body, &digest).await.expect("put");

        let seen = server.take_seen();
        let [request] = &seen[..] else {
            panic!("exactly one request: {seen:?}");
        };
        assert_eq!(request.method, Method::PUT);
        let path = request.path_and_query.split('?').next();
        assert_eq!(path, Some(&*format!("/{BUCKET}/{key}")));
        let checksum = BASE64.encode(digest.as_bytes());
        assert_eq!(header(request, "x-amz-checksum-sha256"), Some(&*checksum));
        assert_eq!(
            header(request, "x-amz-content-sha256"),
            Some(&*digest.to_string())
        );
        assert_eq!(
            header(request, "content-length"),
            Some(&*bytes.len().to_string())
        );
        for absent in [
            "transfer-encoding",
            "content-encoding",
            "x-amz-trailer",
            "expect",
        ] {
            assert_eq!(header(request, absent), None, "{absent}");
        }
        let signed = header(request, "authorization").expect("signed");
        assert!(signed.contains("x-amz-checksum-sha256"), "{signed}");
    }
}

#[tokio::test]
async fn a_failed_put_is_never_tried_again() {
    let (server, store) = serve("hapax").await;
    let digest = digest_of(b"bytes");
    for (status, body, kind) in [
        (500, "<Error><Code>InternalError</Code></Error>", Unknown),
        (503, "<Error><Code>SlowDown</Code></Error>", Throttled),
        (503, "", Throttled),
        (403, "<Error><Code>AccessDenied</Code></Error>", Refused),
        (400, "<Error><Code>BadDigest</Code></Error>", Refused),
        (
            403,
            "<Error><Code>RequestTimeTooSkewed</Code></Error>",
            Refused,
        ),
    ] {
        server.answer_next(StatusCode::from_u16(status).expect("a status"), body);
        let key = new_key(&store, &digest);
        let put = store.put(&key, &memory_body(b"bytes"), &digest).await;
        assert_eq!(put.expect_err("refused").kind, kind, "{status} {body}");
        assert_eq!(server.take_seen().len(), 1, "{status} {body}");
    }
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn reads_and_deletes_are_tried_again() {
    let (server, store) = serve("hapax").await;
    let digest = digest_of(b"bytes");
    let key = new_key(&store, &digest);
    store
        .put(&key, &memory_body(b"bytes"), &digest)
        .await
        .expect("put");
    server.take_seen();
    let unavailable = || server.answer_next(StatusCode::SERVICE_UNAVAILABLE, "");
    unavailable();
    assert_eq!(store.stat(&key).await.expect("there"), 5);
    unavailable();
    assert!(store.delete(&[key]).await.expect("answered")[0].is_ok());
    assert_eq!(server.take_seen().len(), 4);
}

#[tokio::test]
async fn a_wrong_digest_is_never_stored() {
    let (server, store) = serve("hapax").await;
    let digest = digest_of(b"other bytes");
    let key = new_key(&store, &digest);
    let put = store.put(&key, &memory_body(b"bytes"), &digest).await;
    put.expect_err("refused");
    assert_eq!(
        store.stat(&key).await.expect_err("not there").kind,
        NotFound
    );
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn a_thousand_deletes_are_one_request() {
    let (server, store) = serve("hapax").await;
    let digest = digest_of(b"bytes");
    let keys: Vec<_> = (0..1000).map(|_| new_key(&store, &digest)).collect();
    store
        .put(&keys[999], &memory_body(b"bytes"), &digest)
        .await
        .expect("put");
    server.take_seen();
    let results = store.delete(&keys).await.expect("answered");
    assert_eq!(results.len(), 1000);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(server.take_seen().len(), 1);
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn failures_inside_of_a_batch_belong_to_their_keys() {
    let (server, store) = serve("").await;
    let keys = ["a", "b", "c", "d"].map(ToOwned::to_owned);
    server.answer_next(
        StatusCode::OK,
        "<DeleteResult>\
         <Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error>\
         <Error><Key>c</Key><Code>InternalError</Code><Message>sorry</Message></Error>\
         <Error><Key>d</Key><Code>NoSuchKey</Code></Error>\
         </DeleteResult>",
    );
    let results = store.delete(&keys).await.expect("answered");
    let kinds: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().map(|error| error.kind))
        .collect();
    assert_eq!(kinds, [None, Some(Refused), Some(Unknown), None]);

    let stranger = "<DeleteResult><Error><Key>z</Key><Code>X</Code></Error></DeleteResult>";
    server.answer_next(StatusCode::OK, stranger);
    assert_eq!(
        store.delete(&keys).await.expect_err("unclear").kind,
        Unknown
    );
}

#[tokio::test]
async fn foreign_objects_are_passed_over_and_paging_goes_on() {
    let (server, store) = serve("").await;
    for i in 0..1005 {
        let path = server.path_of(&format!("00-foreign/{i:05}"));
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, b"not ours").expect("written");
    }
    let digest = digest_of(b"bytes");
    let key = new_key(&store, &digest);
    store
        .put(&key, &memory_body(b"bytes"), &digest)
        .await
        .expect("put");
    let first = store.list(None).await.expect("listed");
    assert!(first.blobs.is_empty());
    let second = store.list(first.next.as_deref()).await.expect("listed");
    assert_eq!(second.blobs[0].key, key);
    assert_eq!(second.next, None);
}

#[tokio::test]
async fn a_missing_bucket_is_no_missing_object() {
    let (server, _) = serve("hapax").await;
    let mut config = server.config("hapax");
    config.bucket = "elsewhere".to_owned();
    let store = S3Store::open(&config).await.expect("opened");
    assert_eq!(store.list(None).await.expect_err("no bucket").kind, Refused);
    let no_bucket = "<Error><Code>NoSuchBucket</Code></Error>";
    server.answer_next(StatusCode::NOT_FOUND, no_bucket);
    let get = store.get("any", None).await.err().expect("no bucket");
    assert_eq!(get.kind, Refused);
    server.answer_next(StatusCode::NOT_FOUND, no_bucket);
    assert_eq!(
        store.read_store_id().await.expect_err("no bucket").kind,
        Refused
    );
    server.answer_next(StatusCode::NOT_FOUND, no_bucket);
    server.answer_next(StatusCode::NOT_FOUND, no_bucket);
    assert_eq!(store.probe().await.expect_err("no bucket").kind, Refused);
}

#[tokio::test]
async fn a_probe_that_was_lied_to_leaves_nothing_either() {
    let (server, store) = serve("hapax").await;
    let found = store.probe().await.expect("probed");
    assert!(found.verifies_checksum);
    assert!(server.objects().is_empty(), "{:?}", server.objects());
    let methods: Vec<_> = server
        .take_seen()
        .into_iter()
        .map(|seen| seen.method)
        .collect();
    assert_eq!(
        methods,
        [
            Method::PUT,
            Method::GET,
            Method::PUT,
            Method::POST,
            Method::GET
        ]
    );
}

/// A process that is killed in the middle of its probe, and a PUT that lands after it was given up,
/// leave an object that only a later start can delete.
#[tokio::test]
async fn what_earlier_probes_left_is_deleted() {
    let (server, store) = serve("hapax").await;
    let day_ago = chrono::Utc::now() - chrono::TimeDelta::days(1);
    let seconds = u64::try_from(day_ago.timestamp()).expect("after 1970");
    let day_ago = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0));
    let [old, new] = [day_ago, Uuid::now_v7()].map(|nonce| {
        let key = StorageKey::probe("hapax", nonce);
        key.to_string()
    });
    for key in [&old, &new, &"hapax/.hapax/probe-of-mine".to_owned()] {
        let put = store.put_bytes(key, Bytes::from_static(b"left"));
        put.await.expect("stored");
    }
    store.probe().await.expect("probed");
    // The young one may be in somebody's hands.
    assert_eq!(
        server.objects(),
        [new.as_str(), "hapax/.hapax/probe-of-mine"]
    );
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_unknown() {
    let (server, _) = serve("hapax").await;
    let mut config = server.config("hapax");
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = deaf.local_addr().expect("an address");
    config.endpoint = Some(format!("http://{address}"));
    config.operation_timeout = Duration::from_millis(200);
    let store = S3Store::open(&config).await.expect("opened");
    let digest = digest_of(b"bytes");
    let put = store.put("key", &memory_body(b"bytes"), &digest).await;
    assert_eq!(put.expect_err("no answer").kind, Unknown);

    drop(deaf);
    let put = store.put("key", &memory_body(b"bytes"), &digest).await;
    assert_eq!(put.expect_err("nobody there").kind, Unknown);
    assert_eq!(
        store.stat("key").await.expect_err("nobody there").kind,
        Unknown
    );
}

/// Answers one GET with these bytes and closes.
async fn answer_raw(answer: &'static str) -> S3Store {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a client");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            socket.read_buf(&mut head).await.expect("a request");
        }
        socket.write_all(answer.as_bytes()).await.expect("answered");
    });
    let config = crate::config::S3StorageConfig {
        endpoint: Some(format!("http://{address}")),
        bucket: BUCKET.to_owned(),
        path_style: true,
        access_key_id: Some("id".to_owned()),
        secret_access_key: Some("secret".to_owned()),
        ..Default::default()
    };
    S3Store::open(&config).await.expect("opened")
}

#[tokio::test]
async fn a_cut_read_is_unknown_and_a_short_one_damaged() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfive!";
    let store = answer_raw(cut).await;
    let stream = store.get("key", None).await.expect("begun");
    let read: Result<Vec<Bytes>, _> = stream.try_collect().await;
    assert_eq!(read.expect_err("cut").kind, Unknown);

    let short = "HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\
                 Content-Range: bytes 0-8/9\r\n\r\n5\r\nfive!\r\n0\r\n\r\n";
    let store = answer_raw(short).await;
    let stream = store.get("key", Some(0..9)).await.expect("begun");
    let read: Result<Vec<Bytes>, _> = stream.try_collect().await;
    assert_eq!(read.expect_err("short").kind, Damaged);
}

#[tokio::test]
async fn a_presigned_url_serves_the_object_alone() {
    let (_server, store) = serve("hapax").await;
    let digest = digest_of(b"bytes");
    let key = new_key(&store, &digest);
    store
        .put(&key, &memory_body(b"bytes"), &digest)
        .await
        .expect("put");
    let url = store
        .presign_get(
            &key,
            Duration::from_secs(60),
            "image/png",
            "inline; filename=\"a b.png\"",
        )
        .await
        .expect("signed")
        .expect("S3 has URLs");
    assert!(url.contains("response-content-type=image%2Fpng"), "{url}");
    assert!(
        url.contains("response-content-disposition=inline%3B"),
        "{url}"
    );
    let answer = reqwest::get(&url).await.expect("answered");
    assert_eq!(answer.status(), 200);
    assert_eq!(&answer.bytes().await.expect("read")[..], b"bytes");
    let forged = url.replace("image%2Fpng", "text%2Fhtml");
    assert_eq!(reqwest::get(&forged).await.expect("answered").status(), 403);
}
