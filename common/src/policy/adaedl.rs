//! AdaEDL (arXiv 2410.18351): one exit, for as long as a lower bound of the acceptance, out of
//! its entropy, is high enough; the bar follows the acceptance that comes of it.

use super::{Decision, ExitView, Experience, Outcome, Policy, confidence::Failing};

/// γ of the bound 1 − √(γ·H).
const GAMMA: f32 = 0.2;
/// The acceptance that the bar steers to.
const TARGET: f32 = 0.9;
const START: f32 = 0.4;
const STEP: f32 = 0.01;
/// Weight of what was, in the running acceptance.
const MEMORY: f32 = 0.5;

/// Drafts while 1 − √(γ·H) is at least the bar.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdaEdl {
    head: usize,
    failing: Failing,
    max_draft_tokens: usize,
    bar: f32,
    acceptance: f32,
}

impl AdaEdl {
    pub(super) fn new(head: usize, failing: Failing, max_draft_tokens: usize) -> Self {
        Self {
            head,
            failing,
            max_draft_tokens,
            bar: START,
            acceptance: TARGET,
        }
    }
}

impl Policy for AdaEdl {
    fn max_draft_tokens(&self) -> usize {
        self.max_draft_tokens
    }

    fn reads(&self, head: usize) -> bool {
        head == self.head
    }

    fn decide(&mut self, exit: ExitView<'_>) -> Decision {
        let bound = 1.0 - (GAMMA * exit.summary.entropy).sqrt();
        if exit.summary.valid && bound >= self.bar {
            Decision::Emit
        } else {
            self.failing.end(exit.summary.valid)
        }
    }

    fn learn(&mut self, outcome: Outcome<'_>, _experience: &mut Experience) {
        if outcome.drafted.is_empty() {
            return;
        }
        let acceptance = outcome.accepted as f32 / outcome.drafted.len() as f32;
        self.acceptance = MEMORY * self.acceptance + (1.0 - MEMORY) * acceptance;
        let step = if self.acceptance < TARGET {
            STEP
        } else {
            -STEP
        };
        self.bar = (self.bar + step).clamp(0.0, 1.0);
    }
}
