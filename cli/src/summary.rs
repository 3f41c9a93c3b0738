//! What a generation reports, for people and for programs.

use crate::client::Generated;
use serde::Serialize;

/// The keys that `demo` and `generate` share; rates in tokens per second.
#[derive(Serialize)]
pub(crate) struct Summary {
    pub(crate) text: String,
    token_ids: Vec<u32>,
    pub(crate) policy: String,
    pub(crate) tokens_per_second: f64,
    num_drafts: u64,
    num_draft_tokens: u64,
    num_accepted_tokens: u64,
    pub(crate) draft_acceptance_rate: f64,
    pub(crate) mean_acceptance_length: f64,
    pub(crate) finish_reason: &'static str,
    pub(crate) seed: u64,
    pub(crate) resumed: u32,
}

impl From<Generated> for Summary {
    fn from(generated: Generated) -> Self {
        let finish_reason = finish_reason(&generated);
        let seed = generated
            .prompt_info
            .sampling
            .map_or(0, |sampling| sampling.seed);
        let speculation = generated.finish.speculative_decoding.unwrap_or_default();
        Self {
            text: generated.text,
            token_ids: generated.token_ids,
            policy: speculation.policy,
            tokens_per_second: generated.tokens_per_second,
            num_drafts: speculation.num_drafts,
            num_draft_tokens: speculation.num_draft_tokens,
            num_accepted_tokens: speculation.num_accepted_tokens,
            draft_acceptance_rate: speculation.draft_acceptance_rate,
            mean_acceptance_length: speculation.mean_acceptance_length,
            finish_reason,
            seed,
            resumed: generated.resumed,
        }
    }
}

/// `STOP`, `LENGTH` or `ABORTED`.
pub(crate) fn finish_reason(generated: &Generated) -> &'static str {
    let name = generated.finish.finish_reason().as_str_name();
    name.strip_prefix("FINISH_REASON_").unwrap_or(name)
}
