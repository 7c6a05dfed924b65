//! Hapax takes uploads over HTTP, stores every distinct original exactly once, counts the references
//! to it, and removes its bytes with the last one.
//!
//! # The pipeline
//!
//! ```text
//! HTTP          a request's body, taken apart as it streams by: events through a bounded channel
//!   │
//! HashActor     SHA-256 while the bytes are spooled, limits, declared digests, sniffed type
//!   │ HashedUpload
//! DedupActor    attach to what is stored; else announce a `pending` row, one flight per content
//!   │      ╲
//!   │       BlobActor      one PUT under a key that no other generation ever had
//!   │
//! RefcountActor look, lock, plan, write, COMMIT: up to 128 operations in one transaction
//!   │
//! StoredUpload  answered after the COMMIT, never before
//!
//! reapers       expired `pending` and unreferenced `stored` rows ─▶ `deleting` ─▶ object gone ─▶ row gone
//! ```
//!
//! A deletion enters at `RefcountActor` and ends there; the reapers do the rest. Reads pass no
//! actor: a row names the object, the store streams it.
//!
//! # Modules, in reading order
//!
//! - [`upload`]: what travels down the pipeline, and how it can end.
//! - [`service`]: everything the server can do, as plain calls; knows nothing of HTTP.
//! - [`actors`]: the pipeline itself, one actor a file, and the reapers.
//! - [`ledger`]: the only code that builds queries; the protocol's transactions as named functions.
//! - [`store`]: where bytes live: one trait, a folder and S3.
//! - [`spool`], [`sniff`]: bodies on their way in, and what their bytes say of themselves.
//! - [`reap`], [`verify`]: removing what nobody refers to; comparing rows, objects and counts.
//! - [`http`]: routes, extractors, problem documents.
//! - [`config`], [`metrics`], [`logging`]: what an operator sets and sees.
//! - [`app`], [`cli`]: the composition root, and one file per command.
//!
//! The rules R1 to R16 and the invariants I1 to I10 that comments refer to are listed in
//! `docs/ARCHITECTURE.md`.

pub mod actors;
pub mod app;
pub mod cli;
pub mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod ledger;
pub mod logging;
pub mod metrics;
pub mod reap;
mod seams;
pub mod service;
pub mod sniff;
pub mod spool;
pub mod store;
pub mod upload;
pub mod verify;
