//! draft-svc: the shallow layers of the model behind gRPC. It proposes the next few tokens of
//! generations that a verifier runs, and decides at each one whether to propose another.

pub mod config;
pub mod engine;
pub mod error;
pub mod metrics;
mod server;
mod service;
pub mod session;

pub use config::Config;
pub use error::{Error, Result};
pub use service::{run, run_with};
