//! Log-probabilities of given tokens, a chunk of rows at a time beside the generations.

use super::{
    Place,
    early_exit::EarlyExit,
    logprobs::token_logprobs,
    pass::{Passenger, ReadRow},
    request::{Score, ScoreRequest},
};
use crate::Result;
use dssd_common::kv::{KvCache, SequenceId};
use dssd_proto::v1;

/// Rows of one chunk: their logits are all kept for a moment.
const CHUNK_ROWS: usize = 32;

/// A request to score that is under way.
pub(super) struct Scoring {
    pub(super) request: ScoreRequest,
    pub(super) sequence: SequenceId,
    /// Given back after the sequence is closed.
    #[expect(dead_code, reason = "it is held for its end")]
    place: Place,
    scored: Vec<v1::TokenLogprobs>,
    early_exit: Option<EarlyExit>,
}

impl Scoring {
    pub(super) fn new(
        mut request: ScoreRequest,
        (sequence, place): (SequenceId, Place),
        depths: &[usize],
    ) -> Self {
        let rule = request.early_exit.take();
        Self {
            request,
            sequence,
            place,
            scored: Vec::new(),
            early_exit: rule.map(|rule| EarlyExit::new(rule, depths)),
        }
    }

    /// Tokens of the next rows, at most `budget`. The last token needs no row.
    pub(super) fn rows(&self, kv: &KvCache, budget: usize) -> &[u32] {
        let computed = kv.len(self.sequence, 0);
        let rest = &self.request.tokens[computed..self.request.tokens.len() - 1];
        &rest[..rest.len().min(CHUNK_ROWS).min(budget)]
    }

    /// What `tokens` are in a step. They go through the whole model wherever they are read: the
    /// text is given, so its keys and values are needed anyway.
    pub(super) fn passenger<'a>(&'a self, kv: &KvCache, tokens: &'a [u32]) -> Passenger<'a> {
        let end = kv.len(self.sequence, 0) + tokens.len();
        // The context is not read.
        let reads = (end + 1)
            .saturating_sub(self.request.first_index)
            .min(tokens.len());
        Passenger {
            sequence: self.sequence,
            tokens,
            bands: 0..kv.layout().band_ends.len(),
            end,
            reads,
            choices: vec![None; reads],
            rule: self.early_exit.as_ref().map(EarlyExit::rule),
            leaves: false,
        }
    }

    /// Takes what rows `start..` said; true when all tokens are scored.
    pub(super) fn take(&mut self, start: usize, rows: &[ReadRow<'_>]) -> Result<bool> {
        for (index, row) in (start + 1..).zip(rows) {
            let token = self.request.tokens[index];
            self.scored
                .push(token_logprobs(row.logits()?, token, self.request.top)?);
            if let Some(early) = &mut self.early_exit {
                early.left(row.exit);
            }
        }
        Ok(self.request.first_index + self.scored.len() == self.request.tokens.len())
    }

    /// Counts which layers were computed, while the cache still knows.
    pub(super) fn settle(&mut self, kv: &KvCache) {
        let first = self.request.first_index - 1;
        if let Some(early_exit) = &mut self.early_exit {
            early_exit.settle(kv, self.sequence, first);
        }
    }

    /// Answers the request.
    pub(super) fn finish(self, outcome: Result<()>) {
        // Nobody listens any more if the call was cancelled.
        _ = self.request.reply.send(outcome.map(|()| Score {
            logprobs: self.scored,
            early_exit: self.early_exit.as_ref().map(EarlyExit::report),
        }));
    }
}
