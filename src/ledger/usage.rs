//! Usage counters: what each tenant has, kept in the transaction that changes it.
//!
//! One relative upsert a transaction, its **last** write before COMMIT: lock order everywhere is
//! originals ascending by id, then images, then counters ascending by owner. So no two transactions
//! wait for each other in a circle, and a counter is locked no longer than the commit takes.
//!
//! On PostgreSQL an owner has several slots, and a connection always changes the same one: batches
//! that commit at the same time, of several shards or nodes, seldom meet. SQLite has one writer, and
//! one slot.

use std::collections::BTreeMap;
use std::ops::{AddAssign, Sub};

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};

use super::text::Text;

/// More than the transactions that usually run at the same time; a sum over this many rows is free.
const POSTGRES_SLOTS: u32 = 16;
/// How many numbers a counter has.
const FIELDS: usize = 5;

/// What one owner has, or by how much that changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromQueryResult, serde::Serialize)]
pub struct Usage {
    /// Live images of the tenant.
    pub images: i64,
    /// Bytes of the tenant's live images; a legacy image of unknown length has none.
    pub logical_bytes: i64,
    /// Stored originals of the scope.
    pub originals: i64,
    /// Bytes of the scope's stored originals.
    pub stored_bytes: i64,
    /// Stored originals of the scope with reference count 0.
    pub orphaned: i64,
}

impl Usage {
    fn fields(&self) -> [i64; FIELDS] {
        let Self {
            images,
            logical_bytes,
            originals,
            stored_bytes,
            orphaned,
        } = *self;
        [images, logical_bytes, originals, stored_bytes, orphaned]
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.images += other.images;
        self.logical_bytes += other.logical_bytes;
        self.originals += other.originals;
        self.stored_bytes += other.stored_bytes;
        self.orphaned += other.orphaned;
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            images: self.images - other.images,
            logical_bytes: self.logical_bytes - other.logical_bytes,
            originals: self.originals - other.originals,
            stored_bytes: self.stored_bytes - other.stored_bytes,
            orphaned: self.orphaned - other.orphaned,
        }
    }
}

/// What one transaction changes, by owner. Every transaction that inserts or deletes images, or
/// takes originals into or out of `stored`, or their counts from or to 0, collects it here and ends
/// with [`UsageChanges::write`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UsageChanges(BTreeMap<String, Usage>);

impl UsageChanges {
    /// A row became `stored`, still without a reference.
    pub fn original_stored(&mut self, scope: &str, file_size: i64) {
        self.add(scope, stored_and_unreferenced(file_size, 1));
    }

    /// A `stored` row without a reference left that state.
    pub fn original_claimed(&mut self, scope: &str, file_size: i64) {
        self.add(scope, stored_and_unreferenced(file_size, -1));
    }

    /// A stored row's count went from one number to another.
    pub fn recounted(&mut self, scope: &str, from: i64, to: i64) {
        let orphaned = i64::from(to == 0) - i64::from(from == 0);
        self.add(
            scope,
            Usage {
                orphaned,
                ..Usage::default()
            },
        );
    }

    /// A live image came into being.
    pub fn image_created(&mut self, tenant: &str, file_size: Option<i64>) {
        self.add(tenant, live_image(file_size, 1));
    }

    /// A live image ended.
    pub fn image_deleted(&mut self, tenant: &str, file_size: Option<i64>) {
        self.add(tenant, live_image(file_size, -1));
    }

    /// A live image's length became known, or another: a legacy image got its original.
    pub fn image_resized(&mut self, tenant: &str, from: Option<i64>, to: Option<i64>) {
        self.image_deleted(tenant, from);
        self.image_created(tenant, to);
    }

    /// Adds the changes to the counters, in one statement; nothing when nothing changed. The last
    /// statement of its transaction.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn write(
        &self,
        transaction: &impl ConnectionTrait,
        backend: DbBackend,
    ) -> Result<(), DbErr> {
        if let Some((statement, _)) = self.statement(backend) {
            transaction.execute_raw(statement).await?;
        }
        Ok(())
    }

    /// The statement of [`UsageChanges::write`], and the rows it changes.
    pub(super) fn statement(&self, backend: DbBackend) -> Option<(Statement, usize)> {
        let changed = self
            .0
            .iter()
            .filter(|(_, change)| **change != Usage::default());
        let mut text = Text::new(
            backend,
            "INSERT INTO usage_counters
                (owner, slot, images, logical_bytes, originals, stored_bytes, orphaned)
             VALUES ",
        );
        let mut rows = 0;
        for (owner, change) in changed {
            text.push(if rows == 0 { "(" } else { ", (" });
            text.bind(owner.as_str()).push(", ");
            match backend {
                DbBackend::Postgres => text.push(&format!("pg_backend_pid() % {POSTGRES_SLOTS}")),
                _ => text.push("0"),
            };
            for number in change.fields() {
                text.push(", ").bind(number);
            }
            text.push(")");
            rows += 1;
        }
        text.push(
            " ON CONFLICT (owner, slot) DO UPDATE SET
                images = usage_counters.images + excluded.images,
                logical_bytes = usage_counters.logical_bytes + excluded.logical_bytes,
                originals = usage_counters.originals + excluded.originals,
                stored_bytes = usage_counters.stored_bytes + excluded.stored_bytes,
                orphaned = usage_counters.orphaned + excluded.orphaned",
        );
        (rows > 0).then(|| (text.finish(), rows))
    }

    fn add(&mut self, owner: &str, change: Usage) {
        match self.0.get_mut(owner) {
            Some(usage) => *usage += change,
            None => {
                self.0.insert(owner.to_owned(), change);
            }
        }
    }
}

fn stored_and_unreferenced(file_size: i64, sign: i64) -> Usage {
    Usage {
        originals: sign,
        stored_bytes: sign * file_size,
        orphaned: sign,
        ..Usage::default()
    }
}

fn live_image(file_size: Option<i64>, sign: i64) -> Usage {
    Usage {
        images: sign,
        logical_bytes: sign * file_size.unwrap_or(0),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use entity::usage_counters;
    use sea_orm::EntityTrait;

    use super::super::testing::ledger;
    use super::*;

    #[test]
    fn a_count_that_leaves_zero_and_comes_back_changes_nothing() {
        let mut changes = UsageChanges::default();
        changes.recounted("a", 0, 2);
        assert_eq!(changes.0["a"].orphaned, -1);
        changes.recounted("a", 2, 1);
        changes.recounted("a", 1, 0);
        assert_eq!(changes.0["a"], Usage::default());
        changes.image_resized("a", None, Some(7));
        assert_eq!(
            changes.0["a"],
            Usage {
                logical_bytes: 7,
                ..Usage::default()
            }
        );
    }

    #[tokio::test]
    async fn changes_add_up_in_the_counters() {
        let (ledger, _folder) = ledger().await;
        for _ in 0..3 {
            let mut changes = UsageChanges::default();
            changes.image_created("a", Some(5));
            changes.image_created("b", None);
            changes.image_created("c", Some(1));
            changes.image_deleted("c", Some(1));
            changes
                .write(&ledger.writer, ledger.backend)
                .await
                .expect("written");
        }
        let (a, b) = (
            ledger.stats(Some("a")).await.expect("asked"),
            ledger.stats(Some("b")).await.expect("asked"),
        );
        assert_eq!((a.images, a.logical_bytes), (3, 15));
        assert_eq!((b.images, b.logical_bytes), (3, 0));
        let all = ledger.stats(None).await.expect("asked");
        assert_eq!((all.images, all.logical_bytes), (6, 15));
        let rows = usage_counters::Entity::find().all(&ledger.reader).await;
        let owners = rows.expect("read").into_iter().map(|row| row.owner);
        assert_eq!(owners.collect::<Vec<_>>(), ["a", "b"], "c changed nothing");
    }
}
