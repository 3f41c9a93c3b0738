//! Draft policies: when to emit a token, go deeper, or stop.
//!
//! A policy sees what an exit says of one position and answers with a [`Decision`]. It owns no
//! model and no clock, so the same value runs in the drafter and in an offline simulation.

mod entropy;
mod fixed;
mod spec;

pub use spec::{DEFAULT_FIXED_TOKENS, PolicySettings, PolicySpec};

use crate::entropy::Summary;

/// The draft policy of servers that are told none.
pub const DEFAULT_POLICY: &str = "fixed:0:2";

/// What a policy sees when an exit was evaluated for the next position.
#[derive(Clone, Copy, Debug)]
pub struct ExitView<'a> {
    /// The exit head, counted from the shallowest (0).
    pub head: usize,
    /// Whether no exit lies deeper.
    pub deepest: bool,
    /// What the exit's raw logits say.
    pub summary: &'a Summary,
}

/// What to do with the next position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Draft this exit's token and go on to the next position.
    Emit,
    /// Ask the next deeper exit.
    Deeper,
    /// End the draft before this position.
    Stop,
}

/// A rule for one draft. Implementations are small values without I/O.
pub trait Policy: Send + std::fmt::Debug {
    /// Tokens after which a draft ends in any case.
    fn max_draft_tokens(&self) -> usize;

    /// Whether this exit head need be evaluated at all.
    fn reads(&self, head: usize) -> bool;

    /// What to do, given an exit that [`Policy::reads`].
    fn decide(&mut self, exit: ExitView<'_>) -> Decision;
}

#[cfg(test)]
mod tests;
