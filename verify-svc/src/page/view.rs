//! The messages of GenerateStream in JSON: the fields and names of the protocol, enumerations by
//! their names, and 64-bit seeds in quotes.

use super::{failure::names, pieces::Piece};
use dssd_common::tokenizer::Tokenizer;
use dssd_proto::v1;
use serde::Serialize;
use std::collections::BTreeMap;
use tonic::Status;
use tonic_types::StatusExt as _;

/// One line of an answer.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    PromptInfo(PromptInfoView),
    Round(RoundView),
    Tokens(TokensView),
    FinishInfo(Box<FinishView>),
    Error(ErrorView),
}

#[derive(Serialize)]
pub(super) struct PromptInfoView {
    request_id: String,
    prompt_token_count: u32,
    sampling: SamplingView,
    speculation: SpeculationView,
    numerics_id: String,
    max_context: u32,
}

#[derive(Serialize)]
struct SamplingView {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    seed: String,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    logit_bias: BTreeMap<u32, f32>,
    min_new_tokens: u32,
    max_new_tokens: u32,
    stop_token_ids: Vec<u32>,
}

#[derive(Serialize)]
struct SpeculationView {
    mode: &'static str,
    policy: String,
    max_draft_tokens: Option<u32>,
}

/// One round; `text` of a drafted token is what it would say alone.
#[derive(Serialize)]
pub(super) struct RoundView {
    round: u32,
    drafted: Vec<DraftedView>,
    correction: u32,
    kv_position: u32,
    stop_reason: &'static str,
    plain_reason: &'static str,
}

#[derive(Clone, Serialize)]
pub(super) struct DraftedView {
    pub(super) token_id: u32,
    pub(super) text: String,
    pub(super) exit_head: u32,
    pub(super) entropy: f32,
    pub(super) accepted: bool,
}

/// Tokens; `pieces` has one entry for each, and their texts, joined, are `text`.
#[derive(Serialize)]
pub(super) struct TokensView {
    pub(super) first_index: u32,
    pub(super) token_ids: Vec<u32>,
    pub(super) text: String,
    pub(super) pieces: Vec<Piece>,
}

#[derive(Serialize)]
pub(super) struct FinishView {
    finish_reason: &'static str,
    prompt_token_count: u32,
    generated_token_count: u32,
    resumed_token_count: u32,
    stop_string: Option<String>,
    stop_token_id: Option<u32>,
    lossy: bool,
    speculative_decoding: Option<SpeculativeDecodingView>,
}

#[derive(Serialize)]
struct SpeculativeDecodingView {
    num_drafts: u64,
    num_draft_tokens: u64,
    num_accepted_tokens: u64,
    mean_acceptance_length: f64,
    draft_acceptance_rate: f64,
    tokens_per_pass: f64,
    policy: String,
    stop_reasons: BTreeMap<&'static str, u64>,
    exit_heads: BTreeMap<u32, u64>,
    plain_rounds: BTreeMap<&'static str, u64>,
    stale_proposals: u64,
    drafter_losses: u64,
    draft_wait_seconds: f64,
    verify_seconds: f64,
    wire_seconds: f64,
}

/// A gRPC status with its details.
#[derive(Serialize)]
pub(super) struct ErrorView {
    code: &'static str,
    message: String,
    pub(super) details: DetailsView,
}

#[derive(Default, Serialize)]
pub(super) struct DetailsView {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    field_violations: Vec<FieldView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    precondition_violations: Vec<FieldView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_after_seconds: Option<f64>,
}

/// A field, or the subject of a precondition, and what is wrong with it.
#[derive(Serialize)]
struct FieldView {
    field: String,
    description: String,
}

impl From<v1::PromptInfo> for PromptInfoView {
    fn from(info: v1::PromptInfo) -> Self {
        let speculation = info.speculation.unwrap_or_default();
        Self {
            request_id: info.request_id,
            prompt_token_count: info.prompt_token_count,
            sampling: info.sampling.unwrap_or_default().into(),
            speculation: SpeculationView {
                mode: speculation.mode().as_str_name(),
                policy: speculation.policy,
                max_draft_tokens: speculation.max_draft_tokens,
            },
            numerics_id: info.numerics_id,
            max_context: info.max_context,
        }
    }
}

impl From<v1::SamplingSettings> for SamplingView {
    fn from(settings: v1::SamplingSettings) -> Self {
        Self {
            temperature: settings.temperature,
            top_k: settings.top_k,
            top_p: settings.top_p,
            min_p: settings.min_p,
            seed: settings.seed.to_string(),
            repetition_penalty: settings.repetition_penalty,
            presence_penalty: settings.presence_penalty,
            frequency_penalty: settings.frequency_penalty,
            logit_bias: settings.logit_bias.into_iter().collect(),
            min_new_tokens: settings.min_new_tokens,
            max_new_tokens: settings.max_new_tokens,
            stop_token_ids: settings.stop_token_ids,
        }
    }
}

impl RoundView {
    pub(super) fn new(round: v1::RoundTrace, tokenizer: Option<&Tokenizer>) -> Self {
        let text = |id: u32| tokenizer.and_then(|tokenizer| tokenizer.decode(&[id]).ok());
        let drafted = |token: &v1::TracedToken| DraftedView {
            token_id: token.token_id,
            text: text(token.token_id).unwrap_or_default(),
            exit_head: token.exit_head,
            entropy: token.entropy,
            accepted: token.accepted,
        };
        Self {
            round: round.round,
            drafted: round.drafted.iter().map(drafted).collect(),
            correction: round.correction,
            kv_position: round.kv_position,
            stop_reason: round.stop_reason().as_str_name(),
            plain_reason: round.plain_reason().as_str_name(),
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.round
    }

    pub(super) fn drafted(&self) -> &[DraftedView] {
        &self.drafted
    }

    pub(super) fn plain_reason(&self) -> &'static str {
        self.plain_reason
    }
}

impl From<v1::FinishInfo> for FinishView {
    fn from(info: v1::FinishInfo) -> Self {
        Self {
            finish_reason: info.finish_reason().as_str_name(),
            prompt_token_count: info.prompt_token_count,
            generated_token_count: info.generated_token_count,
            resumed_token_count: info.resumed_token_count,
            stop_string: info.stop_string,
            stop_token_id: info.stop_token_id,
            lossy: info.lossy,
            speculative_decoding: info.speculative_decoding.map(Into::into),
        }
    }
}

impl From<v1::SpeculativeDecoding> for SpeculativeDecodingView {
    fn from(told: v1::SpeculativeDecoding) -> Self {
        let stops = told.stop_reasons.iter();
        let plain = told.plain_rounds.iter();
        Self {
            num_drafts: told.num_drafts,
            num_draft_tokens: told.num_draft_tokens,
            num_accepted_tokens: told.num_accepted_tokens,
            mean_acceptance_length: told.mean_acceptance_length,
            draft_acceptance_rate: told.draft_acceptance_rate,
            tokens_per_pass: told.tokens_per_pass,
            stop_reasons: stops
                .map(|count| (count.reason().as_str_name(), count.count))
                .collect(),
            exit_heads: told
                .exit_heads
                .iter()
                .map(|count| (count.exit_head, count.count))
                .collect(),
            plain_rounds: plain
                .map(|count| (count.reason().as_str_name(), count.count))
                .collect(),
            policy: told.policy,
            stale_proposals: told.stale_proposals,
            drafter_losses: told.drafter_losses,
            draft_wait_seconds: told.draft_wait_seconds,
            verify_seconds: told.verify_seconds,
            wire_seconds: told.wire_seconds,
        }
    }
}

impl From<&Status> for ErrorView {
    fn from(status: &Status) -> Self {
        let told = status.get_error_details();
        let mut details = DetailsView::default();
        if let Some(request) = told.bad_request() {
            let violations = request.field_violations.iter();
            details.field_violations = violations
                .map(|violation| FieldView {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                })
                .collect();
        }
        if let Some(failure) = told.precondition_failure() {
            let violations = failure.violations.iter();
            details.precondition_violations = violations
                .map(|violation| FieldView {
                    field: violation.subject.clone(),
                    description: violation.description.clone(),
                })
                .collect();
        }
        let delay = told.retry_info().and_then(|retry| retry.retry_delay);
        details.retry_after_seconds = delay.map(|delay| delay.as_secs_f64());
        Self {
            code: names(status.code()).0,
            message: status.message().to_owned(),
            details,
        }
    }
}
