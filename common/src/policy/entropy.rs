//! Dynamic Self-Speculative Decoding (arXiv 2407.21082): the first confident exit drafts.

use super::{Decision, ExitView, Policy, StopCause};

/// Drafts at the shallowest exit whose entropy is at most its threshold; ends where none is.
#[derive(Clone, Debug)]
pub(super) struct Entropy {
    /// A threshold in nats for each head; none: the head is off.
    pub(super) thresholds: Vec<Option<f32>>,
    pub(super) max_draft_tokens: usize,
}

impl Policy for Entropy {
    fn max_draft_tokens(&self) -> usize {
        self.max_draft_tokens
    }

    /// The deepest exit is always read: there the draft ends if it is not confident.
    fn reads(&self, head: usize) -> bool {
        let deepest = head + 1 == self.thresholds.len();
        deepest || self.thresholds.get(head).is_some_and(Option::is_some)
    }

    fn decide(&mut self, exit: ExitView<'_>) -> Decision {
        let threshold = self.thresholds.get(exit.head).copied().flatten();
        let confident = threshold.is_some_and(|nats| exit.summary.entropy <= nats);
        match (exit.summary.valid && confident, exit.deepest) {
            (true, _) => Decision::Emit,
            (false, false) => Decision::Deeper,
            (false, true) => Decision::Stop(StopCause::Confidence),
        }
    }

    /// With every head off there is nothing to look at.
    fn begin(&mut self, _experience: &super::Experience) -> Option<StopCause> {
        let off = self.thresholds.iter().all(Option::is_none);
        off.then_some(StopCause::Confidence)
    }
}
