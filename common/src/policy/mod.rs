//! Draft policies: when to emit a token, go deeper, or stop.
//!
//! A policy sees what an exit says of one position and answers with a [`Decision`]. It owns no
//! model and no clock, so the same value runs in the drafter and in an offline simulation.
//! What drafts of all sequences teach – how often heads are right, and what everything costs –
//! is gathered in an [`Experience`], which policies may look at.

mod adaedl;
mod ahead;
mod auto;
mod confidence;
mod del;
mod drift;
mod entropy;
mod experience;
mod fixed;
mod forecast;
mod product;
mod rates;
mod spec;

pub use ahead::AheadRecord;
pub use drift::HeadAgreement;
pub use experience::{Costs, Experience};
pub use forecast::Forecast;
pub use rates::{Choice, Rates};
pub use spec::{DEFAULT_FIXED_TOKENS, PolicySettings, PolicySpec};

use crate::{entropy::Summary, exit::Calibration};

/// The draft policy of servers that are told none.
pub const DEFAULT_POLICY: &str = "auto";

/// What a policy is made for.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Layers of the exits, rising.
    pub exits: &'a [usize],
    /// Longest draft, in tokens.
    pub max_draft_tokens: usize,
    /// What the heads' entropies promise, where that is known.
    pub calibration: Option<&'a Calibration>,
    /// Sampling temperature of the sequence.
    pub temperature: f64,
}

/// What a policy sees when an exit was evaluated for the next position.
#[derive(Clone, Copy, Debug)]
pub struct ExitView<'a> {
    /// The exit head, counted from the shallowest (0).
    pub head: usize,
    /// Whether no exit lies deeper.
    pub deepest: bool,
    /// What the exit's raw logits say.
    pub summary: &'a Summary,
    /// Tokens of this draft so far.
    pub drafted: usize,
    /// What drafts taught so far.
    pub experience: &'a Experience,
}

/// What to do with the next position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Draft this exit's token and go on to the next position.
    Emit,
    /// Draft this exit's token and end the draft.
    EmitLast,
    /// Ask the next deeper exit.
    Deeper,
    /// End the draft before this position.
    Stop(StopCause),
}

/// Why a draft ends before the next position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// No exit is confident enough.
    Confidence,
    /// Another token would cost more than it brings.
    Cost,
}

/// A token of a draft, as the drafter knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drafted {
    /// The head that it came from.
    pub head: usize,
    /// That head's entropy, in nats.
    pub entropy: f32,
}

/// What the verifier made of a draft.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The draft's tokens.
    pub drafted: &'a [Drafted],
    /// How many of them were right, from the first on.
    pub accepted: usize,
    /// Tokens that were committed, the model's own included. Where there was no draft: those of all
    /// rounds until another one was asked for.
    pub committed: usize,
    /// The time of those rounds: from the Commit that asked for the draft to the one that told of its end, or
    /// asked for the next one.
    pub seconds: f64,
}

/// A rule for the drafts of one sequence. Implementations are small values without I/O.
pub trait Policy: Duplicate + Send + std::fmt::Debug {
    /// Tokens after which a draft ends in any case.
    fn max_draft_tokens(&self) -> usize;

    /// Whether this exit head need be evaluated at all.
    fn reads(&self, head: usize) -> bool;

    /// Before a draft: why there should be none, if so.
    fn begin(&mut self, _experience: &Experience) -> Option<StopCause> {
        None
    }

    /// What to do, given an exit that [`Policy::reads`].
    fn decide(&mut self, exit: ExitView<'_>) -> Decision;

    /// After the round of a draft, also of an empty one.
    fn learn(&mut self, _outcome: Outcome<'_>, _experience: &mut Experience) {}
}

/// Copies of a [`Policy`] of unknown type.
pub trait Duplicate {
    /// Another one in the same state.
    fn duplicate(&self) -> Box<dyn Policy>;
}

impl<P: Policy + Clone + 'static> Duplicate for P {
    fn duplicate(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests;
