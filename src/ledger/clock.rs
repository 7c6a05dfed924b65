//! The database's clock as SQL expressions: the only clock that is ever compared (rule R7).
//!
//! SQLite has no time type. Its columns hold one text format, UTC with exactly three fraction
//! digits, so that texts compare as times do; whoever binds a time uses [`at`].

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use sea_orm::sea_query::{Expr, Query, Value};
use sea_orm::{ConnectionTrait, DbBackend, DbErr};

#[cfg(feature = "seams")]
use crate::seams::{Rule, broken, enforced};

const SQLITE_FORMAT: &str = "%Y-%m-%dT%H:%M:%f+00:00";

/// The current time.
pub fn now(backend: DbBackend) -> Expr {
    shifted(backend, '+', Duration::ZERO)
}

/// The current time, to be written by several statements of one transaction.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn read(
    database: &impl ConnectionTrait,
    backend: DbBackend,
) -> Result<DateTime<Utc>, DbErr> {
    #[cfg(feature = "seams")]
    if !enforced(Rule::DatabaseClock) {
        return Ok(broken::own_time('+', Duration::ZERO).trunc_subsecs(3));
    }
    if backend == DbBackend::Sqlite {
        // It runs in this process and has no clock but this one; in its precision.
        return Ok(Utc::now().trunc_subsecs(3));
    }
    let query = Query::select().expr(now(backend)).take();
    let row = database.query_one(&query).await?;
    row.ok_or_else(|| DbErr::RecordNotFound("the time".to_owned()))?
        .try_get_by_index(0)
}

/// The current time plus `after`.
pub fn from_now(backend: DbBackend, after: Duration) -> Expr {
    shifted(backend, '+', after)
}

/// The current time minus `ago`.
pub fn before_now(backend: DbBackend, ago: Duration) -> Expr {
    shifted(backend, '-', ago)
}

/// A time that the database told us earlier, to be written or compared.
pub fn at(backend: DbBackend, time: DateTime<Utc>) -> Expr {
    Expr::val(value(backend, time))
}

/// As [`at`], for a hand-written statement.
pub fn value(backend: DbBackend, time: DateTime<Utc>) -> Value {
    match backend {
        DbBackend::Postgres => time.into(),
        _ => time
            .format("%Y-%m-%dT%H:%M:%S%.3f+00:00")
            .to_string()
            .into(),
    }
}

fn shifted(backend: DbBackend, sign: char, by: Duration) -> Expr {
    #[cfg(feature = "seams")]
    if !enforced(Rule::DatabaseClock) {
        return at(backend, broken::own_time(sign, by));
    }
    Expr::cust(shifted_sql(backend, sign, by))
}

/// The number is ours, not a client's; as a literal it keeps the statement's text the same for
/// every call, so that the database plans it once.
fn shifted_sql(backend: DbBackend, sign: char, by: Duration) -> String {
    match (backend, by.is_zero()) {
        (DbBackend::Postgres, true) => "now()".to_owned(),
        (DbBackend::Postgres, false) => {
            format!("(now() {sign} interval '{} microseconds')", by.as_micros())
        }
        (_, true) => format!("strftime('{SQLITE_FORMAT}', 'now')"),
        (_, false) => format!(
            "strftime('{SQLITE_FORMAT}', 'now', '{sign}{}.{:03} seconds')",
            by.as_secs(),
            by.subsec_millis()
        ),
    }
}
