//! Why a command could not do its work.

use std::io;

use crate::config::ConfigProblems;
use crate::ledger::LedgerError;
use crate::store::StoreError;
use crate::verify::VerifyError;

/// A command that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the object store is not available: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error("the database's schema is not the one of this version; migrations to come: {pending}")]
    NotMigrated { pending: usize },
    #[error("there is no key {0}")]
    NoSuchKey(String),
    #[error("the interrupted verification ran {kept}; this one asks for something else")]
    OtherDepth { kept: String },
    #[error("stdout cannot be written: {0}")]
    Output(#[from] io::Error),
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::OtherDepth { .. } => 2,
            Self::Ledger(_)
            | Self::Store(_)
            | Self::Verify(_)
            | Self::NotMigrated { .. }
            | Self::NoSuchKey(_)
            | Self::Output(_)
            | Self::Failed(_) => 1,
        }
    }

    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotMigrated { .. } => Some("run `hapax migrate up`, or start `hapax serve`"),
            Self::OtherDepth { .. } => {
                Some("give the same options to go on, or leave --resume out to begin anew")
            }
            Self::NoSuchKey(_) => Some("`hapax keys list` shows every key's id"),
            _ => None,
        }
    }
}
