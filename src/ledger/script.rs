//! Statements that go to the database together.
//!
//! SQLite runs in this process, behind a thread of its driver: to wake it, and to be woken by it, takes
//! longer than most statements do. So what a transaction writes goes there as one text. PostgreSQL takes
//! one statement at a time.

use sea_orm::{ConnectionTrait, DbBackend, Statement, Value, Values};

use super::LedgerError;
use crate::seams::{Rule, enforced};

/// What stands between two statements of one text.
const SEPARATOR: &str = ";\n";

/// Writes in their order, each with the number of rows that it must change.
#[derive(Debug)]
pub(super) struct Script {
    backend: DbBackend,
    writes: Vec<Statement>,
    planned: Vec<u64>,
}

impl Script {
    pub(super) fn new(backend: DbBackend) -> Self {
        Self {
            backend,
            writes: Vec::new(),
            planned: Vec::new(),
        }
    }

    pub(super) fn backend(&self) -> DbBackend {
        self.backend
    }

    /// Adds a statement that can change no more than `rows` rows, and must change all of them.
    pub(super) fn add(&mut self, write: Statement, rows: usize) {
        self.writes.push(write);
        self.planned.push(rows as u64);
    }

    /// Runs what was added, and leaves nothing behind.
    ///
    /// # Errors
    /// [`LedgerError::Contended`]: somebody else changed the rows first; roll back (rule R4).
    pub(super) async fn run(&mut self, database: &impl ConnectionTrait) -> Result<(), LedgerError> {
        let (writes, planned) = (
            std::mem::take(&mut self.writes),
            std::mem::take(&mut self.planned),
        );
        if writes.is_empty() {
            return Ok(());
        }
        if self.backend == DbBackend::Sqlite {
            // Its driver adds the numbers up. As no statement changes more than planned, the sum is right
            // only where each of them is.
            let changed = database.execute_raw(joined(writes)).await?.rows_affected();
            return expect(changed, planned.iter().sum());
        }
        for (write, planned) in writes.into_iter().zip(planned) {
            let changed = database.execute_raw(write).await?.rows_affected();
            expect(changed, planned)?;
        }
        Ok(())
    }
}

fn expect(changed: u64, planned: u64) -> Result<(), LedgerError> {
    if changed == planned || !enforced(Rule::AffectedRowsChecked) {
        Ok(())
    } else {
        Err(LedgerError::Contended)
    }
}

/// Statements whose parameters are all spelled `?`, as one.
fn joined(statements: Vec<Statement>) -> Statement {
    let mut parts = statements.into_iter();
    let Some(mut whole) = parts.next() else {
        return Statement::from_string(DbBackend::Sqlite, String::new());
    };
    for part in parts {
        whole.sql.push_str(SEPARATOR);
        whole.sql.push_str(&part.sql);
        match (&mut whole.values, part.values) {
            (Some(values), Some(more)) => values.0.extend(more.0),
            (values @ None, more) => *values = more,
            (Some(_), None) => {}
        }
    }
    whole
}

/// The same statement after `first`, which has no parameter.
pub(super) fn preceded(first: &str, mut statement: Statement) -> Statement {
    statement.sql = format!("{first}{SEPARATOR}{}", statement.sql);
    statement
}

/// The statements of one text, for whoever looks at them one by one.
pub(super) fn parts(whole: &Statement) -> Vec<Statement> {
    let mut values = whole.values.iter().flat_map(|values| values.0.iter());
    whole
        .sql
        .split(SEPARATOR)
        .map(|sql| Statement {
            sql: sql.to_owned(),
            values: match sql.len() == whole.sql.len() {
                true => whole.values.clone(),
                false => Some(Values(
                    values
                        .by_ref()
                        .take(sql.matches('?').count())
                        .cloned()
                        .collect(),
                )),
            },
            db_backend: whole.db_backend,
        })
        .collect()
}

/// A statement written by hand: its text with the values where they belong.
#[derive(Debug)]
pub(super) struct Text {
    backend: DbBackend,
    sql: String,
    values: Vec<Value>,
}

impl Text {
    pub(super) fn new(backend: DbBackend, sql: &str) -> Self {
        Self {
            backend,
            sql: sql.to_owned(),
            values: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    pub(super) fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        match self.backend {
            DbBackend::Postgres => self.sql.push_str(&format!("${}", self.values.len())),
            // By position: so that statements can be joined.
            _ => self.sql.push('?'),
        }
        self
    }

    /// `(…), (…)`: what follows `VALUES`.
    pub(super) fn rows<const N: usize>(
        &mut self,
        rows: impl IntoIterator<Item = [Value; N]>,
    ) -> &mut Self {
        for (index, row) in rows.into_iter().enumerate() {
            self.push(if index == 0 { "(" } else { ", (" });
            for (index, value) in row.into_iter().enumerate() {
                if index > 0 {
                    self.push(", ");
                }
                self.bind(value);
            }
            self.push(")");
        }
        self
    }

    pub(super) fn finish(self) -> Statement {
        Statement::from_sql_and_values(self.backend, self.sql, self.values)
    }
}

/// A list of values or rows with its last one repeated until their number is a power of two: a database
/// keeps the plan of a statement by its text, and so a handful of texts serves every batch. Only where one
/// more of the same changes nothing.
pub(super) fn padded<T: Clone>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    let length = values.len().next_power_of_two();
    if let Some(last) = values.last().cloned() {
        values.resize(length, last);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_padded_with_what_is_in_them() {
        assert_eq!(padded([7; 0]), [0; 0]);
        assert_eq!(padded([1]), [1]);
        assert_eq!(padded([1, 2, 3]), [1, 2, 3, 3]);
        assert_eq!(padded(0..128).len(), 128);
        assert_eq!(padded(0..129).len(), 256);
    }

    fn text(backend: DbBackend) -> Statement {
        let mut text = Text::new(backend, "UPDATE t SET a = ");
        text.bind(7).push(" FROM (VALUES ");
        text.rows([[1.into(), "x".into()], [2.into(), "y".into()]]);
        text.push(") AS v");
        text.finish()
    }

    #[test]
    fn values_stand_where_they_belong() {
        let postgres = text(DbBackend::Postgres);
        assert_eq!(
            postgres.sql,
            "UPDATE t SET a = $1 FROM (VALUES ($2, $3), ($4, $5)) AS v"
        );
        assert_eq!(postgres.values.map(|values| values.0.len()), Some(5));
    }

    #[test]
    fn a_text_can_be_taken_apart_again() {
        let alone = text(DbBackend::Sqlite);
        let fixed = Statement::from_string(DbBackend::Sqlite, "DELETE FROM t");
        let whole = joined(vec![alone.clone(), fixed, alone.clone()]);
        let whole = preceded("BEGIN", whole);
        let parts = parts(&whole);
        let texts: Vec<&str> = parts.iter().map(|part| part.sql.as_str()).collect();
        assert_eq!(texts, ["BEGIN", &alone.sql, "DELETE FROM t", &alone.sql]);
        assert_eq!(parts[1].values, alone.values);
        assert_eq!(parts[3].values, alone.values);
        assert_eq!(super::parts(&alone), [alone]);
    }
}
