//! The one error type of this crate, and its one mapping to gRPC.

use dssd_common::serve::{ServiceError, clipped};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that verify-svc answers besides tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of a request is out of its range, contradicts another, or is not supported.
    #[error("{field}: {reason}")]
    InvalidField {
        /// The field's path in the request.
        field: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// A generation with this id runs or waits.
    #[error("request_id `{0}` is in use by a running or waiting generation")]
    RequestIdInUse(String),
    /// No room now; another time there may be.
    #[error("no room: {reason}")]
    NoRoom {
        /// What is full.
        reason: String,
        /// After how long to try again.
        retry: Duration,
    },
    /// Two things that must be equal are not.
    #[error("{subject}: expected {expected}, found {found}")]
    Precondition {
        /// What was compared.
        subject: &'static str,
        /// The value that was needed.
        expected: String,
        /// The value that was there.
        found: String,
    },
    /// The service is ending.
    #[error("the server is shutting down; try another one")]
    Draining,
    /// The time that the client gave is over.
    #[error("the deadline has passed")]
    DeadlineExceeded,
    /// The client has not read what was sent.
    #[error(
        "nothing was read for {0:?}, so the generation was ended: resume it with the tokens received"
    )]
    Unread(Duration),
    /// Start-up: a setting is wrong or contradicts another.
    #[error("{0}")]
    Config(String),
    /// A checkpoint, the tokenizer, or a parameter of the arithmetic.
    #[error(transparent)]
    Common(#[from] dssd_common::Error),
    /// A fault of ours; the log has the same id.
    #[error("internal error {id}: {what}")]
    Internal {
        /// Stands in the log too.
        id: uuid::Uuid,
        /// Where it happened.
        what: String,
    },
}

impl Error {
    /// A field of a request that cannot be used.
    pub fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidField {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// Whether the device of the model has failed.
    pub(crate) fn is_of_device(&self) -> bool {
        matches!(self, Self::Common(dssd_common::Error::Device(_)))
    }

    /// A fault of ours: logs the cause and keeps its id.
    pub fn internal(what: &str, cause: impl std::fmt::Display) -> Self {
        let id = uuid::Uuid::new_v4();
        tracing::error!(%id, what, %cause, "internal error");
        Self::Internal {
            id,
            what: what.to_owned(),
        }
    }
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
            Error::InvalidField { field, reason } => (
                Code::InvalidArgument,
                ErrorDetails::with_bad_request_violation(field, clipped(reason)),
            ),
            Error::Common(dssd_common::Error::InvalidParameter { field, reason }) => (
                Code::InvalidArgument,
                ErrorDetails::with_bad_request_violation(field, clipped(reason)),
            ),
            Error::RequestIdInUse(_) => (Code::AlreadyExists, ErrorDetails::new()),
            Error::NoRoom { retry, .. } => (
                Code::ResourceExhausted,
                ErrorDetails::with_retry_info(Some(retry)),
            ),
            Error::Precondition { subject, .. } => (
                Code::FailedPrecondition,
                ErrorDetails::with_precondition_failure_violation(
                    "MISMATCH",
                    subject,
                    message.clone(),
                ),
            ),
            Error::Draining => (Code::Unavailable, ErrorDetails::new()),
            Error::DeadlineExceeded => (Code::DeadlineExceeded, ErrorDetails::new()),
            Error::Unread(_) => (Code::Aborted, ErrorDetails::new()),
            Error::Config(_) | Error::Internal { .. } => (Code::Internal, ErrorDetails::new()),
            Error::Common(fault) => {
                let error = Error::internal("the model", fault);
                return Self::internal(error.to_string());
            }
        };
        Self::with_error_details(code, message, details)
    }
}
