//! The usage counters beside what they count, and setting them right.
//!
//! Counters and tables are read by one statement, and so in one snapshot. Whoever changes the tables
//! changes the counters by the same amount in the same transaction: a difference found in a snapshot
//! is still the difference when it is repaired, however much was uploaded meanwhile. So a repair adds
//! the difference, and holds no lock while the tables are read.

use sea_orm::{ConnectionTrait, DbBackend, Statement, Value};

use super::usage::Usage;
use super::{Ledger, LedgerError};

/// An owner whose counters say something else than the tables.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UsageDifference {
    /// A tenant, or a deduplication scope; empty for the global scope.
    pub owner: String,
    /// What the counters say.
    pub counted: Usage,
    /// What the tables say.
    pub actual: Usage,
    /// How often the owner's counters had been repaired when this was seen.
    #[serde(skip)]
    repairs: i64,
}

/// A pass over both tables: nothing but this may ask for all of them.
const COMPARISON: &str = "
SELECT owner,
    CAST(sum(counted_images) AS bigint) AS counted_images,
    CAST(sum(counted_logical_bytes) AS bigint) AS counted_logical_bytes,
    CAST(sum(counted_originals) AS bigint) AS counted_originals,
    CAST(sum(counted_stored_bytes) AS bigint) AS counted_stored_bytes,
    CAST(sum(counted_orphaned) AS bigint) AS counted_orphaned,
    CAST(sum(images) AS bigint) AS images,
    CAST(sum(logical_bytes) AS bigint) AS logical_bytes,
    CAST(sum(originals) AS bigint) AS originals,
    CAST(sum(stored_bytes) AS bigint) AS stored_bytes,
    CAST(sum(orphaned) AS bigint) AS orphaned,
    CAST(sum(repairs) AS bigint) AS repairs
FROM (
    SELECT owner, images AS counted_images, logical_bytes AS counted_logical_bytes,
        originals AS counted_originals, stored_bytes AS counted_stored_bytes,
        orphaned AS counted_orphaned, 0 AS images, 0 AS logical_bytes, 0 AS originals,
        0 AS stored_bytes, 0 AS orphaned, repairs
    FROM usage_counters
    UNION ALL
    SELECT tenant, 0, 0, 0, 0, 0, count(*), coalesce(sum(file_size), 0), 0, 0, 0, 0
    FROM images WHERE deleted_at IS NULL GROUP BY tenant
    UNION ALL
    SELECT scope, 0, 0, 0, 0, 0, 0, 0, count(*), coalesce(sum(file_size), 0),
        count(*) FILTER (WHERE reference_count = 0), 0
    FROM original_images WHERE state = 'stored' GROUP BY scope
) AS beside
GROUP BY owner ORDER BY owner";

/// The slot that only repairs change: none of the slots in use waits for one.
const REPAIR: &str = "
INSERT INTO usage_counters
    (owner, slot, images, logical_bytes, originals, stored_bytes, orphaned, repairs)
VALUES ($1, -1, $2, $3, $4, $5, $6, 1)
ON CONFLICT (owner, slot) DO UPDATE SET
    images = usage_counters.images + excluded.images,
    logical_bytes = usage_counters.logical_bytes + excluded.logical_bytes,
    originals = usage_counters.originals + excluded.originals,
    stored_bytes = usage_counters.stored_bytes + excluded.stored_bytes,
    orphaned = usage_counters.orphaned + excluded.orphaned,
    repairs = usage_counters.repairs + 1
WHERE usage_counters.repairs = $7";

impl Ledger {
    /// Every owner whose usage counters are wrong, ascending; none when all is well. Reads both
    /// tables from end to end, and blocks nobody.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn check_usage(&self) -> Result<Vec<UsageDifference>, LedgerError> {
        let transaction = self.begin_reading().await?;
        if self.backend == DbBackend::Postgres {
            // A pass over everything may take longer than any other statement is allowed to, and need not
            // go by an index.
            transaction
                .execute_unprepared(
                    "SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = on; \
                     SET LOCAL max_parallel_workers_per_gather = 2",
                )
                .await?;
        }
        let statement = Statement::from_string(self.backend, COMPARISON);
        let rows = transaction.query_all_raw(statement).await?;
        transaction.rollback().await?;
        let mut differences = Vec::new();
        for row in rows {
            let usage = |prefix: &str| -> Result<Usage, sea_orm::DbErr> {
                Ok(Usage {
                    images: row.try_get(prefix, "images")?,
                    logical_bytes: row.try_get(prefix, "logical_bytes")?,
                    originals: row.try_get(prefix, "originals")?,
                    stored_bytes: row.try_get(prefix, "stored_bytes")?,
                    orphaned: row.try_get(prefix, "orphaned")?,
                })
            };
            let difference = UsageDifference {
                owner: row.try_get("", "owner")?,
                counted: usage("counted_")?,
                actual: usage("")?,
                repairs: row.try_get("", "repairs")?,
            };
            if difference.counted != difference.actual {
                differences.push(difference);
            }
        }
        Ok(differences)
    }

    /// Sets an owner's counters right by the difference that was found; whether it was applied: not
    /// when another repair of the owner was faster, which then has done the same.
    ///
    /// # Errors
    /// The database did not answer; check again, the repair may have happened.
    pub async fn repair_usage(&self, found: &UsageDifference) -> Result<bool, LedgerError> {
        let change = found.actual - found.counted;
        let values: [Value; 7] = [
            found.owner.as_str().into(),
            change.images.into(),
            change.logical_bytes.into(),
            change.originals.into(),
            change.stored_bytes.into(),
            change.orphaned.into(),
            found.repairs.into(),
        ];
        let repaired = self
            .writer
            .execute_raw(Statement::from_sql_and_values(self.backend, REPAIR, values))
            .await?;
        Ok(repaired.rows_affected() == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ledger, rows};
    use super::super::usage::UsageChanges;
    use super::*;

    async fn upload_beside(ledger: &Ledger, number: u8) {
        rows::image(ledger, number, "a", 1, false).await;
        let raise =
            "UPDATE original_images SET reference_count = reference_count + 1, zero_since = NULL";
        rows::sql(ledger, raise).await;
        let mut changes = UsageChanges::default();
        changes.image_created("a", Some(100));
        changes
            .write(&ledger.writer, ledger.backend)
            .await
            .expect("written");
    }

    #[tokio::test]
    async fn a_repair_adds_the_difference_also_when_more_came_meanwhile() {
        let (ledger, _folder) = ledger().await;
        assert_eq!(ledger.check_usage().await.expect("checked"), []);
        // Rows that nobody counted: as a version without counters, or a hand in the tables, leaves.
        rows::original(&ledger, 1, "a", "stored", 0).await;
        rows::original(&ledger, 2, "b", "stored", 0).await;
        let found = ledger.check_usage().await.expect("checked");
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].owner.as_str(), found[0].counted),
            ("a", Usage::default())
        );
        let actual = found[0].actual;
        assert_eq!(
            (actual.originals, actual.stored_bytes, actual.orphaned),
            (1, 100, 1)
        );
        upload_beside(&ledger, 1).await;
        let mut changes = UsageChanges::default();
        changes.recounted("a", 0, 1);
        changes.recounted("b", 0, 1);
        changes
            .write(&ledger.writer, ledger.backend)
            .await
            .expect("written");
        for difference in &found {
            assert!(ledger.repair_usage(difference).await.expect("repaired"));
        }
        assert_eq!(ledger.check_usage().await.expect("checked"), []);
        let a = ledger.stats(Some("a")).await.expect("asked");
        assert_eq!((a.images, a.originals, a.orphaned), (1, 1, 0));
    }

    #[tokio::test]
    async fn the_same_difference_is_repaired_once() {
        let (ledger, _folder) = ledger().await;
        for round in 1..=2 {
            rows::original(&ledger, round, "a", "stored", 0).await;
            let found = ledger.check_usage().await.expect("checked");
            assert_eq!(found.len(), 1);
            assert!(ledger.repair_usage(&found[0]).await.expect("repaired"));
            // Two verifications at the same time have seen the same.
            assert!(!ledger.repair_usage(&found[0]).await.expect("asked"));
            assert_eq!(ledger.check_usage().await.expect("checked"), []);
        }
    }

    #[tokio::test]
    async fn counters_of_what_is_gone_are_taken_back() {
        let (ledger, _folder) = ledger().await;
        let mut changes = UsageChanges::default();
        changes.image_created("ghost", Some(9));
        changes
            .write(&ledger.writer, ledger.backend)
            .await
            .expect("written");
        let found = ledger.check_usage().await.expect("checked");
        assert_eq!((found[0].counted.images, found[0].actual.images), (1, 0));
        assert!(ledger.repair_usage(&found[0]).await.expect("repaired"));
        let ghost = ledger.stats(Some("ghost")).await.expect("asked");
        assert_eq!((ghost.images, ghost.logical_bytes), (0, 0));
    }
}
