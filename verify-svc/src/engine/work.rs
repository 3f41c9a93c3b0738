//! What a generation asks of a pass, and what the pass gives it.

use super::output::Stop;
use dssd_proto::v1::{self, PlainReason};
use std::time::Duration;

/// Rows of one generation in one pass.
pub(super) struct Work {
    /// Tokens of the rows, at positions from the end of the cache on.
    pub(super) tokens: Vec<u32>,
    pub(super) kind: WorkKind,
}

pub(super) enum WorkKind {
    /// A part of the prompt that is not its end; no logits are needed.
    Prefill,
    /// The newest token alone, or with the end of the prompt before it. `None`: a prefill gave
    /// the token, so it is no round.
    Plain(Option<PlainReason>),
    /// The newest token and a draft.
    Verify(v1::Proposal),
}

impl Work {
    /// Rows whose logits are needed; always the last ones.
    pub(super) fn logits_rows(&self) -> usize {
        match &self.kind {
            WorkKind::Prefill => 0,
            WorkKind::Plain(_) => 1,
            WorkKind::Verify(proposal) => proposal.tokens.len() + 1,
        }
    }
}

/// What a generation can do now.
pub(super) enum Turn {
    Run(Work),
    /// Sit out until this moment.
    Wait(Duration),
}

/// What the scheduler knows at the end of a pass.
pub(super) struct PassResult<'a> {
    /// `[rows, vocabulary]`, of the rows that needed them.
    pub(super) logits: &'a [f32],
    pub(super) vocabulary: usize,
    pub(super) seconds: Duration,
}

/// What a pass did to a generation.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) committed: Vec<u32>,
    pub(super) accepted: Option<usize>,
    pub(super) end: Option<End>,
}

/// Why a generation ends.
pub(super) enum End {
    Stop(Stop),
    Length,
    Aborted,
}
