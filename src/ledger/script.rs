//! Statements that go to the database together.
//!
//! To ask a database and to be answered takes longer than most statements do, also where SQLite runs
//! in this process, behind a thread of its driver. So what a transaction writes is one round trip: on SQLite
//! one text, on PostgreSQL one statement with the writes as its common table expressions.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement, Values};

use super::LedgerError;
use crate::seams::{Rule, enforced};

/// What stands between two statements of one text.
const SEPARATOR: &str = ";\n";
/// PostgreSQL's protocol counts the values of a statement in 16 bits.
const MAX_POSTGRES_VALUES: usize = u16::MAX as usize;

/// Writes in their order, each with the number of rows that it must change.
#[derive(Debug)]
pub(super) struct Script {
    backend: DbBackend,
    writes: Vec<Statement>,
    planned: Vec<u64>,
    in_order: bool,
}

impl Script {
    pub(super) fn new(backend: DbBackend) -> Self {
        Self {
            backend,
            writes: Vec::new(),
            planned: Vec::new(),
            in_order: false,
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

    /// Says that one of the writes is to see what another one did: on PostgreSQL, all parts of one statement
    /// see the rows as they were before it.
    pub(super) fn keep_order(&mut self) {
        self.in_order = true;
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
        let values = writes.iter().flat_map(|write| &write.values);
        let too_many = values.map(|values| values.0.len()).sum::<usize>() > MAX_POSTGRES_VALUES;
        if writes.len() == 1 || self.in_order || too_many {
            for (write, planned) in writes.into_iter().zip(planned) {
                let changed = database.execute_raw(write).await?.rows_affected();
                expect(changed, planned)?;
            }
            return Ok(());
        }
        let row = database.query_one_raw(at_once(writes)).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("the numbers of rows".to_owned()))?;
        for (index, planned) in planned.into_iter().enumerate() {
            let changed: i64 = row.try_get_by_index(index)?;
            expect(changed.unsigned_abs(), planned)?;
        }
        Ok(())
    }
}

/// PostgreSQL's writes as parts of one statement, which answers with how many rows each of them changed.
fn at_once(writes: Vec<Statement>) -> Statement {
    let (mut parts, mut counts, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (index, write) in writes.into_iter().enumerate() {
        let sql = renumbered(&write.sql, values.len());
        parts.push(format!("w{index} AS ({sql} RETURNING 1)"));
        counts.push(format!("(SELECT count(*) FROM w{index})"));
        values.extend(write.values.into_iter().flat_map(|values| values.0));
    }
    let sql = format!("WITH {} SELECT {}", parts.join(",\n"), counts.join(", "));
    Statement::from_sql_and_values(DbBackend::Postgres, sql, values)
}

/// `$1` becomes `$8` behind seven other values. No text of ours has a `$` for anything else.
fn renumbered(sql: &str, values_before: usize) -> String {
    let mut parts = sql.split('$');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(part.len());
        let number: usize = part[..end].parse().unwrap_or_default();
        text.push_str(&format!("${}{}", number + values_before, &part[end..]));
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::text::tests::text;

    #[test]
    fn writes_at_once_have_numbers_of_their_own() {
        let fixed = Statement::from_string(DbBackend::Postgres, "DELETE FROM u");
        let whole = at_once(vec![
            text(DbBackend::Postgres),
            fixed,
            text(DbBackend::Postgres),
        ]);
        assert_eq!(
            whole.sql,
            "WITH w0 AS (UPDATE t SET a = $1 FROM (VALUES ($2, $3), ($4, $5)) AS v RETURNING 1),\n\
             w1 AS (DELETE FROM u RETURNING 1),\n\
             w2 AS (UPDATE t SET a = $6 FROM (VALUES ($7, $8), ($9, $10)) AS v RETURNING 1) \
             SELECT (SELECT count(*) FROM w0), (SELECT count(*) FROM w1), (SELECT count(*) FROM w2)"
        );
        assert_eq!(whole.values.map(|values| values.0.len()), Some(10));
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
