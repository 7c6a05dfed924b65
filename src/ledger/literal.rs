//! Conditions with their constants written into the statement.
//!
//! A partial index serves a statement only when the planner sees that the statement's condition
//! implies the index's. With a bound parameter SQLite finds that out by preparing the statement anew
//! for every value, and PostgreSQL can keep no plan for it.

use entity::original_images::OriginalState;
use sea_orm::ActiveEnum;
use sea_orm::sea_query::Expr;

/// `original_images.state` is this one.
pub(super) fn state_is(state: OriginalState) -> Expr {
    Expr::cust(format!(
        "\"original_images\".\"state\" = '{}'",
        state.to_value()
    ))
}

/// The same of rows that are found by their ids, which a list of values brings: as an expression, so that
/// no index of the rows in this state is thought of. SQLite keeps no statistics here, takes such a list for
/// as long as the index, and would read the whole index to look each of its rows up in the list; so would a
/// PostgreSQL that planned the statement when the index was empty.
pub(super) fn found_in_state(state: OriginalState) -> String {
    format!("state || '' = '{}'", state.to_value())
}

/// The image is not deleted; of rows that are found by their ids, and as an expression for the same reason.
pub(super) fn found_live() -> &'static str {
    "CASE WHEN deleted_at IS NULL THEN 1 END = 1"
}

/// No image refers to the original, as far as its count says.
pub(super) fn is_unreferenced() -> Expr {
    Expr::cust("\"original_images\".\"reference_count\" = 0")
}
