//! Carries a history out on the real thing and on the model, and compares them after every step.

use std::time::Duration;

use entity::original_images::OriginalState;
use entity::{ImageId, OriginalId, images};
use futures::TryStreamExt;
use futures::future::{Either, LocalBoxFuture, select};
use hapax::service::ReadError;
use hapax::upload::{DeleteOutcome, Disposition, StoredImage, TenantId, UploadError};

use super::calls::{Answer, Ask};
use super::model::{Deleted, Expected, Image, Model, Named, receipt};
use super::pausing::Stop;
use super::step::{Call, Harm, History, Moment, Step};
use super::world::{World, strange_original, stranger};
use crate::harness::{Backend, sha256_hex};

/// What is wrong, where.
pub(super) type Verdict = Result<(), String>;

/// Runs a history to its end and compares everything; what is wrong, or nothing.
pub(super) async fn run(history: &History, backend: Backend) -> Verdict {
    let mut run = Run {
        world: World::new(backend, history.grace).await,
        model: Model::default(),
    };
    let mut verdict = Ok(());
    for (number, step) in history.steps.iter().enumerate() {
        verdict = run.step(step).await;
        if verdict.is_ok() {
            verdict = run.compare().await;
        }
        if let Err(wrong) = &mut verdict {
            *wrong = format!("step {number}, {step:?}: {wrong}");
            break;
        }
    }
    if verdict.is_ok() {
        verdict = run.come_to_rest().await;
    }
    match verdict {
        Ok(()) => run.world.finish().await,
        Err(wrong) => {
            run.world.abandon().await;
            Err(wrong)
        }
    }
}

pub(super) struct Run {
    pub(super) world: World,
    pub(super) model: Model,
}

impl Run {
    pub(super) fn step<'a>(&'a mut self, step: &'a Step) -> LocalBoxFuture<'a, Verdict> {
        Box::pin(async move {
            match step {
                Step::Call(call) => {
                    let ask = self.resolve(call);
                    let answer = self.world.send(&ask).await;
                    self.settle(&ask, answer)
                }
                Step::Truncated { files } => {
                    let files = self.world.files(files);
                    match World::upload(self.world.service(), files, None, false).await {
                        Err(UploadError::Incomplete) => Ok(()),
                        other => Err(format!("a truncated body came to {other:?}")),
                    }
                }
                Step::Read { image } => self.read(self.pick(*image)).await,
                Step::Harm { content, harm } => {
                    self.world.harm(*content, *harm).await;
                    Ok(())
                }
                Step::Cleanup => self.cleanup().await,
                Step::Verify => self.verify().await,
                Step::LeasesEnd => {
                    self.world.end_leases().await;
                    Ok(())
                }
                Step::LatePutsLand => self.world.land_late_puts().await,
                Step::TimePasses => self.world.pass_time().await,
                Step::Crash => {
                    self.world.crash(()).await;
                    Ok(())
                }
                Step::CrashDuring { call, moment } => self.crash_during(call, *moment).await,
                Step::Paused {
                    files,
                    key,
                    landed,
                    meanwhile,
                } => self.paused(files, *key, *landed, meanwhile).await,
            }
        })
    }

    fn pick(&self, image: u8) -> ImageId {
        let known = &self.model.images;
        let place = usize::from(image) % (known.len() + 1);
        known.get(place).map_or_else(stranger, |image| image.id)
    }

    fn resolve(&self, call: &Call) -> Ask {
        let pick_all = |images: &[u8]| images.iter().map(|image| self.pick(*image)).collect();
        match call {
            Call::Upload { files, key } => Ask::Upload(files.clone(), *key),
            Call::ReferToContent { content, key } => Ask::Refer(Named::Content(*content), *key),
            Call::ReferToOriginal { of_image, key } => {
                let image = self.model.image(self.pick(*of_image));
                let original = image.map_or_else(strange_original, |image| image.original);
                Ask::Refer(Named::Original(original), *key)
            }
            Call::Delete { images } => Ask::Delete(pick_all(images)),
            Call::Webhook { event, images } => Ask::Webhook(*event, pick_all(images)),
        }
    }

    /// Compares an answer with the model's, and takes its effect in.
    fn settle(&mut self, ask: &Ask, answer: Answer) -> Verdict {
        let expected = match ask {
            Ask::Upload(files, key) => self.model.expect_upload(files, *key),
            Ask::Refer(named, key) => self.model.expect_reference(*named, *key),
            Ask::Delete(ids) => {
                let deleted = self.model.delete(ids);
                return match answer {
                    Answer::Deleted(answers) if answers == deleted => Ok(()),
                    other => Err(format!("expected {deleted:?}, got {other:?}")),
                };
            }
            Ask::Webhook(event, ids) => return self.settle_webhook(*event, ids, answer),
        };
        match (expected, answer) {
            (Expected::KeyReused, Answer::Refused(UploadError::IdempotencyKeyReused))
            | (Expected::UnknownContent, Answer::Refused(UploadError::UnknownContent)) => Ok(()),
            (Expected::Same(ids), Answer::Images { images, replayed })
                if images
                    .iter()
                    .map(|one| one.view.image.id)
                    .eq(ids.iter().copied())
                    && (replayed || matches!(ask, Ask::Refer(..))) =>
            {
                Ok(())
            }
            (Expected::New, Answer::Images { images, replayed }) if !replayed => {
                self.add(ask, &images)
            }
            (expected, answer) => Err(format!("expected {expected:?}, got {answer:?}")),
        }
    }

    fn settle_webhook(&mut self, event: u8, ids: &[ImageId], answer: Answer) -> Verdict {
        let Answer::Receipt { result, replayed } = answer else {
            return Err(format!("a webhook got {answer:?}"));
        };
        match self.model.receipts.get(&event) {
            Some(first) if replayed && *first == result => Ok(()),
            None if !replayed => {
                let expected = receipt(&self.model.delete(ids));
                self.model.receipts.insert(event, result.clone());
                match result == expected {
                    true => Ok(()),
                    false => Err(format!("expected {expected}, got {result}")),
                }
            }
            first => Err(format!("after {first:?}: {result}, replayed: {replayed}")),
        }
    }

    fn add(&mut self, ask: &Ask, images: &[StoredImage]) -> Verdict {
        let rows = images
            .iter()
            .map(|one| (&one.view.image, Some(one.disposition)));
        self.add_rows(ask, rows.collect())
    }

    /// New images in the order of the request, as their rows are.
    fn add_rows(&mut self, ask: &Ask, rows: Vec<(&images::Model, Option<Disposition>)>) -> Verdict {
        let mut new = Vec::new();
        for (row, disposition) in rows {
            let content = self.world.content_of(row.content_hash);
            let (Some(content), Some(original)) = (content, row.original_image_id) else {
                return Err(format!("a new image is {row:?}"));
            };
            let image = Image {
                id: row.id,
                content,
                original,
                live: true,
            };
            new.push((image, disposition));
        }
        let contents: Vec<usize> = new.iter().map(|(image, _)| image.content).collect();
        let (key, fits) = match ask {
            Ask::Upload(files, key) => (*key, contents == *files),
            Ask::Refer(Named::Content(content), key) => (*key, contents == [*content]),
            Ask::Refer(Named::Original(original), key) => {
                (*key, new.len() == 1 && new[0].0.original == *original)
            }
            Ask::Delete(_) | Ask::Webhook(..) => (None, false),
        };
        match fits {
            true => self.model.add(&new, key),
            false => Err(format!("{ask:?} made {new:?}")),
        }
    }

    pub(super) async fn read(&mut self, id: ImageId) -> Verdict {
        let tenant = TenantId::default();
        let service = self.world.service();
        let view = service.image(&tenant, id).await;
        let view = view.map_err(|error| error.to_string())?;
        let known = self.model.image(id).copied();
        let (Some(view), Some(image)) = (view, known) else {
            return match known {
                None => Ok(()),
                Some(image) => Err(format!("{image:?} is not there")),
            };
        };
        let harm = view
            .s3_key
            .as_ref()
            .and_then(|key| self.world.harmed.get(key));
        let read = match service.open(&view, None).await {
            Ok(stream) => stream
                .try_collect::<Vec<_>>()
                .await
                .map(|parts| parts.concat()),
            Err(ReadError::Gone) if !image.live => return Ok(()),
            Err(ReadError::Damaged)
                if matches!(harm, Some(Harm::Missing | Harm::Short)) && image.live =>
            {
                self.model.marked.insert(image.original);
                return Ok(());
            }
            Err(error) => return Err(format!("reading {image:?}: {error}")),
        };
        let bytes = read.map_err(|error| format!("reading {image:?}: {error}"))?;
        let sound = bytes == self.world.contents[image.content].0;
        match harm {
            _ if !image.live => Err(format!("{image:?} can still be read")),
            None if sound => Ok(()),
            Some(Harm::OtherBytes) if !sound => Ok(()),
            _ => Err(format!("reading {image:?} gave {}", sha256_hex(&bytes))),
        }
    }

    async fn cleanup(&mut self) -> Verdict {
        let report = self.world.cleanup().await?;
        for reaped in &report.originals {
            let mut live = self.model.live();
            if live.any(|image| image.original == reaped.id) {
                return Err(format!("{reaped:?} was cleaned up"));
            }
        }
        match report.failed.is_empty() {
            true => Ok(()),
            false => Err(format!("could not delete {:?}", report.failed)),
        }
    }

    /// Finds exactly what was damaged, and marks it.
    async fn verify(&mut self) -> Verdict {
        let rows = self.world.outside.originals().await;
        let harmed: Vec<OriginalId> = rows
            .iter()
            .filter(|row| row.state == OriginalState::Stored && row.reference_count > 0)
            .filter(|row| self.world.harmed.contains_key(&row.s3_key))
            .map(|row| row.id)
            .collect();
        let (code, said) = self.world.verify().await;
        // What nobody refers to may go while it is looked at.
        let vague = rows
            .iter()
            .any(|row| row.reference_count == 0 && self.world.harmed.contains_key(&row.s3_key));
        if code != Some(i32::from(!harmed.is_empty())) && !(vague && code == Some(1)) {
            return Err(format!(
                "{} damaged, verify ended with {code:?}: {said}",
                harmed.len()
            ));
        }
        self.model.marked.extend(harmed);
        if vague {
            let rows = self.world.outside.originals().await;
            let marked = rows.iter().filter(|row| row.damaged_at.is_some());
            let unreferenced = marked.filter(|row| row.reference_count == 0);
            self.model.marked.extend(unreferenced.map(|row| row.id));
        }
        Ok(())
    }

    async fn crash_during(&mut self, call: &Call, moment: Moment) -> Verdict {
        let ask = self.resolve(call);
        let stop = match moment {
            Moment::BeforePut => Some(Stop::Before),
            Moment::AfterPut => Some(Stop::After),
            Moment::PutUnderway => Some(Stop::Underway),
            Moment::Micros(_) => None,
        };
        let mut held = stop.map(|stop| self.world.pauses.arm(stop));
        let dies = async {
            match (&mut held, moment) {
                (Some(held), _) => drop((&mut held.reached).await),
                (None, Moment::Micros(micros)) => {
                    tokio::time::sleep(Duration::from_micros(micros.into())).await;
                }
                (None, _) => {}
            }
        };
        // The client outlives the server: it never takes its call back.
        let (answer, waiting) = match select(Box::pin(self.world.send(&ask)), Box::pin(dies)).await
        {
            Either::Left((answer, _)) => (Some(answer), None),
            Either::Right(((), waiting)) => (None, Some(waiting)),
        };
        self.world.crash(waiting).await;
        match answer {
            Some(answer) => self.settle(&ask, answer),
            None => self.find_out(&ask).await,
        }
    }

    /// After a crash: the call had its whole effect, or none.
    async fn find_out(&mut self, ask: &Ask) -> Verdict {
        let mut rows = self.world.outside.images().await;
        rows.sort_by_key(|row| row.filename.clone());
        match ask {
            Ask::Upload(..) | Ask::Refer(..) => {
                let known = |row: &images::Model| self.model.image(row.id).is_some();
                let new: Vec<_> = rows.iter().filter(|row| !known(row)).collect();
                if new.is_empty() {
                    return Ok(());
                }
                let expected = match ask {
                    Ask::Upload(files, key) => self.model.expect_upload(files, *key),
                    Ask::Refer(named, key) => self.model.expect_reference(*named, *key),
                    Ask::Delete(_) | Ask::Webhook(..) => unreachable!("the outer match"),
                };
                match expected {
                    Expected::New => {
                        self.add_rows(ask, new.into_iter().map(|row| (row, None)).collect())
                    }
                    other => Err(format!("expected {other:?}, and there is {new:?}")),
                }
            }
            Ask::Delete(ids) => {
                self.find_out_deletion(ids, &rows);
                Ok(())
            }
            Ask::Webhook(event, ids) => {
                if self.model.receipts.contains_key(event) {
                    return Ok(());
                }
                let deleted = self.model.clone().delete(ids);
                let changes = |one: &Deleted| one.1 == DeleteOutcome::Deleted;
                match (
                    deleted.iter().any(changes),
                    self.find_out_deletion(ids, &rows),
                ) {
                    (true, true) => drop(self.model.receipts.insert(*event, receipt(&deleted))),
                    (true, false) => {}
                    // Nothing to tell by whether there is a receipt.
                    (false, _) => self.world.retire_event(*event),
                }
                Ok(())
            }
        }
    }

    /// Takes the deletion in if any of it happened; the comparison that follows insists on all of it.
    fn find_out_deletion(&mut self, ids: &[ImageId], rows: &[images::Model]) -> bool {
        let gone = |id: &ImageId| {
            let was_live = self.model.image(*id).is_some_and(|image| image.live);
            let mut rows = rows.iter();
            was_live && rows.any(|row| row.id == *id && row.deleted_at.is_some())
        };
        let happened = ids.iter().any(gone);
        if happened {
            self.model.delete(ids);
        }
        happened
    }

    async fn paused(
        &mut self,
        files: &[usize],
        key: Option<u8>,
        landed: bool,
        meanwhile: &[Step],
    ) -> Verdict {
        let ask = Ask::Upload(files.to_vec(), key);
        let stop = if landed { Stop::After } else { Stop::Before };
        let held = self.world.pauses.arm(stop);
        let sent = actix_rt::spawn(self.world.send(&ask));
        let mut held = Some(held);
        let answered = {
            let reached = &mut held.as_mut().expect("just made").reached;
            let mut sent = Box::pin(sent);
            match select(&mut sent, reached).await {
                Either::Left((answer, _)) => Either::Left(answer),
                Either::Right(_) => Either::Right(sent),
            }
        };
        let lost = |error: tokio::task::JoinError| error.to_string();
        match answered {
            Either::Left(answer) => {
                self.world.pauses.disarm();
                self.settle(&ask, answer.map_err(lost)?)?;
                self.meanwhile(meanwhile).await
            }
            Either::Right(sent) => {
                self.meanwhile(meanwhile).await?;
                let _ = held.take().expect("still held").go.send(());
                let answer = sent.await.map_err(lost)?;
                self.settle(&ask, answer)
            }
        }
    }

    async fn meanwhile(&mut self, steps: &[Step]) -> Verdict {
        for step in steps {
            self.step(step)
                .await
                .map_err(|wrong| format!("{step:?}: {wrong}"))?;
            self.compare()
                .await
                .map_err(|wrong| format!("{step:?}: {wrong}"))?;
        }
        Ok(())
    }
}
