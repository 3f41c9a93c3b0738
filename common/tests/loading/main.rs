//! Loading of checkpoints, tokenizers and exit heads, from good folders and from damaged ones.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failing step fails the test"
)]

mod config;
mod damage;
mod fingerprint;
mod heads;
mod models;
mod published;
mod support;
mod text;
