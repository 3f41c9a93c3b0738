//! verify-svc: the whole model behind gRPC. It owns the truth – committed tokens, the full KV
//! cache, sampling and batching – and uses drafters only to be faster.

pub mod config;
pub mod drafters;
pub mod engine;
pub mod error;
pub mod metrics;
mod page;
mod served;
mod server;
mod service;
pub mod session;
mod spans;

pub use config::Config;
pub use error::{Error, Result};
pub use service::{run, run_with};
