//! What a generation asks of a pass, and what the pass gives it.

use super::{
    output::Stop,
    pass::{Exit, ReadRow},
};
use dssd_proto::v1::{self, PlainReason};
use std::{
    ops::Range,
    time::{Duration, Instant},
};

/// Rows of one generation in one pass.
pub(super) struct Work {
    /// Tokens of the rows that are new to the cache, at positions from its end on.
    pub(super) tokens: Vec<u32>,
    /// The bands that the rows go through.
    pub(super) bands: Range<usize>,
    /// The position after the last row.
    pub(super) end: usize,
    /// Rows in the first of these bands.
    pub(super) rows: usize,
    pub(super) kind: WorkKind,
}

pub(super) enum WorkKind {
    /// A part of the prompt that is not its end; no logits are needed.
    Prefill,
    /// A part of what left the model early, for its keys and values, which are needed now.
    LateFill,
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
            WorkKind::Prefill | WorkKind::LateFill => 0,
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
    /// The rows that were read.
    pub(super) rows: Vec<ReadRow<'a>>,
    /// Whether the rows wait before a band for want of room.
    pub(super) stopped: bool,
    pub(super) begun: Instant,
    pub(super) seconds: Duration,
}

/// What a pass did to a generation.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) committed: Vec<u32>,
    pub(super) accepted: Option<usize>,
    /// Where the token left the model, if before its end.
    pub(super) exit: Option<Exit>,
    pub(super) end: Option<End>,
}

/// Why a generation ends.
pub(super) enum End {
    Stop(Stop),
    Length,
    Aborted,
}
