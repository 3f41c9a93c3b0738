//! The one error type of this crate, and its one mapping to gRPC.

use crate::session::Refusal;
use dssd_common::serve::{ServiceError, clipped};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// When a verifier may try again after a refusal for want of room.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Everything that draft-svc answers besides proposals.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A message that the protocol does not permit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A field that is not supported here.
    #[error("{field}: {reason}")]
    Field {
        /// Path of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No room now; another time there may be.
    #[error("no room: {0}")]
    NoRoom(String),
    /// The service is ending.
    #[error("the drafter is shutting down")]
    Draining,
    /// Start-up: a setting is wrong or contradicts another.
    #[error("{0}")]
    Config(String),
    /// A checkpoint, or a parameter of the arithmetic.
    #[error(transparent)]
    Common(#[from] dssd_common::Error),
}

impl ServiceError for Error {
    fn is_usage(&self) -> bool {
        use dssd_common::Error::InvalidParameter;
        matches!(
            self,
            Self::Config(_) | Self::Common(InvalidParameter { .. })
        )
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = clipped(error.to_string());
        let (code, details) = match error {
            Error::Refused(Refusal::Mismatch { what, .. }) => (
                Code::FailedPrecondition,
                ErrorDetails::with_precondition_failure_violation(
                    "MISMATCH",
                    what,
                    message.clone(),
                ),
            ),
            Error::Refused(Refusal::Invalid { field, reason }) => (
                Code::InvalidArgument,
                ErrorDetails::with_bad_request_violation(field, clipped(reason)),
            ),
            Error::Refused(Refusal::CommitBeforeOpen) => (
                Code::InvalidArgument,
                ErrorDetails::with_bad_request_violation("commit", message.clone()),
            ),
            Error::Field { field, reason }
            | Error::Common(dssd_common::Error::InvalidParameter { field, reason }) => (
                Code::InvalidArgument,
                ErrorDetails::with_bad_request_violation(field, clipped(reason)),
            ),
            Error::NoRoom(_) | Error::Common(dssd_common::Error::OutOfKvBlocks { .. }) => (
                Code::ResourceExhausted,
                ErrorDetails::with_retry_info(Some(RETRY_DELAY)),
            ),
            Error::Draining => (Code::Unavailable, ErrorDetails::new()),
            Error::Config(_) | Error::Common(_) => (Code::Internal, ErrorDetails::new()),
        };
        Self::with_error_details(code, message, details)
    }
}
