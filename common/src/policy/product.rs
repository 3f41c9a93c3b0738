//! One exit, for as long as the whole draft is likely enough to be right (in the way of
//! SpecDec++, arXiv 2405.19715, with calibrated probabilities in the place of a trained head).

use super::{Decision, ExitView, Policy, StopCause};

/// Drafts while the product of the tokens' probabilities of acceptance is at least `least`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) head: usize,
    pub(super) least: f64,
    pub(super) max_draft_tokens: usize,
    pub(super) temperature: f64,
    /// Of the tokens drafted so far.
    pub(super) product: f64,
}

impl Policy for Product {
    fn max_draft_tokens(&self) -> usize {
        self.max_draft_tokens
    }

    fn reads(&self, head: usize) -> bool {
        head == self.head
    }

    fn decide(&mut self, exit: ExitView<'_>) -> Decision {
        if exit.drafted == 0 {
            self.product = 1.0;
        }
        self.product *=
            exit.experience
                .acceptance(exit.head, exit.summary.entropy, self.temperature);
        if exit.summary.valid && self.product >= self.least {
            Decision::Emit
        } else {
            Decision::Stop(StopCause::Confidence)
        }
    }
}
