//! One `serve` per SQLite database: its writers coordinate in one process. The other commands may
//! run beside it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::AppError;
use crate::ledger::sqlite_file;

/// Held for as long as the server runs; the system frees it with the process, however it ends.
#[derive(Debug)]
pub(super) struct InstanceLock {
    _file: Option<File>,
}

impl InstanceLock {
    /// Takes the lock; PostgreSQL needs none.
    pub(super) fn take(database_url: &str) -> Result<Self, AppError> {
        let file = database_url
            .starts_with("sqlite:")
            .then(|| sqlite_file(database_url))
            .flatten();
        let Some(mut path) = file else {
            return Ok(Self { _file: None });
        };
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| AppError::DatabaseFolder { path, source }
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(unusable(folder))?;
        }
        path.as_mut_os_string().push(".serve-lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(unusable(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(AppError::AlreadyServing {
                lock_file: path.display().to_string(),
            }),
            Err(TryLockError::Error(error)) => Err(unusable(&path)(error)),
        }
    }
}
