//! Mutated input for everything that reads what others wrote: no panic, no hang, no allocation
//! that the input's size does not explain, no INTERNAL.
//!
//! The inputs of a target follow from `DSSD_FUZZ_SEED` and their number alone. A failure names
//! both; with `DSSD_FUZZ_INPUT` a run consists of that one input. `DSSD_FUZZ_SECONDS` is the time
//! for all targets together.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test is a failed test, helpers included"
)]

mod allocation;
mod bytes;
mod checkpoint;
mod drafter;
mod folder;
mod harness;
mod heads;
mod json;
mod names;
mod proto;
mod script;
mod service;
mod text;
mod tokenizer;
mod verifier;
