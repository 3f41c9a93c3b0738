//! The services as a client meets them: through gRPC, on loopback, with the demo model.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test is a failed test, helpers included"
)]

mod admission;
mod age;
mod api;
mod drafter;
mod draining;
mod early_exit;
mod ending;
mod exclusion;
mod fake;
mod fields;
mod folders;
mod http;
mod metrics;
mod page;
mod pair;
mod pki;
mod prefix;
mod reflection;
mod refusals;
mod rest;
mod rotation;
mod shares;
mod slow_reader;
mod soak;
mod strangers;
mod support;
mod transport;
mod work_ahead;
