//! Database errors, classed by what the caller may conclude.

use sea_orm::{DbErr, RuntimeErr, SqlErr, SqlxError};

/// A ledger call that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database did not answer, or not in time. A write may have committed (rule R15).
    #[error("the database is not available: {0}")]
    Unavailable(#[source] DbErr),
    /// A queue before the database is full; nothing was done.
    #[error("too many operations are waiting")]
    Overloaded,
    /// Somebody else changed the same rows between our look and our write, again and again; nothing
    /// was done.
    #[error("the same rows keep changing")]
    Contended,
    /// A constraint refused a write, or a row count was not the expected one: a bug, or somebody
    /// else's hand in the tables. The transaction was rolled back.
    #[error("the database refused an inconsistent write: {0}")]
    Inconsistent(String),
    /// A statement or a value that the database does not understand: a bug.
    #[error("database error: {0}")]
    Internal(#[source] DbErr),
}

impl From<DbErr> for LedgerError {
    fn from(error: DbErr) -> Self {
        if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) {
            return Self::Contended;
        }
        // Whatever refused the connection, no statement was wrong: an operator can mend it meanwhile.
        if matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_)) {
            return Self::Unavailable(error);
        }
        match sqlx_error(&error) {
            Some(SqlxError::Database(refusal)) => match refusal.code().as_deref() {
                Some(code) if is_passing(code) => Self::Unavailable(error),
                Some(code) if is_constraint(code) => Self::Inconsistent(error.to_string()),
                _ => Self::Internal(error),
            },
            Some(
                SqlxError::Io(_)
                | SqlxError::Tls(_)
                | SqlxError::Protocol(_)
                | SqlxError::PoolTimedOut
                | SqlxError::PoolClosed
                | SqlxError::WorkerCrashed
                | SqlxError::BeginFailed,
            ) => Self::Unavailable(error),
            _ => Self::Internal(error),
        }
    }
}

impl LedgerError {
    /// Whether to ask again soon would be in vain: no connection could be had for as long as one waits
    /// for one, or the disk below SQLite is full or fails.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Unavailable(DbErr::ConnectionAcquire(_)) => true,
            Self::Unavailable(error) => {
                matches!(sqlx_error(error), Some(SqlxError::Database(refusal))
                    if refusal.code().as_deref().is_some_and(is_broken_disk))
            }
            _ => false,
        }
    }

    /// The same refusal for another caller; `None` where it says something of its own operation.
    pub(crate) fn for_another(&self) -> Option<Self> {
        match self {
            Self::Unavailable(error) => Some(Self::Unavailable(error.clone())),
            _ => None,
        }
    }

    /// The process is going down with the call: it may have taken effect.
    pub(crate) fn stopping() -> Self {
        Self::Unavailable(DbErr::Custom("the server is stopping".to_owned()))
    }
}

fn sqlx_error(error: &DbErr) -> Option<&SqlxError> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

/// States of the server, not of the statement. PostgreSQL: SQLSTATE classes 08 (connection), 40
/// (rollback), 53 (resources), 57 (operator), 58 (system), and 25 (a read-only standby, an aborted
/// transaction), 55P03 (lock time-out). SQLite: primary result codes BUSY, LOCKED, NOMEM, READONLY,
/// INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
fn is_passing(code: &str) -> bool {
    if code.len() == 5 {
        return ["08", "25", "40", "53", "57", "58"].contains(&&code[..2]) || code == "55P03";
    }
    code.parse::<u32>()
        .is_ok_and(|code| [5, 6, 7, 8, 9, 10, 13, 14, 15].contains(&(code & 0xff)))
}

/// SQLite's IOERR and FULL.
fn is_broken_disk(code: &str) -> bool {
    code.len() != 5
        && code
            .parse::<u32>()
            .is_ok_and(|code| [10, 13].contains(&(code & 0xff)))
}

/// PostgreSQL: class 23. SQLite: CONSTRAINT, and MISMATCH of a `STRICT` table.
fn is_constraint(code: &str) -> bool {
    if code.len() == 5 {
        return code.starts_with("23");
    }
    code.parse::<u32>()
        .is_ok_and(|code| [19, 20].contains(&(code & 0xff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_in_trouble_is_not_a_wrong_statement() {
        for passing in [
            "08006", "40001", "40P01", "53100", "57014", "57P01", "55P03", "5", "261", "13", "2570",
        ] {
            assert!(is_passing(passing), "{passing}");
        }
        for other in ["23505", "42601", "22001", "1", "19", "2067"] {
            assert!(!is_passing(other), "{other}");
        }
    }

    #[test]
    fn a_disk_that_is_full_stays_so_for_a_while() {
        for lasting in ["13", "10", "778", "1034"] {
            assert!(is_broken_disk(lasting), "{lasting}");
        }
        for passing in ["5", "261", "53100", "57P01"] {
            assert!(!is_broken_disk(passing), "{passing}");
        }
    }

    #[test]
    fn a_constraint_is_told_from_bad_syntax() {
        for constraint in ["23503", "23514", "19", "275", "787", "20"] {
            assert!(is_constraint(constraint), "{constraint}");
        }
        for other in ["42601", "1", "5"] {
            assert!(!is_constraint(other), "{other}");
        }
    }
}
