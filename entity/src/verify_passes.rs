//! `verify_passes`: where each verification of the store is, and what the last complete one found.

use sea_orm::entity::prelude::*;

/// One kind of verification: `background`, the trickle in `serve`; `command`, `hapax verify`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "verify_passes")]
pub struct Model {
    /// The kind. Both rows are there from the migration on.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// Names whoever took the row last: nobody else may keep a position in it.
    pub claim: Option<Uuid>,
    /// Nobody goes on with the background's pass before this: the time that a node may take for one
    /// step, or the pause that the configured rate asks for after it.
    pub not_before: DateTimeUtc,
    /// Complete passes so far.
    pub passes: i64,
    /// Position, depth and figures of the pass that is under way; null when none is.
    pub progress: Option<Json>,
    /// When the background's pass that is under way, or its last one, began.
    pub started_at: Option<DateTimeUtc>,
    /// When the last complete pass ended.
    pub completed_at: Option<DateTimeUtc>,
    /// Its figures.
    pub result: Option<Json>,
}

/// The rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
