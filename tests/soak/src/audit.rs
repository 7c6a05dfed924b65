//! What must hold at rest, on what was seen from outside: rows, objects, and what the clients were
//! told. Pure: given a state, it names what is wrong with it.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use crate::findings::Kind;
use crate::history::{Fate, explain};
use crate::journal::{FileClaim, Record, UploadOutcome};

/// A row of `original_images`.
#[derive(Debug, Clone)]
pub(crate) struct OriginalRow {
    pub(crate) id: Uuid,
    pub(crate) scope: String,
    /// Hex.
    pub(crate) hash: String,
    pub(crate) size: i64,
    pub(crate) key: String,
    pub(crate) state: String,
    pub(crate) count: i64,
    pub(crate) damaged: bool,
    /// What its last attempt at anything said.
    pub(crate) last_error: Option<String>,
}

/// A row of `images`.
#[derive(Debug, Clone)]
pub(crate) struct ImageRow {
    pub(crate) id: Uuid,
    pub(crate) original: Option<Uuid>,
    pub(crate) was_original: Option<Uuid>,
    pub(crate) hash: String,
    pub(crate) size: i64,
    pub(crate) filename: String,
    pub(crate) deleted: bool,
}

/// Everything that can be seen past the servers.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) originals: Vec<OriginalRow>,
    pub(crate) images: Vec<ImageRow>,
    /// Lengths by key; without the servers' own.
    pub(crate) objects: BTreeMap<String, u64>,
    pub(crate) webhooks: HashSet<String>,
}

/// What is wrong, and how.
pub(crate) type Wrong = Vec<(Kind, String)>;

/// Rows among themselves and against objects.
pub(crate) fn check_state(state: &State) -> Wrong {
    let mut wrong = Wrong::new();
    let mut live: HashMap<Uuid, i64> = HashMap::new();
    for image in &state.images {
        match (image.deleted, image.original) {
            (false, Some(original)) => *live.entry(original).or_default() += 1,
            (true, None) if image.was_original.is_some() => {}
            _ => wrong.push((
                Kind::Miscounted,
                format!(
                    "image {} is deleted: {}, and points at {:?}",
                    image.id, image.deleted, image.original
                ),
            )),
        }
    }
    let mut objects = state.objects.clone();
    let mut contents = HashSet::new();
    for row in &state.originals {
        let references = live.remove(&row.id).unwrap_or(0);
        check_original(row, references, objects.remove(&row.key), &mut wrong);
        let content = (&row.scope, &row.hash, row.size);
        if row.state == "stored" && !contents.insert(content) {
            wrong.push((Kind::Miscounted, format!("{} is stored twice", row.hash)));
        }
    }
    for (original, references) in live {
        wrong.push((
            Kind::Lost,
            format!("{references} live images point at {original}, which is no row"),
        ));
    }
    for key in objects.keys() {
        wrong.push((Kind::Leaked, format!("object {key} has no row")));
    }
    wrong
}

fn check_original(row: &OriginalRow, references: i64, object: Option<u64>, wrong: &mut Wrong) {
    let key = &row.key;
    if row.count != references {
        wrong.push((
            Kind::Miscounted,
            format!("{key} counts {} images and has {references}", row.count),
        ));
    }
    if row.state != "stored" {
        let (state, why) = (&row.state, &row.last_error);
        wrong.push((Kind::Leaked, format!("{key} is still {state} ({why:?})")));
        if references > 0 {
            wrong.push((
                Kind::Lost,
                format!("{key} is {state} and has {references} images"),
            ));
        }
        return;
    }
    if references == 0 {
        wrong.push((
            Kind::Leaked,
            format!("{key} is stored and nobody refers to it"),
        ));
        return;
    }
    if object.map(|size| size as i64) != Some(row.size) {
        wrong.push((
            Kind::Lost,
            format!("the object of {key} has {object:?} of {} bytes", row.size),
        ));
    }
    if row.damaged {
        wrong.push((Kind::Lost, format!("{key} is marked as damaged")));
    }
}

/// Rows of images against what the uploads were told.
pub(crate) fn check_uploads(state: &State, record: &Record) -> Wrong {
    let mut wrong = Wrong::new();
    let mut rows: HashMap<&str, Vec<&ImageRow>> = HashMap::new();
    for image in &state.images {
        rows.entry(&image.filename).or_default().push(image);
    }
    for upload in &record.uploads {
        let found: Vec<Vec<&ImageRow>> = upload
            .files
            .iter()
            .map(|file| rows.remove(file.filename.as_str()).unwrap_or_default())
            .collect();
        for (file, found) in upload.files.iter().zip(&found) {
            check_rows_of_file(file, found, &mut wrong);
        }
        let name = &upload.files[0].filename;
        let there = found.iter().filter(|rows| !rows.is_empty()).count();
        match &upload.outcome {
            UploadOutcome::Refused if there > 0 => wrong.push((
                Kind::Miscounted,
                format!("{name} was refused, and {there} of its images came into being"),
            )),
            UploadOutcome::Unknown if there != 0 && there != found.len() => wrong.push((
                Kind::Miscounted,
                format!(
                    "{name}: {there} of its {} images came into being",
                    found.len()
                ),
            )),
            UploadOutcome::Acknowledged(images) => {
                for (image, rows) in images.iter().zip(&found) {
                    if rows.iter().all(|row| row.id != *image) {
                        wrong.push((Kind::Lost, format!("image {image} of {name} has no row")));
                    }
                }
            }
            UploadOutcome::Refused | UploadOutcome::Unknown => {}
        }
    }
    for (filename, rows) in rows {
        let count = rows.len();
        wrong.push((
            Kind::Miscounted,
            format!("{count} images {filename}, which nobody uploaded"),
        ));
    }
    wrong
}

fn check_rows_of_file(file: &FileClaim, rows: &[&ImageRow], wrong: &mut Wrong) {
    let name = &file.filename;
    if rows.len() > 1 {
        wrong.push((
            Kind::Miscounted,
            format!("{name} came into being {} times", rows.len()),
        ));
    }
    for row in rows {
        if row.hash != file.hash || row.size != file.size as i64 {
            wrong.push((
                Kind::Lost,
                format!("{name} is kept as {} of {} bytes", row.hash, row.size),
            ));
        }
    }
}

/// Every image's history: explained, and ending in what its row says.
pub(crate) fn check_histories(state: &State, record: &Record) -> Wrong {
    let mut wrong = Wrong::new();
    let rows: HashMap<Uuid, &ImageRow> = state.images.iter().map(|row| (row.id, row)).collect();
    for (image, events) in &record.events {
        let fate = match explain(events) {
            Ok(fate) => fate,
            Err(anomaly) => {
                use crate::history::Anomaly;
                let kind = match anomaly {
                    Anomaly::Lost | Anomaly::DeletedByNobody => Kind::Lost,
                    Anomaly::CreatedTwice | Anomaly::DeletedTwice => Kind::Miscounted,
                    Anomaly::NeverCreated | Anomaly::Undead => Kind::Wrong,
                };
                let text = anomaly.describe();
                wrong.push((
                    kind,
                    format!("image {image}: {text}; its history: {events:?}"),
                ));
                continue;
            }
        };
        let Some(row) = rows.get(image) else {
            wrong.push((Kind::Lost, format!("image {image} has no row")));
            continue;
        };
        match (fate, row.deleted) {
            (Fate::Live, true) => wrong.push((
                Kind::Lost,
                format!("image {image} is deleted, and nobody deleted it: {events:?}"),
            )),
            (Fate::Deleted, false) => wrong.push((
                Kind::Wrong,
                format!("image {image} is live, and was deleted: {events:?}"),
            )),
            _ => {}
        }
    }
    for webhook in record.webhooks.difference(&state.webhooks) {
        wrong.push((
            Kind::Lost,
            format!("webhook {webhook} was answered and has no receipt"),
        ));
    }
    wrong
}

/// Images that came into being by uploads whose outcome their clients do not know.
pub(crate) fn found_out<'a>(state: &'a State, record: &Record) -> Vec<(&'a ImageRow, u64)> {
    let unknown: HashMap<&str, u64> = record
        .uploads
        .iter()
        .filter(|upload| upload.outcome == UploadOutcome::Unknown)
        .flat_map(|upload| {
            let invoked = upload.invoked;
            upload
                .files
                .iter()
                .map(move |file| (file.filename.as_str(), invoked))
        })
        .collect();
    let rows = state.images.iter();
    rows.filter_map(|row| Some((row, *unknown.get(row.filename.as_str())?)))
        .collect()
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
