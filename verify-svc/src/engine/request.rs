//! What the engine is asked for and what it answers.

use super::events::{Event, EventSender};
use crate::metrics::Call;
use dssd_common::{exit::ExitRule, sampling::SamplingParams, serve::ClientId};
use dssd_proto::v1;
use std::{sync::Arc, time::Instant};
use tokio::sync::oneshot;

/// A checked request to generate.
#[derive(Debug)]
pub struct GenerateRequest {
    /// Who asks.
    pub client: ClientId,
    /// Unique among the running ones of this client.
    pub request_id: String,
    /// Prefixes are shared with requests of the same client and salt only.
    pub cache_salt: String,
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Tokens that an earlier attempt generated already; they count and are not sent again.
    pub resumed: Vec<u32>,
    /// How tokens are chosen, with the resolved seed.
    pub sampling: SamplingParams,
    /// Generated tokens at most, resumed ones included; at least one more than those.
    pub max_new_tokens: usize,
    /// What ends the generation before that.
    pub stops: StopRules,
    /// Alternatives reported with each token; `None` for no log-probabilities at all.
    pub logprobs: Option<usize>,
    /// How to draft; `None` for plain decoding.
    pub draft: Option<DraftRequest>,
    /// Where tokens leave the model before its end (lossy); `None` for the whole model.
    pub early_exit: Option<ExitRule>,
    /// Whether every round is reported.
    pub trace: bool,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Where events go. When the receiver is dropped the generation ends.
    pub events: EventSender,
    /// Its account for metrics.
    pub call: Arc<Call>,
}

impl GenerateRequest {
    /// The end of a generation that has not begun: nothing beyond the resumed tokens.
    pub(super) fn abort(&self) {
        let policy = self
            .draft
            .as_ref()
            .and_then(|d| d.open.speculation.as_ref());
        let info = v1::FinishInfo {
            finish_reason: v1::FinishReason::Aborted.into(),
            prompt_token_count: self.prompt.len() as u32,
            generated_token_count: self.resumed.len() as u32,
            resumed_token_count: self.resumed.len() as u32,
            lossy: self.early_exit.is_some(),
            speculative_decoding: Some(v1::SpeculativeDecoding {
                policy: policy.map_or("off".to_owned(), |policy| policy.policy.clone()),
                ..v1::SpeculativeDecoding::default()
            }),
            ..v1::FinishInfo::default()
        };
        let event = Event::Finished(Box::new(info));
        self.call.told(&event);
        // Nobody listens any more if the call was cancelled.
        self.events.send(event);
    }

    /// Whether this is what `client` calls `request_id`.
    pub(super) fn is(&self, client: ClientId, request_id: &str) -> bool {
        self.client == client && self.request_id == request_id
    }
}

/// What ends a generation besides its length.
#[derive(Clone, Debug, Default)]
pub struct StopRules {
    /// End-of-sequence and stop tokens. They are counted, and their text is not sent.
    pub token_ids: Vec<u32>,
    /// Strings that end the text.
    pub strings: Vec<String>,
    /// Whether the stop string that ended the text is sent.
    pub include: bool,
}

/// How a generation is drafted.
#[derive(Clone, Debug)]
pub struct DraftRequest {
    /// What the drafter is told at the start; the session fills in the tokens.
    pub open: v1::Open,
    /// Tokens of one draft at most.
    pub max_draft_tokens: usize,
    /// Whether drafts are wanted only where they pay (policy `auto`).
    pub adaptive: bool,
}

/// A checked request for log-probabilities.
#[derive(Debug)]
pub struct ScoreRequest {
    /// Who asks.
    pub client: ClientId,
    /// Context and scored tokens.
    pub tokens: Vec<u32>,
    /// Index of the first scored token, at least 1.
    pub first_index: usize,
    /// Alternatives reported at each position.
    pub top: usize,
    /// Where tokens leave the model before its end (lossy); `None` for the whole model.
    pub early_exit: Option<ExitRule>,
    /// When it came.
    pub arrived: Instant,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Where the answer goes; when its receiver is dropped the work ends.
    pub reply: oneshot::Sender<crate::Result<Score>>,
}

/// What scoring gives.
#[derive(Debug)]
pub struct Score {
    /// One entry for each scored token.
    pub logprobs: Vec<v1::TokenLogprobs>,
    /// Where the tokens left the model, if they might before its end.
    pub early_exit: Option<v1::EarlyExit>,
}
