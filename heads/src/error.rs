//! The one error type of this crate.

use std::path::Path;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong while heads are made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model, its heads, a file, or a setting out of its range.
    #[error(transparent)]
    Common(#[from] dssd_common::Error),
    /// Arithmetic on tensors.
    #[error("tensor arithmetic: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        let path = path.into();
        Self::Common(dssd_common::Error::Io { path, source })
    }

    pub(crate) fn invalid_file(path: &Path, reason: impl Into<String>) -> Self {
        Self::Common(dssd_common::Error::InvalidFile {
            path: path.into(),
            reason: reason.into(),
        })
    }

    /// `field` is the setting's name on the command line, without dashes.
    pub(crate) fn setting(field: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Common(dssd_common::Error::InvalidParameter { field, reason })
    }
}
