//! Log-probabilities as clients see them.

use crate::Result;
use dssd_common::sampling;
use dssd_proto::v1;

/// Log-probabilities as a client sees them.
pub(super) fn token_logprobs(logits: &[f32], token: u32, top: usize) -> Result<v1::TokenLogprobs> {
    let found = sampling::logprobs(logits, token, top)?;
    let chosen = logits[token as usize];
    let better =
        |(id, &logit): (usize, &f32)| logit > chosen || (logit == chosen && (id as u32) < token);
    let rank = 1 + logits
        .iter()
        .enumerate()
        .filter(|&entry| better(entry))
        .count();
    let top = found.top.iter().map(|entry| v1::TopLogprob {
        token_id: entry.id,
        logprob: entry.logprob as f32,
    });
    Ok(v1::TokenLogprobs {
        token_id: token,
        logprob: found.chosen.logprob as f32,
        rank: rank as u32,
        top: top.collect(),
    })
}
