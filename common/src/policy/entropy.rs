//! Dynamic Self-Speculative Decoding (arXiv 2407.21082): the first confident exit drafts.

use super::{Decision, ExitView, Policy, StopCause};
use crate::exit::ExitRule;

/// Drafts at the shallowest exit whose entropy is at most its threshold; ends where none is.
#[derive(Clone, Debug)]
pub(super) struct Entropy {
    pub(super) rule: ExitRule,
    pub(super) max_draft_tokens: usize,
}

impl Policy for Entropy {
    fn max_draft_tokens(&self) -> usize {
        self.max_draft_tokens
    }

    /// The deepest exit is always read: there the draft ends if it is not confident.
    fn reads(&self, head: usize) -> bool {
        let deepest = head + 1 == self.rule.thresholds().len();
        deepest || self.rule.reads(head)
    }

    fn decide(&mut self, exit: ExitView<'_>) -> Decision {
        match (self.rule.leaves(exit.head, exit.summary), exit.deepest) {
            (true, _) => Decision::Emit,
            (false, false) => Decision::Deeper,
            (false, true) => Decision::Stop(StopCause::Confidence),
        }
    }

    /// With every head off there is nothing to look at.
    fn begin(&mut self, _experience: &super::Experience) -> Option<StopCause> {
        let off = self.rule.thresholds().iter().all(Option::is_none);
        off.then_some(StopCause::Confidence)
    }
}
