//! What both DSSD services share: checkpoints, the model pass, the KV cache,
//! the kernels, exit heads, draft policies and sampling.
//!
//! The contract that every module serves: the logits of a position have the same bits
//! however they were computed – alone, inside a draft, in a batch, in a prefill, or late.

pub mod bytes;
pub mod checkpoint;
pub mod entropy;
pub mod error;
pub mod exit;
pub mod kernels;
pub mod kv;
pub mod math;
pub mod model;
pub mod policy;
pub mod sampling;
pub mod serve;
pub mod tokenizer;

pub use error::{Error, Result};
