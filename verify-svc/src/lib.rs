//! verify-svc: the whole model behind gRPC. It owns the truth – committed tokens, the full KV
//! cache, sampling and batching – and uses drafters only to be faster.

pub mod drafters;
pub mod engine;
pub mod error;
pub mod session;

pub use error::{Error, Result};
