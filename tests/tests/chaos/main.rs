//! Services as processes of their own, to which things happen: killed, frozen, ended, cut off,
//! held up, under load. Whatever does, clients that resume get every token once and right, and
//! nothing is left behind.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test is a failed test, helpers included"
)]

mod chaos;
mod clients;
mod cluster;
mod collector;
mod faults;
mod ledger;
mod logged;
mod logs;
mod processes;
mod proxy;
mod requests;
mod rolling;
mod start;
mod traces;

/// The long tests measure processes, so they run one after another.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
