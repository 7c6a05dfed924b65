//! Statements written by hand, and lists in them.

use std::iter;

use entity::OriginalId;
use sea_orm::sea_query::extension::postgres::PgFunc;
use sea_orm::sea_query::{ArrayType, Expr, ExprTrait};
use sea_orm::{ColumnTrait, DbBackend, Statement, Value};

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

    /// Rows as a table of this name, whose columns are `column1` and so on. No value of theirs is NULL.
    ///
    /// PostgreSQL takes each column as one array, so that lists of all lengths are one text.
    pub(super) fn table<const N: usize>(
        &mut self,
        name: &str,
        rows: impl IntoIterator<Item = [Value; N]>,
    ) -> &mut Self {
        if self.backend != DbBackend::Postgres {
            self.push("(VALUES ");
            return self.rows(padded(rows)).push(&format!(") AS {name}"));
        }
        let names: Vec<String> = (1..=N).map(|number| format!("column{number}")).collect();
        for (index, column) in columns(rows).into_iter().enumerate() {
            self.push(if index == 0 { "unnest(" } else { ", " });
            self.bind(column);
        }
        self.push(&format!(") AS {name} ({})", names.join(", ")))
    }

    /// `(…), (…)`: what follows `VALUES`.
    pub(super) fn rows<R: IntoIterator<Item = Value>>(
        &mut self,
        rows: impl IntoIterator<Item = R>,
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

    /// Brings what an UPDATE gives to each of some rows. The ids are all different.
    pub(super) fn give<const N: usize>(
        &mut self,
        rows: impl IntoIterator<Item = (OriginalId, [Value; N])>,
    ) -> Given<N> {
        let mut rows: Vec<_> = rows.into_iter().collect();
        if self.backend != DbBackend::Postgres {
            return Given::Table(rows);
        }
        rows.sort_unstable_by_key(|(id, _)| *id);
        let ids_at = self.values.len() + 1;
        let (ids, rows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        self.values
            .extend(columns(ids.into_iter().map(|id| [id.into()])));
        self.values.extend(columns(rows));
        Given::Arrays { ids_at }
    }

    /// Ends the assignments of an UPDATE, and says which rows it is for.
    pub(super) fn of_given<const N: usize>(&mut self, given: Given<N>) -> &mut Self {
        match given {
            Given::Arrays { ids_at } => self.push(&format!(" WHERE id = ANY(${ids_at})")),
            Given::Table(rows) => {
                let rows = padded(rows).into_iter();
                self.push(" FROM (VALUES ")
                    .rows(rows.map(|(id, row)| iter::once(id.into()).chain(row)))
                    .push(") AS given WHERE id = given.column1")
            }
        }
    }

    pub(super) fn finish(self) -> Statement {
        Statement::from_sql_and_values(self.backend, self.sql, self.values)
    }
}

/// What an UPDATE gives to each of some rows, by the row's id: N values, none of them NULL.
#[derive(Debug)]
pub(super) enum Given<const N: usize> {
    /// On SQLite, a table that is joined: its rows one by one, each with a look into the index.
    Table(Vec<(OriginalId, [Value; N])>),
    /// On PostgreSQL, arrays in the order of the ids, in which each row searches for its place. A join could be
    /// planned as a walk through the whole table, by a session that knew of a handful of rows.
    Arrays { ids_at: usize },
}

impl<const N: usize> Given<N> {
    /// The value of a row, the first being number 0.
    pub(super) fn value(&self, number: usize) -> String {
        match self {
            Self::Table(_) => format!("given.column{}", number + 2),
            Self::Arrays { ids_at } => {
                let values_at = ids_at + 1 + number;
                format!("(${values_at})[width_bucket(id, ${ids_at})]")
            }
        }
    }
}

/// Whether a column has one of these values.
pub(super) fn is_one_of<T: Into<Value> + Clone>(
    backend: DbBackend,
    column: impl ColumnTrait,
    values: impl IntoIterator<Item = T>,
) -> Expr {
    match backend {
        DbBackend::Postgres => {
            let values = values.into_iter().map(Into::into).collect();
            column.into_expr().eq(PgFunc::any(Expr::val(array(values))))
        }
        _ => column.is_in(padded(values)),
    }
}

/// Rows as PostgreSQL's arrays, one for each column.
fn columns<const N: usize>(rows: impl IntoIterator<Item = [Value; N]>) -> [Value; N] {
    let mut columns: [Vec<Value>; N] = std::array::from_fn(|_| Vec::new());
    for row in rows {
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    columns.map(array)
}

/// Values of one type, as PostgreSQL's array of them.
fn array(values: Vec<Value>) -> Value {
    let of = values.first().map_or(ArrayType::Uuid, Value::array_type);
    Value::Array(of, Some(Box::new(values)))
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
pub(super) mod tests {
    use sea_orm::prelude::Uuid;

    use super::*;

    #[test]
    fn lists_are_padded_with_what_is_in_them() {
        assert_eq!(padded([7; 0]), [0; 0]);
        assert_eq!(padded([1]), [1]);
        assert_eq!(padded([1, 2, 3]), [1, 2, 3, 3]);
        assert_eq!(padded(0..128).len(), 128);
        assert_eq!(padded(0..129).len(), 256);
    }

    /// Two rows and a value.
    pub(in crate::ledger) fn text(backend: DbBackend) -> Statement {
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
    fn given(backend: DbBackend) -> Statement {
        let ids = [
            OriginalId(Uuid::from_u128(2)),
            OriginalId(Uuid::from_u128(1)),
        ];
        let mut text = Text::new(backend, "UPDATE t SET a = ");
        let given = text.give(ids.map(|id| (id, ["x".into(), 7.into()])));
        text.push(&given.value(1)).push(", b = ").bind(9);
        text.of_given(given);
        text.finish()
    }

    #[test]
    fn postgres_looks_for_what_is_given_in_sorted_arrays() {
        let given = given(DbBackend::Postgres);
        assert_eq!(
            given.sql,
            "UPDATE t SET a = ($3)[width_bucket(id, $1)], b = $4 WHERE id = ANY($1)"
        );
        let ids = [1, 2].map(|id| Value::from(Uuid::from_u128(id)));
        let values = given.values.expect("values are bound");
        assert_eq!(values.0[0], array(ids.to_vec()));
        assert_eq!(values.0[2], array(vec![7.into(), 7.into()]));
    }

    #[test]
    fn sqlite_joins_what_is_given() {
        let given = given(DbBackend::Sqlite);
        assert_eq!(
            given.sql,
            "UPDATE t SET a = given.column3, b = ? \
             FROM (VALUES (?, ?, ?), (?, ?, ?)) AS given WHERE id = given.column1"
        );
        assert_eq!(given.values.map(|values| values.0.len()), Some(7));
    }
}
