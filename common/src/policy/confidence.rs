//! One exit, for as long as its most probable token is probable enough (Kangaroo, arXiv
//! 2404.18911; assisted generation of Hugging Face transformers with a confidence threshold).

use super::{Decision, ExitView, Policy, StopCause};

/// What becomes of the token that was not probable enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failing {
    /// It is not drafted.
    Dropped,
    /// It is drafted, as the last one.
    Kept,
}

impl Failing {
    /// The end of a draft at a failing token.
    pub(super) fn end(self, valid: bool) -> Decision {
        match self {
            Self::Kept if valid => Decision::EmitLast,
            _ => Decision::Stop(StopCause::Confidence),
        }
    }
}

/// Drafts while the maximum probability is at least `least`.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaxProbability {
    pub(super) head: usize,
    pub(super) least: f32,
    pub(super) failing: Failing,
    pub(super) max_draft_tokens: usize,
}

impl Policy for MaxProbability {
    fn max_draft_tokens(&self) -> usize {
        self.max_draft_tokens
    }

    fn reads(&self, head: usize) -> bool {
        head == self.head
    }

    fn decide(&mut self, exit: ExitView<'_>) -> Decision {
        if exit.summary.valid && exit.summary.max_probability >= self.least {
            Decision::Emit
        } else {
            self.failing.end(exit.summary.valid)
        }
    }
}
