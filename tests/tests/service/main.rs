//! The services as a client meets them: through gRPC, on loopback, with the demo model.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test is a failed test, helpers included"
)]

mod admission;
mod api;
mod drafter;
mod early_exit;
mod ending;
mod exclusion;
mod folders;
mod pair;
mod reflection;
mod refusals;
mod slow_reader;
mod soak;
mod support;
mod work_ahead;
