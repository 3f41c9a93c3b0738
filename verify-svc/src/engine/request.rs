//! What the engine is asked for and what it answers, free of any wire format.

use dssd_common::sampling::SamplingParams;
use dssd_proto::v1;
use std::{collections::BTreeMap, time::Instant};
use tokio::sync::mpsc;

/// Events of one generation. The number of events is bounded by the generation's
/// `max_new_tokens`, so the channel needs no bound of its own.
pub type EventSender = mpsc::UnboundedSender<Event>;

/// A checked request to generate.
#[derive(Debug)]
pub struct GenerateRequest {
    /// Unique among the running ones.
    pub request_id: String,
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Tokens that an earlier attempt generated already; they count and are not sent again.
    pub resumed: Vec<u32>,
    /// How tokens are chosen, with the resolved seed.
    pub sampling: SamplingParams,
    /// Generated tokens at most, resumed ones included.
    pub max_new_tokens: usize,
    /// What ends the generation before that.
    pub stops: StopRules,
    /// Alternatives reported with each token; `None` for no log-probabilities at all.
    pub logprobs: Option<usize>,
    /// How to draft; `None` for plain decoding.
    pub draft: Option<DraftRequest>,
    /// Whether every round is reported.
    pub trace: bool,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Where events go. When the receiver is dropped the generation ends.
    pub events: EventSender,
}

/// What ends a generation besides its length.
#[derive(Clone, Debug, Default)]
pub struct StopRules {
    /// End-of-sequence and stop tokens. Their text is not sent.
    pub token_ids: Vec<u32>,
    /// Strings that end the text.
    pub strings: Vec<String>,
    /// Whether the stop string or token itself is sent.
    pub include: bool,
}

/// How a generation is drafted.
#[derive(Clone, Debug)]
pub struct DraftRequest {
    /// What the drafter is told at the start; the engine fills in the tokens.
    pub open: v1::Open,
    /// Tokens of one draft at most.
    pub max_draft_tokens: usize,
}

/// What happens in a generation, in order.
#[derive(Debug)]
pub enum Event {
    /// Committed tokens with all of their text.
    Tokens(Tokens),
    /// One round, if traced.
    Round(Round),
    /// The end; nothing follows.
    Finished(Box<Finished>),
    /// The end by a fault; nothing follows.
    Failed(Failure),
}

/// Committed tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    /// Index of the first one among all generated tokens.
    pub first_index: usize,
    /// Their ids.
    pub token_ids: Vec<u32>,
    /// Their text; empty if the server has no tokenizer.
    pub text: String,
    /// One for each token, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
}

/// Log-probabilities at one position, of the model's raw distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the chosen token, in nats.
    pub logprob: f32,
    /// The likeliest tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// One round of a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// What was drafted, with the exit head (its layer) and the entropy in nats.
    pub drafted: Vec<DraftedToken>,
    /// How many of them were accepted.
    pub accepted: usize,
    /// The model's own token after them.
    pub correction: u32,
    /// Positions with keys and values after the round.
    pub kv_position: usize,
}

/// One drafted token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DraftedToken {
    /// Its id.
    pub token_id: u32,
    /// The layer after which the exit sits.
    pub exit_head: u32,
    /// Entropy of the exit's distribution, in nats.
    pub entropy: f32,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token, a stop string or the end of the sequence.
    Stop,
    /// `max_new_tokens` or the context is full.
    Length,
    /// Aborted by request.
    Aborted,
}

/// The account of a finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Generated tokens, resumed ones included.
    pub generated_tokens: usize,
    /// What speculation did.
    pub speculation: SpeculationAccount,
}

/// What speculation did in one generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpeculationAccount {
    /// Rounds that verified a draft.
    pub num_drafts: u64,
    /// Tokens drafted in them.
    pub num_draft_tokens: u64,
    /// Tokens accepted in them.
    pub num_accepted_tokens: u64,
    /// Rounds that computed one token plainly, by reason.
    pub plain_rounds: BTreeMap<String, u64>,
    /// Why drafts ended, by reason.
    pub stop_reasons: BTreeMap<String, u64>,
    /// Drafted tokens by the layer of their exit.
    pub exit_heads: BTreeMap<u32, u64>,
    /// Proposals that came too late to be used.
    pub stale_proposals: u64,
    /// Streams to drafters that ended before the generation did.
    pub drafter_losses: u64,
    /// Time that the generation sat out for proposals, in seconds.
    pub draft_wait_seconds: f64,
    /// Time of the steps that it was part of, in seconds.
    pub verify_seconds: f64,
    /// Time of proposals beyond their drafting, in seconds.
    pub wire_seconds: f64,
}

/// Why a generation could not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its deadline passed.
    DeadlineExceeded,
    /// The server is shutting down.
    ShuttingDown,
    /// A fault of ours.
    Internal(String),
}
