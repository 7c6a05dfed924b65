//! The same service as a competent team would write it first: the same tables, the same store, one
//! transaction per operation, the row lock as the only coordination, no actors, no group commit.
//!
//! It does on the good path what Hapax does; what Hapax does about crashes, unknown outcomes and late
//! writes it does not do, and so it is spared their cost.

use std::collections::HashMap;
use std::sync::Arc;

use actix_multipart::Multipart;
use actix_web::web::{Bytes, Data, Json, Path};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, error, web};
use anyhow::{Context, Result};
use chrono::Utc;
use entity::{ContentDigest, ImageId, OriginalId, images, original_images};
use futures::StreamExt;
use hapax::config::Config;
use hapax::ledger::Ledger;
use hapax::sniff::sniff_blocking;
use hapax::spool::SpooledBody;
use hapax::store::BlobStore;
use sea_orm::sea_query::Expr;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, ConnectOptions, Database, DatabaseConnection,
    DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter, QuerySelect, SqlErr,
    TransactionTrait,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::announce;

const TENANT: &str = "default";

struct Naive {
    database: DatabaseConnection,
    store: Arc<dyn BlobStore>,
}

#[derive(Serialize)]
struct Image {
    id: Uuid,
    original_image_id: Option<Uuid>,
    content_hash: String,
    file_size: i64,
    filename: Option<String>,
    mime_type: Option<String>,
    deduplicated: bool,
}

#[derive(Serialize)]
struct Deleted {
    id: Uuid,
    outcome: &'static str,
}

#[derive(Deserialize)]
struct BulkDelete {
    ids: Vec<Uuid>,
}

struct File {
    filename: Option<String>,
    digest: ContentDigest,
    body: SpooledBody,
}

pub(super) async fn serve() -> Result<()> {
    let config = Config::load(None).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let ledger = Ledger::connect(&config.database).await?;
    ledger.migrate_up(&config.database).await?;
    ledger.close().await;
    let naive = Data::from(Arc::new(Naive {
        database: connect(&config.database.url).await?,
        store: hapax::store::open(&config.storage).await?,
    }));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(naive.clone())
            .app_data(web::JsonConfig::default().limit(1024 * 1024))
            .route("/v1/images", web::post().to(upload))
            .route("/v1/images/delete", web::post().to(delete_many))
            .route("/v1/images/{id}", web::delete().to(delete))
            .route("/v1/images/{id}/content", web::get().to(content))
            .route("/healthz", web::get().to(|| async { "ok" }))
    })
    .bind("127.0.0.1:0")?;
    announce(server.addrs()[0])?;
    server.run().await?;
    Ok(())
}

/// The settings that Hapax has too. SQLite has one writer whatever a pool says.
async fn connect(url: &str) -> Result<DatabaseConnection> {
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false);
    if url.starts_with("sqlite:") {
        options
            .max_connections(1)
            .map_sqlx_sqlite_opts(|sqlite: SqliteConnectOptions| {
                sqlite
                    .foreign_keys(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
            });
    } else {
        options.max_connections(16);
    }
    Database::connect(options)
        .await
        .context("cannot open the database")
}

async fn upload(mut form: Multipart, naive: Data<Naive>) -> actix_web::Result<HttpResponse> {
    let mut images = Vec::new();
    while let Some(field) = form.next().await {
        let mut field = field?;
        let filename = field
            .content_disposition()
            .and_then(|disposition| disposition.get_filename())
            .map(ToOwned::to_owned);
        let (mut hash, mut chunks, mut bytes) = (Sha256::new(), Vec::new(), 0);
        while let Some(chunk) = field.next().await {
            let chunk: Bytes = chunk?;
            hash.update(&chunk);
            bytes += chunk.len() as u64;
            chunks.push(chunk);
        }
        let permit = Arc::new(Semaphore::new(1))
            .acquire_owned()
            .await
            .map_err(internal)?;
        let digest: [u8; 32] = hash.finalize().into();
        let file = File {
            filename,
            digest: digest.into(),
            body: SpooledBody::Memory {
                chunks: chunks.into(),
                bytes,
                permit: Arc::new(permit),
            },
        };
        images.push(naive.store_file(&file).await.map_err(internal)?);
    }
    Ok(HttpResponse::Created().json(HashMap::from([("images", images)])))
}

async fn delete(id: Path<Uuid>, naive: Data<Naive>) -> actix_web::Result<HttpResponse> {
    let deleted = naive.delete_image(*id).await.map_err(internal)?;
    Ok(HttpResponse::Ok().json(deleted))
}

/// One deletion after the other: the function for one image is there already.
async fn delete_many(
    request: Json<BulkDelete>,
    naive: Data<Naive>,
) -> actix_web::Result<HttpResponse> {
    let mut results = Vec::with_capacity(request.ids.len());
    for id in &request.ids {
        results.push(naive.delete_image(*id).await.map_err(internal)?);
    }
    Ok(HttpResponse::Ok().json(HashMap::from([("results", results)])))
}

async fn content(
    request: HttpRequest,
    id: Path<Uuid>,
    naive: Data<Naive>,
) -> actix_web::Result<HttpResponse> {
    let found = images::Entity::find_by_id(ImageId(*id))
        .find_also_related(original_images::Entity)
        .one(&naive.database)
        .await
        .map_err(internal)?;
    let Some((_, Some(original))) = found else {
        return Ok(HttpResponse::NotFound().finish());
    };
    let size = original.file_size as u64;
    let range = request
        .headers()
        .get("range")
        .and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'))
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse::<u64>().ok()? + 1))
        .filter(|range: &std::ops::Range<u64>| range.start < range.end && range.end <= size);
    let mut answer = match range {
        Some(_) => HttpResponse::PartialContent(),
        None => HttpResponse::Ok(),
    };
    let length = range.as_ref().map_or(size, |range| range.end - range.start);
    let bytes = naive
        .store
        .get(&original.s3_key, range)
        .await
        .map_err(internal)?;
    let bytes = bytes.map(|chunk| chunk.map_err(internal));
    Ok(answer.body(actix_web::body::SizedStream::new(length, bytes)))
}

impl Naive {
    async fn store_file(&self, file: &File) -> Result<Image> {
        let sniffed = sniff_blocking(&file.body)?;
        loop {
            if let Some(image) = self.attach(file, sniffed.mime_type).await? {
                return Ok(image);
            }
            let id = OriginalId(Uuid::now_v7());
            let key = self.store.key_for(&file.digest, id);
            self.store
                .put(key.as_str(), &file.body, &file.digest)
                .await?;
            let now = Utc::now();
            let original = original_images::ActiveModel {
                id: Set(id),
                scope: Set(TENANT.to_owned()),
                content_hash: Set(file.digest),
                file_size: Set(file.body.len() as i64),
                s3_key: Set(key.as_str().to_owned()),
                mime_type: Set(sniffed.mime_type.map(ToOwned::to_owned)),
                width: Set(sniffed.dimensions.map(|(width, _)| width as i32)),
                height: Set(sniffed.dimensions.map(|(_, height)| height as i32)),
                state: Set(original_images::OriginalState::Stored),
                reference_count: Set(1),
                put_deadline: Set(now),
                stored_at: Set(Some(now)),
                ..Default::default()
            };
            let transaction = self.database.begin().await?;
            match original_images::Entity::insert(original)
                .exec_without_returning(&transaction)
                .await
            {
                Ok(_) => {}
                Err(error)
                    if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) =>
                {
                    transaction.rollback().await?;
                    self.store.delete(&[key.as_str().to_owned()]).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let image = insert_image(&transaction, file, id, sniffed.mime_type, false).await?;
            transaction.commit().await?;
            return Ok(image);
        }
    }

    async fn attach(&self, file: &File, mime_type: Option<&str>) -> Result<Option<Image>> {
        let transaction = self.database.begin().await?;
        let original = original_images::Entity::find()
            .filter(original_images::Column::Scope.eq(TENANT))
            .filter(original_images::Column::ContentHash.eq(file.digest))
            .filter(original_images::Column::FileSize.eq(file.body.len() as i64))
            .filter(original_images::Column::State.eq(original_images::OriginalState::Stored))
            .lock_exclusive()
            .one(&transaction)
            .await?;
        let Some(original) = original else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let image = insert_image(&transaction, file, original.id, mime_type, true).await?;
        add_references(&transaction, original.id, 1).await?;
        transaction.commit().await?;
        Ok(Some(image))
    }

    async fn delete_image(&self, id: Uuid) -> Result<Deleted> {
        let transaction = self.database.begin().await?;
        let image = images::Entity::find_by_id(ImageId(id))
            .lock_exclusive()
            .one(&transaction)
            .await?;
        let Some(image) = image else {
            transaction.rollback().await?;
            return Ok(Deleted {
                id,
                outcome: "unknown",
            });
        };
        let Some(original_id) = image.original_image_id else {
            transaction.rollback().await?;
            return Ok(Deleted {
                id,
                outcome: "already_deleted",
            });
        };
        let mut image: images::ActiveModel = image.into();
        image.deleted_at = Set(Some(Utc::now()));
        image.was_original_id = Set(Some(original_id));
        image.original_image_id = Set(None);
        image.update(&transaction).await?;
        add_references(&transaction, original_id, -1).await?;
        let original = original_images::Entity::find_by_id(original_id)
            .filter(original_images::Column::ReferenceCount.eq(0))
            .one(&transaction)
            .await?;
        if original.is_some() {
            original_images::Entity::delete_by_id(original_id)
                .exec(&transaction)
                .await?;
        }
        transaction.commit().await?;
        if let Some(original) = original {
            self.store.delete(&[original.s3_key]).await?;
        }
        Ok(Deleted {
            id,
            outcome: "deleted",
        })
    }
}

async fn insert_image(
    transaction: &DatabaseTransaction,
    file: &File,
    original: OriginalId,
    mime_type: Option<&str>,
    deduplicated: bool,
) -> Result<Image, DbErr> {
    let image = images::ActiveModel {
        id: Set(ImageId(Uuid::now_v7())),
        tenant: Set(TENANT.to_owned()),
        original_image_id: Set(Some(original)),
        content_hash: Set(Some(file.digest)),
        file_size: Set(Some(file.body.len() as i64)),
        filename: Set(file.filename.clone()),
        mime_type: Set(mime_type.map(ToOwned::to_owned)),
        legacy: Set(false),
        deduplicated: Set(deduplicated),
        created_at: Set(Utc::now()),
        ..Default::default()
    };
    let image = image.insert(transaction).await?;
    Ok(Image {
        id: image.id.0,
        original_image_id: image.original_image_id.map(|id| id.0),
        content_hash: file.digest.to_string(),
        file_size: file.body.len() as i64,
        filename: image.filename,
        mime_type: image.mime_type,
        deduplicated,
    })
}

async fn add_references(
    transaction: &DatabaseTransaction,
    original: OriginalId,
    change: i64,
) -> Result<(), DbErr> {
    let count = original_images::Column::ReferenceCount;
    original_images::Entity::update_many()
        .col_expr(count, Expr::col(count).add(change))
        .col_expr(
            original_images::Column::ZeroSince,
            Expr::case(Expr::col(count).eq(-change), Expr::val(Utc::now())).into(),
        )
        .filter(original_images::Column::Id.eq(original))
        .exec(transaction)
        .await?;
    Ok(())
}

fn internal(error: impl std::fmt::Display) -> actix_web::Error {
    error::ErrorInternalServerError(error.to_string())
}
