//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong while heads are made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model, its heads or its cache.
    #[error(transparent)]
    Common(#[from] dssd_common::Error),
    /// Arithmetic on tensors.
    #[error("tensor arithmetic: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of text or of training state says something that it must not.
    #[error("{path}: {reason}", path = path.display())]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, where, and what to do.
        reason: String,
    },
    /// A setting is out of its range, or contradicts another one.
    #[error("`{setting}`: {reason}")]
    InvalidSetting {
        /// The setting's name on the command line, without dashes.
        setting: &'static str,
        /// The allowed range and the value seen.
        reason: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    pub(crate) fn invalid_file(path: &Path, reason: impl Into<String>) -> Self {
        Self::InvalidFile {
            path: path.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn setting(setting: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidSetting {
            setting,
            reason: reason.into(),
        }
    }
}
