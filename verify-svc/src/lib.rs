//! The verifier: holds the whole model, owns the truth, and serves text generation.

pub mod session;
