//! A model of Hapax's protocol, checked exhaustively: every interleaving of uploads, deletions,
//! reapers and scrub, with crashes between any two steps, leases that run out at any moment,
//! requests to the store that time out and land later, commits whose outcome is unknown, failovers,
//! and a store that loses objects by itself. See `docs/model.md`.
//!
//! Reading order: [`config`] (what a run contains, and the rules that it can leave out), [`state`],
//! `upload`, `delete`, `reap`, `environment` (the steps), `rules` (the steps without a rule),
//! [`properties`], [`catalogue`] (the runs), [`check`] (running them).

pub mod catalogue;
pub mod check;
pub mod config;
mod delete;
mod environment;
mod fingerprint;
pub mod properties;
pub mod protocol;
mod reap;
mod rules;
pub mod seed;
pub mod state;
mod upload;

pub use config::{Config, Rule};
pub use protocol::Protocol;
