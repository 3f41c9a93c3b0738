//! Exit heads of a frozen model: trained on the model's own predictions, then calibrated.
//!
//! [`corpus`] reads text as a stream of token windows, [`backbone`] runs the model over them and
//! hands out its hidden states, and [`train`] teaches one head for each exit to say what the
//! whole model says. No labels are needed, and with [`self_text`] no text either. [`calibrate`]
//! then finds out how far each head's entropy can be trusted, and [`report`] what the heads are
//! worth, whatever was promised.
//!
//! Source: F. Valade, "Accelerating Large Language Model Inference with Self-Supervised Early
//! Exits", arXiv 2407.21082.

pub mod backbone;
pub mod calibrate;
pub mod corpus;
mod error;
pub mod interval;
pub mod report;
pub mod self_text;
pub mod train;

pub use error::{Error, Result};
