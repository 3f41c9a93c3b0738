//! The decoder: a stack of bands through which ragged sets of rows advance.
//!
//! A *row* is one position of one sequence. A *band* is the run of layers between one exit and
//! the next. [`Decoder::advance`] takes any set of sequences through one band; drafting,
//! verification and early exit are all built from it.
//!
//! Every row is computed on its own – products, norms and attention never mix two rows' sums –
//! so the bits of a row do not depend on what else is in the batch.

mod attention;
mod cpu;
mod cuda;
mod decoder;
mod head;
mod layer;
mod mlp;
mod norm;
mod numerics;
mod pass;
mod readout;
mod rotary;
mod weights;

pub use decoder::{Decoder, DecoderOptions, Span};
pub use head::Head;
pub use numerics::{compute_type, numerics_id};
pub use pass::{Device, Reads, StepSeconds};
pub use readout::{Reading, Readout};

/// Names the arithmetic of this crate on CPUs. It changes whenever the same weights would give
/// other bits than before.
pub const ARITHMETIC_VERSION: u32 = 1;
