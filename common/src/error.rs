//! The one error type of this crate.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong in `dssd-common`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read, mapped or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was read, and what it says is damaged or contradictory.
    #[error("{path}: {reason}", path = path.display())]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A configuration field asks for arithmetic that is not supported.
    #[error("{path}: field `{field}`: {reason}", path = path.display())]
    UnsupportedField {
        /// The configuration file.
        path: PathBuf,
        /// The field's name.
        field: String,
        /// What is supported instead.
        reason: String,
    },
    /// A tensor is missing or has another shape or type than the configuration asks for.
    #[error("tensor `{tensor}`: {reason}")]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A parameter of a request or of a call is out of its range.
    #[error("`{field}`: {reason}")]
    InvalidParameter {
        /// The parameter's name.
        field: &'static str,
        /// The allowed range and the value seen.
        reason: String,
    },
    /// Two things that must belong together do not (checkpoint, heads, tokenizer, calibration).
    #[error("{what} does not match: expected {expected}, found {found}")]
    Mismatch {
        /// What was compared.
        what: &'static str,
        /// The value that was needed.
        expected: String,
        /// The value that was there.
        found: String,
    },
    /// The KV cache has no room for another sequence of this length.
    #[error("KV cache: {needed} blocks needed, {free} of {total} free")]
    OutOfKvBlocks {
        /// Blocks that the sequence would reserve.
        needed: usize,
        /// Blocks not reserved by anyone.
        free: usize,
        /// Blocks in the budget.
        total: usize,
    },
    /// The device that computes has failed. It is of no use until the process starts anew.
    #[error("the GPU: {0}")]
    Device(String),
    /// A service could not be started or kept running.
    #[error("{what}: {reason}")]
    Service {
        /// What failed: the listener, the gRPC server, the engine.
        what: &'static str,
        /// What it said.
        reason: String,
    },
}
