//! Log-probabilities of given tokens, a chunk of rows at a time beside the generations.

use super::{logprobs::token_logprobs, request::ScoreRequest};
use crate::Result;
use dssd_common::kv::{KvCache, SequenceId};
use dssd_proto::v1;

/// Rows of one chunk: their logits are all kept for a moment.
const CHUNK_ROWS: usize = 32;

/// A request to score that is under way.
pub(super) struct Scoring {
    pub(super) request: ScoreRequest,
    pub(super) sequence: SequenceId,
    scored: Vec<v1::TokenLogprobs>,
}

impl Scoring {
    pub(super) fn new(request: ScoreRequest, sequence: SequenceId) -> Self {
        Self {
            request,
            sequence,
            scored: Vec::new(),
        }
    }

    /// Tokens of the next rows, at most `budget`. The last token needs no row.
    pub(super) fn rows(&self, kv: &KvCache, budget: usize) -> &[u32] {
        let computed = kv.len(self.sequence, 0);
        let rest = &self.request.tokens[computed..self.request.tokens.len() - 1];
        &rest[..rest.len().min(CHUNK_ROWS).min(budget)]
    }

    /// Takes the logits of rows `start..`, `[rows, vocabulary]`; true when all tokens are scored.
    pub(super) fn take(&mut self, start: usize, logits: &[f32], vocabulary: usize) -> Result<bool> {
        for (row, logits) in logits.chunks_exact(vocabulary).enumerate() {
            let index = start + row + 1;
            if index >= self.request.first_index {
                let token = self.request.tokens[index];
                self.scored
                    .push(token_logprobs(logits, token, self.request.top)?);
            }
        }
        Ok(self.request.first_index + self.scored.len() == self.request.tokens.len())
    }

    /// Answers the request.
    pub(super) fn finish(self, outcome: Result<()>) {
        // Nobody listens any more if the call was cancelled.
        _ = self.request.reply.send(outcome.map(|()| self.scored));
    }
}
