//! draft-svc: the shallow layers of the model behind gRPC. It proposes the next few tokens of
//! generations that a verifier runs, and decides at each one whether to propose another.

pub mod engine;
pub mod error;
pub mod session;

pub use error::{Error, Result};
