//! The pieces that every upload goes through, each by itself, so that a change that slows one down is
//! seen in the piece and not only in the whole: `cargo bench --bench hot_paths`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use entity::{ContentDigest, ImageId, LeaseToken, OriginalId};
use hapax::config::DatabaseConfig;
use hapax::http::multipart::{MultipartParser, PartEvent};
use hapax::ledger::Ledger;
use hapax::ledger::batch::{CommitUpload, ContentClaim, NewImage, Operation, Run};
use hapax::ledger::pending::NewGeneration;
use hapax::spool::{Caching, Expected, Spool, SpooledBody};
use hapax::store::{BlobStore, LocalStore};
use hapax::upload::TenantId;
use tokio::runtime::Runtime;
use uuid::Uuid;

const KIB: usize = 1024;
/// A photo on a web page.
const PHOTO_BYTES: usize = 100 * KIB;
/// What one read of a socket brings.
const CHUNK_BYTES: usize = 32 * KIB;
const MIB: u64 = 1024 * 1024;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn chunks(bytes: usize) -> Vec<Bytes> {
    let all = Bytes::from((0..bytes).map(|at| (at * 31) as u8).collect::<Vec<_>>());
    (0..bytes)
        .step_by(CHUNK_BYTES)
        .map(|at| all.slice(at..bytes.min(at + CHUNK_BYTES)))
        .collect()
}

/// Hash and keep, as the chunks of one small upload arrive.
fn hash_and_spool(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Spool::open(folder.path(), 256 * MIB, MIB, Caching::Direct).expect("a spool");
    let (runtime, chunks) = (runtime(), chunks(PHOTO_BYTES));
    let mut group = c.benchmark_group("spool");
    group.throughput(Throughput::Bytes(PHOTO_BYTES as u64));
    group.bench_function("100 KiB in memory", |b| {
        b.iter(|| runtime.block_on(spooled(&spool, &chunks)));
    });
    group.finish();
}

async fn spooled(spool: &Spool, chunks: &[Bytes]) -> (SpooledBody, ContentDigest) {
    let mut writer = spool.writer(Expected::default());
    for chunk in chunks {
        writer.write(chunk.clone()).await.expect("written");
    }
    writer.finish().await.expect("finished")
}

fn multipart(c: &mut Criterion) {
    let mut form =
        b"--limit\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.jpg\"\r\n\
        Content-Type: image/jpeg\r\n\r\n"
            .to_vec();
    form.extend(chunks(PHOTO_BYTES).iter().flatten());
    form.extend_from_slice(b"\r\n--limit--\r\n");
    let form = Bytes::from(form);
    let mut group = c.benchmark_group("multipart");
    group.throughput(Throughput::Bytes(form.len() as u64));
    group.bench_function("one file of 100 KiB", |b| b.iter(|| file_bytes(&form)));
    group.finish();
}

fn file_bytes(form: &Bytes) -> usize {
    let mut parser =
        MultipartParser::for_content_type("multipart/form-data; boundary=limit").expect("a form");
    let mut bytes = 0;
    for at in (0..form.len()).step_by(CHUNK_BYTES) {
        parser.feed(form.slice(at..form.len().min(at + CHUNK_BYTES)));
        while let Some(event) = parser.next_event().expect("well formed") {
            if let PartEvent::Data(data) = event {
                bytes += black_box(data).len();
            }
        }
    }
    parser.finish().expect("complete");
    bytes
}

/// One group commit of duplicates on SQLite: what a single upload pays, and what 128 share.
fn ledger_batch(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = runtime();
    let config = DatabaseConfig {
        url: format!("sqlite://{}", folder.path().join("hapax.db").display()),
        ..DatabaseConfig::default()
    };
    let ledger = runtime.block_on(async {
        let ledger = Ledger::connect(&config).await.expect("connected");
        ledger.migrate_up(&config).await.expect("migrated");
        store_one(&ledger).await;
        ledger
    });
    let mut group = c.benchmark_group("ledger batch on SQLite");
    for operations in [1, 16, 128] {
        group.throughput(Throughput::Elements(operations));
        group.bench_function(format!("{operations} duplicates"), |b| {
            b.iter_batched(
                || (0..operations).map(|_| upload(None)).collect::<Vec<_>>(),
                |batch| runtime.block_on(ledger.apply_batch(&batch, Run::First, Duration::ZERO)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    runtime.block_on(ledger.close());
}

fn digest() -> ContentDigest {
    ContentDigest::from([7; 32])
}

fn upload(own: Option<(OriginalId, LeaseToken)>) -> Operation {
    let image = NewImage {
        id: ImageId(Uuid::now_v7()),
        content: 0,
        filename: Some("photo.jpg".to_owned()),
        mime_type: Some("image/jpeg".to_owned()),
        metadata: None,
    };
    Operation::Upload(CommitUpload {
        tenant: TenantId::parse("default").expect("a good name"),
        scope: "default".to_owned(),
        contents: vec![ContentClaim {
            digest: digest(),
            file_size: PHOTO_BYTES as i64,
            own,
        }],
        intents: Vec::new(),
        images: vec![image],
        must_not_exist: None,
    })
}

async fn store_one(ledger: &Ledger) {
    let (id, lease_token) = (OriginalId(Uuid::now_v7()), LeaseToken(Uuid::new_v4()));
    let generation = NewGeneration {
        id,
        lease_token,
        scope: "default".to_owned(),
        digest: digest(),
        file_size: PHOTO_BYTES as i64,
        s3_key: format!("{id}"),
        mime_type: None,
        dimensions: None,
        lease: Duration::from_secs(900),
        put_deadline: Duration::from_secs(3600),
    };
    let mut announcing = upload(None);
    if let Operation::Upload(upload) = &mut announcing {
        upload.intents.push(generation);
    }
    for operation in [announcing, upload(Some((id, lease_token)))] {
        ledger
            .apply_batch(&[operation], Run::First, Duration::ZERO)
            .await
            .expect("announced, then stored");
    }
}

/// A durable file: what a new original pays to the disk.
fn local_put(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("objects");
    let store = Arc::new(LocalStore::open(&path).expect("a store"));
    let spool = Spool::open(
        LocalStore::spool_dir(&path),
        256 * MIB,
        MIB,
        Caching::Direct,
    )
    .expect("a spool");
    let runtime = runtime();
    let (body, digest) = runtime.block_on(spooled(&spool, &chunks(PHOTO_BYTES)));
    let mut group = c.benchmark_group("local store");
    group.throughput(Throughput::Elements(1));
    group.bench_function("put of 100 KiB", |b| {
        b.iter(|| {
            let key = store.key_for(&digest, OriginalId(Uuid::now_v7()));
            runtime
                .block_on(store.put(key.as_str(), &body, &digest))
                .expect("stored");
        });
    });
    group.finish();
}

criterion_group!(
    hot_paths,
    hash_and_spool,
    multipart,
    ledger_batch,
    local_put
);
criterion_main!(hot_paths);
