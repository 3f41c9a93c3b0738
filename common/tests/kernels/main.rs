//! The kernels' promises: the same bits on every instruction set, for any number of threads and
//! any neighbours of a row; and results close to slow f64 references.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod bits;
mod candle;
mod case;
mod reference;
