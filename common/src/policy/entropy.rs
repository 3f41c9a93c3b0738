//! Dynamic Self-Speculative Decoding (arXiv 2407.21082): the first confident exit drafts.

use super::{Decision, ExitView, Policy};

/// Drafts at the shallowest exit whose entropy is at most `nats`; ends where none is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entropy {
    pub(super) nats: f32,
    pub(super) max_draft_tokens: usize,
}

impl Policy for Entropy {
    fn max_draft_tokens(&self) -> usize {
        self.max_draft_tokens
    }

    fn reads(&self, _head: usize) -> bool {
        true
    }

    fn decide(&mut self, exit: ExitView<'_>) -> Decision {
        match (
            exit.summary.valid && exit.summary.entropy <= self.nats,
            exit.deepest,
        ) {
            (true, _) => Decision::Emit,
            (false, false) => Decision::Deeper,
            (false, true) => Decision::Stop,
        }
    }
}
