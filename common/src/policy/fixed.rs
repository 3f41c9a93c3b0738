//! One exit, a fixed number of tokens (LayerSkip, arXiv 2404.16710, section 4.3).

use super::{Decision, ExitView, Policy, StopCause};

/// Drafts `tokens` tokens, each at the same exit head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixed {
    pub(super) head: usize,
    pub(super) tokens: usize,
}

impl Policy for Fixed {
    fn max_draft_tokens(&self) -> usize {
        self.tokens
    }

    fn reads(&self, head: usize) -> bool {
        head == self.head
    }

    fn decide(&mut self, exit: ExitView<'_>) -> Decision {
        // A row with NaN or infinity has no arg-max worth proposing.
        if exit.summary.valid {
            Decision::Emit
        } else {
            Decision::Stop(StopCause::Confidence)
        }
    }
}
