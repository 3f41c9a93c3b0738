//! What a failed call tells: its code, and the `google.rpc` details.

use std::{error::Error as _, time::Duration};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Whether another attempt may fare better.
pub(crate) fn is_passing(status: &Status) -> bool {
    match status.code() {
        // ABORTED: what came was not read in time.
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => true,
        // A connection that breaks under a stream shows as one of these, with its cause.
        Code::Unknown | Code::Internal | Code::Cancelled => status.source().is_some(),
        _ => false,
    }
}

/// After how long the server wants to be asked again.
pub(crate) fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

/// Tells the code in gRPC's spelling, the message and the details.
pub(crate) fn show(status: &Status) {
    eprintln!("{}: {}", name(status.code()), status.message());
    let details = status.get_error_details();
    for violation in details
        .bad_request()
        .iter()
        .flat_map(|it| &it.field_violations)
    {
        eprintln!(
            "  BadRequest: {}: {}",
            violation.field, violation.description
        );
    }
    for violation in details
        .precondition_failure()
        .iter()
        .flat_map(|it| &it.violations)
    {
        eprintln!(
            "  PreconditionFailure: {}: {}",
            violation.subject, violation.description
        );
    }
    if let Some(delay) = retry_delay(status) {
        eprintln!("  RetryInfo: {delay:?}");
    }
}

/// `DeadlineExceeded` as `DEADLINE_EXCEEDED`.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
