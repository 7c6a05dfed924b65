//! A client's calls, as the history's steps name them.

use entity::ImageId;
use futures::future::LocalBoxFuture;
use hapax::ledger::LedgerError;
use hapax::service::{NewReference, Service};
use hapax::upload::{ContentRef, ReleasedImage, StoredImage, StoredUpload, TenantId, UploadError};

use super::model::{Deleted, Named};
use super::world::World;

/// A call with its picks resolved to what they name.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    Upload(Vec<usize>, Option<u8>),
    Refer(Named, Option<u8>),
    Delete(Vec<ImageId>),
    Webhook(u8, Vec<ImageId>),
}

/// What the server said.
#[derive(Debug)]
pub(super) enum Answer {
    Images {
        images: Vec<StoredImage>,
        replayed: bool,
    },
    Refused(UploadError),
    Deleted(Vec<Deleted>),
    Receipt {
        result: serde_json::Value,
        replayed: bool,
    },
    /// It may have happened or not, which nothing here is a reason for.
    Unknown {
        #[expect(dead_code, reason = "it is shown when it was not expected")]
        why: String,
    },
}

impl World {
    /// Sends a call. The future borrows nothing: the server may be taken away under it.
    pub(super) fn send(&self, ask: &Ask) -> impl Future<Output = Answer> + use<> {
        let service = self.service();
        let call: LocalBoxFuture<'static, Answer> = match ask.clone() {
            Ask::Upload(contents, key) => {
                let files = self.files(&contents);
                Box::pin(async move { World::upload(service, files, key, true).await.into() })
            }
            Ask::Refer(named, key) => {
                let content = match named {
                    Named::Content(content) => ContentRef::Digest(self.contents[content].1),
                    Named::Original(original) => ContentRef::Original(original),
                };
                Box::pin(refer(service, content, key))
            }
            Ask::Delete(ids) => Box::pin(delete(service, ids)),
            Ask::Webhook(event, ids) => {
                let event_id = self.event_id(event);
                Box::pin(async move { deliver(service, event_id, ids).await })
            }
        };
        call
    }
}

async fn refer(service: Service, content: ContentRef, key: Option<u8>) -> Answer {
    let reference = NewReference {
        tenant: TenantId::default(),
        content,
        filename: Some("0".to_owned()),
        metadata: None,
        idempotency_key: key.map(|key| format!("key-{key}")),
    };
    let images = service.reference(reference).await.map(|image| vec![image]);
    // A reference's answer does not tell whether its key came before.
    let replayed = false;
    images
        .map(|images| StoredUpload { images, replayed })
        .into()
}

async fn delete(service: Service, ids: Vec<ImageId>) -> Answer {
    let left = |image: &ReleasedImage| image.original.as_ref().map(|row| row.reference_count);
    match service.release(&TenantId::default(), ids).await {
        Ok(released) => {
            let released = released.iter();
            Answer::Deleted(
                released
                    .map(|image| (image.id, image.outcome, left(image)))
                    .collect(),
            )
        }
        Err(error) => error.into(),
    }
}

async fn deliver(service: Service, event_id: String, ids: Vec<ImageId>) -> Answer {
    let tenant = TenantId::default();
    match service.release_once(&tenant, &event_id, ids).await {
        Ok(receipt) => Answer::Receipt {
            result: receipt.result,
            replayed: receipt.replayed,
        },
        Err(error) => error.into(),
    }
}

impl From<Result<StoredUpload, UploadError>> for Answer {
    fn from(answer: Result<StoredUpload, UploadError>) -> Self {
        match answer {
            Ok(StoredUpload { images, replayed }) => Self::Images { images, replayed },
            Err(UploadError::Unavailable { what }) => Self::Unknown { why: what },
            Err(error) => Self::Refused(error),
        }
    }
}

impl From<LedgerError> for Answer {
    fn from(error: LedgerError) -> Self {
        let why = error.to_string();
        Self::Unknown { why }
    }
}
