//! Counts and sums: the numbers of `GET /v1/stats`, `hapax stats` and the gauges.
//!
//! They come from the usage counters, so that no question grows with the tables. Each question is one
//! statement, and so one snapshot: numbers that are compared with each other belong together.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement, Value};

use super::{Ledger, LedgerError};

/// Counts and sums; the tenant's own, or everybody's.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// Live images.
    pub images: i64,
    /// Stored originals.
    pub originals: i64,
    /// Bytes of all live images.
    pub logical_bytes: i64,
    /// Bytes of all stored originals.
    pub stored_bytes: i64,
    /// `logical_bytes - stored_bytes`, never below 0.
    pub saved_bytes: i64,
    /// `logical_bytes / stored_bytes`; 1 when nothing is stored.
    pub dedup_ratio: f64,
    /// Originals being written; at most 100000 are counted.
    pub pending: i64,
    /// Originals whose bytes are going; at most 100000 are counted.
    pub deleting: i64,
    /// Stored originals without a reference.
    pub orphaned: i64,
}

/// How many originals there are, and how late the reapers are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OriginalsObservation {
    /// Rows whose bytes are being written, or were when their writer died.
    pub pending: i64,
    /// Rows whose bytes are durable, referenced or not.
    pub stored: i64,
    /// Rows whose bytes are going.
    pub deleting: i64,
    /// `stored` rows with count 0.
    pub unreferenced: i64,
    /// How long ago the oldest expired lease ended; zero when none has.
    pub oldest_pending: Duration,
    /// How long ago the oldest unreferenced row's grace period ended; zero when none has.
    pub oldest_unreferenced: Duration,
    /// How long ago the oldest `deleting` row should have gone: since it became `deleting`, or since
    /// its `put_deadline` where that is later, however often it was tried and put off; zero when none
    /// should. Of more than 100 000 such rows, those are asked whose next try comes first.
    pub oldest_deleting: Duration,
}

/// A backlog beyond this is told as this: counting is to stay cheap when the store has been away.
const MOST_IN_TRANSIT: u32 = 100_000;

/// From the counters, and from the small indexes of rows in transit. `{owner}` limits the counters to
/// an owner, `{scope}` the rows in transit to a scope.
///
/// `shared_originals` tells whether there are originals of the global scope at all: which of them a
/// tenant refers to is in no counter.
const STATS: &str = "
SELECT u.*,
    (SELECT CAST(coalesce(sum(originals), 0) AS bigint) FROM usage_counters WHERE owner = '')
        AS shared_originals,
    (SELECT count(*) FROM (SELECT scope FROM original_images WHERE state = 'pending' LIMIT {most})
        AS p {scope}) AS pending,
    (SELECT count(*) FROM (SELECT scope FROM original_images WHERE state = 'deleting' LIMIT {most})
        AS d {scope}) AS deleting
FROM (
    SELECT CAST(coalesce(sum(images), 0) AS bigint) AS images,
        CAST(coalesce(sum(logical_bytes), 0) AS bigint) AS logical_bytes,
        CAST(coalesce(sum(originals), 0) AS bigint) AS originals,
        CAST(coalesce(sum(stored_bytes), 0) AS bigint) AS stored_bytes,
        CAST(coalesce(sum(orphaned), 0) AS bigint) AS orphaned
    FROM usage_counters {owner}
) AS u";

/// Originals of the global scope that a tenant's live images point at: as long as the tenant's images
/// are many.
const SHARED: &str = "
SELECT count(*) AS originals, CAST(coalesce(sum(file_size), 0) AS bigint) AS stored_bytes
FROM original_images
WHERE scope = '' AND state = 'stored' AND id IN (
    SELECT original_image_id FROM images
    WHERE tenant = $1 AND deleted_at IS NULL AND original_image_id IS NOT NULL)";

/// Each count and minimum is served by the counters or by its own partial index; the age of `deleting`
/// rows looks at the rows themselves, of a long queue at those whose turn comes first. Nothing touches
/// `updated_at` of a row that is `deleting`.
const OBSERVATION: &str = "
SELECT
    (SELECT count(*) FROM (SELECT 1 FROM original_images WHERE state = 'pending' LIMIT {most}) AS p)
        AS pending,
    (SELECT CAST(coalesce(sum(originals), 0) AS bigint) FROM usage_counters) AS stored,
    (SELECT count(*) FROM (SELECT 1 FROM original_images WHERE state = 'deleting' LIMIT {most}) AS d)
        AS deleting,
    (SELECT CAST(coalesce(sum(orphaned), 0) AS bigint) FROM usage_counters) AS unreferenced,
    (SELECT min(lease_until) FROM original_images WHERE state = 'pending') AS first_lease_until,
    (SELECT min(zero_since) FROM original_images WHERE state = 'stored' AND zero_since IS NOT NULL)
        AS first_zero_since,
    (SELECT min({later}(updated_at, put_deadline)) FROM (
        SELECT updated_at, put_deadline FROM original_images WHERE state = 'deleting'
        ORDER BY next_try LIMIT {most}) AS e) AS first_deleting";

impl Ledger {
    /// Counts and sums of everything, or of what one tenant may know of.
    ///
    /// A tenant's images are its live ones. Its originals are those that its live images point at,
    /// whatever their scope, and those of its own scope that nothing points at any more; `pending`,
    /// `deleting` and `orphaned` count rows of its own scope alone. So in the global scope a tenant
    /// learns nothing of originals it does not reference.
    ///
    /// Read from the counters, whatever the tables hold; only a tenant's originals of the global scope
    /// are looked up by its images. `pending` and `deleting` are told up to 100 000.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn stats(&self, tenant: Option<&str>) -> Result<Stats, LedgerError> {
        let (owner, scope) = match tenant {
            Some(_) => ("WHERE owner = $1", "WHERE scope = $1"),
            None => ("", ""),
        };
        let sql = within_bounds(STATS)
            .replace("{owner}", owner)
            .replace("{scope}", scope);
        let values = tenant.map(Value::from);
        let statement = Statement::from_sql_and_values(self.backend, sql, values);
        let row = one_row(self.reader.query_one_raw(statement).await?)?;
        let count = |column: &str| row.try_get::<i64>("", column);
        let (mut originals, mut stored_bytes) = (count("originals")?, count("stored_bytes")?);
        if let Some(tenant) = tenant
            && count("shared_originals")? != 0
        {
            let statement = Statement::from_sql_and_values(self.backend, SHARED, [tenant.into()]);
            let shared = one_row(self.reader.query_one_raw(statement).await?)?;
            originals += shared.try_get::<i64>("", "originals")?;
            stored_bytes += shared.try_get::<i64>("", "stored_bytes")?;
        }
        let logical_bytes = count("logical_bytes")?;
        Ok(Stats {
            images: count("images")?,
            originals,
            logical_bytes,
            stored_bytes,
            saved_bytes: logical_bytes.saturating_sub(stored_bytes).max(0),
            dedup_ratio: match stored_bytes {
                0 => 1.0,
                _ => logical_bytes as f64 / stored_bytes as f64,
            },
            pending: count("pending")?,
            deleting: count("deleting")?,
            orphaned: count("orphaned")?,
        })
    }

    /// How many originals there are in each state, and since when the reapers are late, given that
    /// they leave unreferenced rows alone for `grace_period`.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn observe_originals(
        &self,
        grace_period: Duration,
    ) -> Result<OriginalsObservation, LedgerError> {
        let now: DateTime<Utc> = self.database_time().await?;
        let later = match self.backend {
            DbBackend::Postgres => "greatest",
            _ => "max",
        };
        let sql = within_bounds(OBSERVATION).replace("{later}", later);
        let statement = Statement::from_string(self.backend, sql);
        let row = one_row(self.reader.query_one_raw(statement).await?)?;
        let count = |column: &str| row.try_get::<i64>("", column);
        let since = |column: &str| -> Result<Duration, DbErr> {
            let due = row.try_get::<Option<DateTime<Utc>>>("", column)?;
            // A time in the future is not due: its age is no `Duration`.
            Ok(due
                .and_then(|due| (now - due).to_std().ok())
                .unwrap_or_default())
        };
        Ok(OriginalsObservation {
            pending: count("pending")?,
            stored: count("stored")?,
            deleting: count("deleting")?,
            unreferenced: count("unreferenced")?,
            oldest_pending: since("first_lease_until")?,
            oldest_unreferenced: since("first_zero_since")?.saturating_sub(grace_period),
            oldest_deleting: since("first_deleting")?,
        })
    }
}

fn within_bounds(sql: &str) -> String {
    sql.replace("{most}", &MOST_IN_TRANSIT.to_string())
}

fn one_row(row: Option<QueryResult>) -> Result<QueryResult, DbErr> {
    row.ok_or_else(|| DbErr::RecordNotFound("a row of sums".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::ledger;
    use super::super::testing::rows::{count, image, original, sql};
    use super::*;

    #[tokio::test]
    async fn a_tenant_sees_its_own_share() {
        let (ledger, _folder) = ledger().await;
        let empty = ledger.stats(None).await.expect("asked");
        assert_eq!(
            empty,
            Stats {
                dedup_ratio: 1.0,
                ..Stats::default()
            }
        );

        original(&ledger, 1, "", "stored", 3).await;
        original(&ledger, 2, "b", "stored", 1).await;
        original(&ledger, 3, "a", "stored", 0).await;
        original(&ledger, 4, "a", "pending", 0).await;
        original(&ledger, 5, "b", "deleting", 0).await;
        for (number, tenant, of, deleted) in [
            (1, "a", 1, false),
            (2, "a", 1, false),
            (3, "b", 1, false),
            (4, "b", 2, false),
            (5, "a", 3, true),
        ] {
            image(&ledger, number, tenant, of, deleted).await;
        }
        sql(
            &ledger,
            "INSERT INTO images (id, tenant, legacy, original_url) VALUES (x'63', 'a', 1, 'http://x')",
        )
        .await;
        count(&ledger).await;
        let all = ledger.stats(None).await.expect("asked");
        assert_eq!((all.images, all.logical_bytes), (5, 400));
        assert_eq!(
            (all.originals, all.stored_bytes, all.saved_bytes),
            (3, 300, 100)
        );
        assert_eq!((all.pending, all.deleting, all.orphaned), (1, 1, 1));
        assert!((all.dedup_ratio - 4.0 / 3.0).abs() < 1e-9);

        let a = ledger.stats(Some("a")).await.expect("asked");
        assert_eq!((a.images, a.logical_bytes), (3, 200));
        assert_eq!((a.originals, a.stored_bytes), (2, 200));
        assert_eq!((a.pending, a.deleting, a.orphaned), (1, 0, 1));
        let b = ledger.stats(Some("b")).await.expect("asked");
        assert_eq!((b.images, b.originals, b.deleting), (2, 2, 1));
        let nobody = ledger.stats(Some("c")).await.expect("asked");
        assert_eq!(nobody, empty);
    }

    #[tokio::test]
    async fn lateness_counts_from_when_a_row_was_due() {
        let (ledger, _folder) = ledger().await;
        let none = ledger
            .observe_originals(Duration::ZERO)
            .await
            .expect("asked");
        assert_eq!(none, OriginalsObservation::default());

        original(&ledger, 1, "", "stored", 0).await;
        original(&ledger, 2, "", "pending", 0).await;
        original(&ledger, 3, "", "deleting", 0).await;
        count(&ledger).await;
        // However long it was put off: it should be gone since it became `deleting`.
        sql(
            &ledger,
            "UPDATE original_images SET next_try = '2999-01-01T00:00:00.000+00:00', attempts = 40,
                updated_at = '2026-01-01T00:00:00.000+00:00'",
        )
        .await;
        let due = "2026-01-01T00:00:00Z"
            .parse::<DateTime<Utc>>()
            .expect("a time");
        let day = Duration::from_secs(24 * 60 * 60);
        let seen = ledger.observe_originals(day).await.expect("asked");
        assert_eq!(
            (seen.pending, seen.stored, seen.deleting, seen.unreferenced),
            (1, 1, 1, 1)
        );
        let age = (ledger.database_time().await.expect("a time") - due)
            .to_std()
            .expect("past");
        for (found, expected) in [
            (seen.oldest_pending, age),
            (seen.oldest_unreferenced, age - day),
            (seen.oldest_deleting, age),
        ] {
            assert!(
                expected - found < Duration::from_secs(60),
                "{found:?} {expected:?}"
            );
        }
        sql(
            &ledger,
            "UPDATE original_images SET lease_until = '2999-01-01T00:00:00.000+00:00',
                put_deadline = '2999-01-01T00:00:00.000+00:00'",
        )
        .await;
        let seen = ledger.observe_originals(day).await.expect("asked");
        assert_eq!(seen.oldest_pending, Duration::ZERO);
        assert_eq!(seen.oldest_deleting, Duration::ZERO, "a PUT may still land");
    }
}
