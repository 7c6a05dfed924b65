//! The model against the tables, the service's own words, and at the end the store.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use entity::original_images::OriginalState;
use hapax::upload::TenantId;

use super::model::Model;
use super::run::{Run, Verdict};
use super::step::{CONTENTS, Call, Harm, Step};

/// How long the reapers may take to come to rest.
const REST_LIMIT: Duration = Duration::from_secs(30);

impl Run {
    /// After every step: the images, the counts and the marks are the model's.
    pub(super) async fn compare(&self) -> Verdict {
        let (model, outside) = (&self.model, &self.world.outside);
        let rows = outside.images().await;
        if rows.len() != model.images.len() {
            return Err(format!("{} images, not {}", rows.len(), model.images.len()));
        }
        for row in &rows {
            let image = model.image(row.id);
            let content = self.world.content_of(row.content_hash);
            let live = row.deleted_at.is_none();
            let pointing = row.original_image_id.or(row.was_original_id);
            let fits = image.is_some_and(|image| {
                Some(image.content) == content
                    && image.live == live
                    && Some(image.original) == pointing
                    && row.original_image_id.is_some() == live
            });
            if !fits {
                return Err(format!("{row:?} is by the model {image:?}"));
            }
        }
        self.compare_originals().await?;
        self.compare_counts().await
    }

    async fn compare_originals(&self) -> Verdict {
        let mut contents = BTreeSet::new();
        for row in self.world.outside.originals().await {
            if row.state != OriginalState::Stored {
                continue;
            }
            let mut live = self.model.live();
            let content = self.world.content_of(Some(row.content_hash));
            let Some(content) = content.filter(|content| contents.insert(*content)) else {
                return Err(format!("a second stored row: {row:?}"));
            };
            if live.any(|image| (image.content == content) != (image.original == row.id)) {
                return Err(format!("images of content {content} point past {row:?}"));
            }
            if row.reference_count != self.model.count(content) {
                return Err(format!("{} references: {row:?}", self.model.count(content)));
            }
            if row.damaged_at.is_some() != self.model.marked.contains(&row.id) {
                return Err(format!("marked or not: {row:?}"));
            }
        }
        let missing = (0..CONTENTS).find(|n| self.model.count(*n) > 0 && !contents.contains(n));
        missing.map_or(Ok(()), |n| Err(format!("no stored row of content {n}")))
    }

    async fn compare_counts(&self) -> Verdict {
        let (service, tenant) = (self.world.service(), TenantId::default());
        for (content, (_, digest)) in self.world.contents.iter().enumerate() {
            let original = service.original(&tenant, *digest).await;
            let original = original.map_err(|error| error.to_string())?;
            let count = original.map_or(0, |original| original.reference_count);
            if count != self.model.count(content) {
                let expected = self.model.count(content);
                return Err(format!(
                    "content {content} has {count} references, not {expected}"
                ));
            }
        }
        Ok(())
    }

    /// The end of every history: what was damaged is healed by an upload, what was on its way
    /// arrives, the reapers come to rest, and then everything is right and reads back.
    pub(super) async fn come_to_rest(&mut self) -> Verdict {
        self.heal()
            .await
            .map_err(|wrong| format!("healing: {wrong}"))?;
        let deadline = Instant::now() + REST_LIMIT;
        loop {
            self.world.pass_time().await?;
            let cleaned = self.step(&Step::Cleanup).await;
            let mut wrong = self.world.outside.wrong().await;
            wrong.extend(cleaned.err());
            let unreferenced = self.world.outside.originals().await;
            let unreferenced = unreferenced.iter().filter(|row| row.reference_count == 0);
            wrong.extend(unreferenced.map(|row| format!("{} is unreferenced", row.s3_key)));
            if wrong.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("never at rest: {wrong:#?}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.compare()
            .await
            .map_err(|wrong| format!("at rest: {wrong}"))?;
        for image in self.model.images.clone() {
            self.read(image.id)
                .await
                .map_err(|wrong| format!("at rest: {wrong}"))?;
        }
        self.compare_stats().await
    }

    async fn heal(&mut self) -> Verdict {
        let mut hidden = false;
        for content in 0..CONTENTS {
            let Some(harm) = self.harm_of(content).await else {
                continue;
            };
            let image = self.model.live().find(|image| image.content == content);
            let Some(image) = image.map(|image| image.id) else {
                continue;
            };
            match harm {
                Harm::Missing | Harm::Short => self.read(image).await?,
                Harm::OtherBytes => hidden = true,
            }
        }
        if hidden {
            self.step(&Step::Verify).await?;
        }
        for content in 0..CONTENTS {
            if self.harm_of(content).await.is_none() || self.model.count(content) == 0 {
                continue;
            }
            let (files, key) = (vec![content], None);
            self.step(&Step::Call(Call::Upload { files, key })).await?;
            if let Some(harm) = self.harm_of(content).await {
                return Err(format!("content {content} is still {harm:?}"));
            }
        }
        self.compare().await
    }

    /// What is wrong with a content's object.
    async fn harm_of(&self, content: usize) -> Option<Harm> {
        let digest = self.world.contents[content].1.to_string();
        let row = self.world.outside.stored(&digest).await?;
        self.world.harmed.get(&row.s3_key).copied()
    }

    async fn compare_stats(&self) -> Verdict {
        let tenant = TenantId::default();
        for tenant in [None, Some(&tenant)] {
            let stats = self.world.service().stats(tenant).await;
            let stats = stats.map_err(|error| error.to_string())?;
            let expected = expected_stats(&self.model, |content| {
                self.world.contents[content].0.len() as i64
            });
            let numbers = [
                stats.images,
                stats.originals,
                stats.logical_bytes,
                stats.stored_bytes,
                stats.saved_bytes,
                stats.pending,
                stats.deleting,
                stats.orphaned,
            ];
            if numbers != expected {
                return Err(format!("expected {expected:?}, got {stats:?}"));
            }
            let ratio = match expected[3] {
                0 => 1.0,
                stored => expected[2] as f64 / stored as f64,
            };
            if (stats.dedup_ratio - ratio).abs() > 1e-9 {
                return Err(format!("expected a ratio of {ratio}, got {stats:?}"));
            }
        }
        Ok(())
    }
}

/// Images, originals, logical, stored and saved bytes; nothing pending, deleting or orphaned.
fn expected_stats(model: &Model, size: impl Fn(usize) -> i64) -> [i64; 8] {
    let logical: i64 = model.live().map(|image| size(image.content)).sum();
    let contents: BTreeSet<usize> = model.live().map(|image| image.content).collect();
    let stored: i64 = contents.iter().map(|content| size(*content)).sum();
    [
        model.live().count() as i64,
        contents.len() as i64,
        logical,
        stored,
        logical - stored,
        0,
        0,
        0,
    ]
}
