//! What a generation reports, for people and for programs.

use crate::client::Generated;
use dssd_proto::v1::{self, PlainRoundCount, TokenLogprobs};
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
    /// Whether the text may differ from that of the whole model.
    lossy: bool,
    /// Absent unless tokens could leave the model early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) early_exit: Option<EarlyExit>,
    /// Absent unless they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<Logprobs>,
    /// Rounds without a draft, by reason.
    plain_rounds: Vec<PlainRounds>,
}

/// Where tokens left the model.
#[derive(Serialize)]
pub(crate) struct EarlyExit {
    /// Tokens that left at each exit head, from the shallowest.
    exit_heads: Vec<u64>,
    whole_model_tokens: u64,
    /// Mean number of layers before the exit.
    pub(crate) exit_depth: f64,
    /// Layers computed for each token, those filled late included.
    pub(crate) layers_per_token: f64,
    /// Share of skipped layers that were never computed.
    never_filled: f64,
}

/// Log-probability of a token, in nats, with the most likely ones beside it.
#[derive(Serialize)]
struct Logprobs {
    token_id: u32,
    logprob: f32,
    /// 1 is the most likely.
    rank: u32,
    top: Vec<Likely>,
}

#[derive(Serialize)]
struct Likely {
    token_id: u32,
    logprob: f32,
}

#[derive(Serialize)]
struct PlainRounds {
    reason: &'static str,
    count: u64,
}

impl Summary {
    /// Why no draft was verified, if drafts were wanted: the reasons of the plain rounds.
    pub(crate) fn lack_of_drafts(&self) -> Option<String> {
        if self.num_drafts > 0 || self.policy == "off" {
            return None;
        }
        let rounds = self.plain_rounds.iter();
        let reasons: Vec<String> = rounds
            .map(|rounds| format!("{} in {} rounds", rounds.reason, rounds.count))
            .collect();
        Some(reasons.join(", "))
    }
}

impl From<TokenLogprobs> for Logprobs {
    fn from(entry: TokenLogprobs) -> Self {
        let top = entry.top.into_iter();
        Self {
            token_id: entry.token_id,
            logprob: entry.logprob,
            rank: entry.rank,
            top: top
                .map(|top| Likely {
                    token_id: top.token_id,
                    logprob: top.logprob,
                })
                .collect(),
        }
    }
}

impl From<v1::EarlyExit> for EarlyExit {
    fn from(report: v1::EarlyExit) -> Self {
        Self {
            exit_heads: report.exit_heads.iter().map(|head| head.count).collect(),
            whole_model_tokens: report.whole_model_tokens,
            exit_depth: report.exit_depth,
            layers_per_token: report.layers_per_token,
            never_filled: report.never_filled,
        }
    }
}

impl From<&PlainRoundCount> for PlainRounds {
    fn from(rounds: &PlainRoundCount) -> Self {
        let name = rounds.reason().as_str_name();
        Self {
            reason: name.strip_prefix("PLAIN_REASON_").unwrap_or(name),
            count: rounds.count,
        }
    }
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
            policy: speculation.policy.clone(),
            tokens_per_second: generated.tokens_per_second,
            num_drafts: speculation.num_drafts,
            num_draft_tokens: speculation.num_draft_tokens,
            num_accepted_tokens: speculation.num_accepted_tokens,
            draft_acceptance_rate: speculation.draft_acceptance_rate,
            mean_acceptance_length: speculation.mean_acceptance_length,
            finish_reason,
            seed,
            resumed: generated.resumed,
            lossy: generated.finish.lossy,
            early_exit: generated.finish.early_exit.map(Into::into),
            logprobs: generated.logprobs.into_iter().map(Into::into).collect(),
            plain_rounds: speculation.plain_rounds.iter().map(Into::into).collect(),
        }
    }
}

/// `STOP`, `LENGTH` or `ABORTED`.
pub(crate) fn finish_reason(generated: &Generated) -> &'static str {
    let name = generated.finish.finish_reason().as_str_name();
    name.strip_prefix("FINISH_REASON_").unwrap_or(name)
}
