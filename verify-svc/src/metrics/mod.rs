//! What verify-svc tells Prometheus. Counting is an atomic addition on a handle that is there
//! from the start (a short lock for histograms); what others know already is asked when somebody
//! looks.

mod call;
mod live;

pub use call::Call;
pub(crate) use live::Source;

use crate::session::News;
use dssd_common::serve::{Counters, Identity, head_labels, sizes, times};
use dssd_proto::v1::{DraftStopReason, PlainReason};
use live::Live;
use prometheus_client::{
    metrics::{counter::Counter, histogram::Histogram},
    registry::Registry,
};
use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

/// Positions in a draft that are told apart.
const POSITIONS: usize = 32;
/// Bounds, in seconds, of how late refusals come: close together around 50 ms.
const REFUSAL_DELAYS: [f64; 15] = [
    1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 4e-2, 5e-2, 6e-2, 8e-2, 0.1, 0.2, 0.5, 2.0,
];

/// Every metric of the service; see `docs/operations/metrics.md`.
#[derive(Debug)]
pub struct Metrics {
    num_drafts: Counter,
    num_draft_tokens: Counter,
    num_accepted_tokens: Counter,
    accepted_per_pos: Counters,
    draft_length: Histogram,
    draft_stop: Counters,
    exit_head: Counters,
    stale_proposals: Counter,
    plain_rounds: Counters,
    verified_rows: Counter,
    copied_rows: Counter,
    draft_wait: Histogram,
    verify_step: Histogram,
    verify_batch_rows: Histogram,
    drafter_errors: Counters,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    queue_time: Histogram,
    e2e_latency: Histogram,
    rejected: Counters,
    refusal_delay: Histogram,
    resumed: Counter,
    prefix_cache_hit_tokens: Counter,
    requests: Counters,
    lossy_requests: Counter,
    early_exit_tokens: Counters,
    live: Arc<OnceLock<Source>>,
}

/// Why a drafter was left out, or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrafterError {
    /// It could not be reached, or its stream broke.
    Unavailable,
    /// No answer to the opening of a stream.
    OpenTimeout,
    /// It ended a stream before the generation ended.
    Ended,
    /// It has no room.
    Full,
    /// It is of another model, or no drafter, or does not let us in.
    Mismatch,
    /// It broke the protocol, or failed inside.
    Fault,
    /// It was not ready in time, or sent no proposals.
    Silent,
    /// It does not do what a generation asks for.
    Refused,
}

const DRAFTER_ERRORS: [&str; 8] = [
    "unavailable",
    "open_timeout",
    "ended",
    "full",
    "mismatch",
    "fault",
    "silent",
    "refused",
];

impl Default for Metrics {
    fn default() -> Self {
        let counters = |label, values: Vec<String>| Counters::new(label, values, Counter::default);
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let of_enum = |name: fn(i32) -> Option<&'static str>, prefix: &str| -> Vec<String> {
            let names = (0..).map_while(name);
            names
                .map(|name| name.trim_start_matches(prefix).to_lowercase())
                .collect()
        };
        let plain = |n| PlainReason::try_from(n).ok().map(|r| r.as_str_name());
        let stop = |n| DraftStopReason::try_from(n).ok().map(|r| r.as_str_name());
        let positions = (0..POSITIONS).map(|position| position.to_string());
        let positions = positions.chain([format!("{POSITIONS}+")]).collect();
        Self {
            num_drafts: Counter::default(),
            num_draft_tokens: Counter::default(),
            num_accepted_tokens: Counter::default(),
            accepted_per_pos: counters("position", positions),
            draft_length: Histogram::new([
                1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0,
            ]),
            draft_stop: counters("reason", of_enum(stop, "DRAFT_STOP_REASON_")),
            exit_head: counters("head", head_labels().collect()),
            stale_proposals: Counter::default(),
            plain_rounds: counters("reason", of_enum(plain, "PLAIN_REASON_")),
            verified_rows: Counter::default(),
            copied_rows: Counter::default(),
            draft_wait: times(1e-4, 16),
            verify_step: times(1e-4, 18),
            verify_batch_rows: sizes(),
            drafter_errors: counters("reason", words(&DRAFTER_ERRORS)),
            time_to_first_token: times(1e-3, 17),
            inter_token_latency: times(1e-4, 17),
            queue_time: times(1e-4, 20),
            e2e_latency: times(1e-2, 17),
            rejected: counters("reason", words(&call::REJECTIONS)),
            refusal_delay: Histogram::new(REFUSAL_DELAYS),
            resumed: Counter::default(),
            prefix_cache_hit_tokens: Counter::default(),
            requests: counters("finish_reason", words(&call::ENDINGS)),
            lossy_requests: Counter::default(),
            early_exit_tokens: counters("head", head_labels().collect()),
            live: Arc::default(),
        }
    }
}

impl Metrics {
    /// Names every metric in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        counter(
            "spec_decode_num_drafts",
            "Drafts that were verified",
            &self.num_drafts,
        );
        counter(
            "spec_decode_num_draft_tokens",
            "Tokens in verified drafts",
            &self.num_draft_tokens,
        );
        counter(
            "spec_decode_num_accepted_tokens",
            "Drafted tokens that the whole model chose too",
            &self.num_accepted_tokens,
        );
        counter(
            "stale_proposals",
            "Proposals that came too late to be used",
            &self.stale_proposals,
        );
        counter(
            "verified_rows",
            "Rows of steps that verified drafts: the drafted tokens, and the newest one before them",
            &self.verified_rows,
        );
        counter(
            "copied_logits_rows",
            "Rows of logits that were copied from a GPU, since more than a token was asked of them",
            &self.copied_rows,
        );
        counter(
            "resumed_requests",
            "Generations that went on from tokens of an earlier attempt",
            &self.resumed,
        );
        counter(
            "prefix_cache_hit_tokens",
            "Prompt tokens whose keys and values were there already",
            &self.prefix_cache_hit_tokens,
        );
        counter(
            "lossy_requests",
            "Finished generations whose tokens might leave the model early",
            &self.lossy_requests,
        );
        let mut counters = |name: &str, help: &str, counters: &Counters| {
            registry.register(name, help, counters.family());
        };
        counters(
            "spec_decode_num_accepted_tokens_per_pos",
            "Accepted tokens by position in their draft, from 0",
            &self.accepted_per_pos,
        );
        counters(
            "draft_stop",
            "Verified drafts by why they ended",
            &self.draft_stop,
        );
        counters(
            "exit_head",
            "Tokens in verified drafts by the exit head that drafted them",
            &self.exit_head,
        );
        counters(
            "plain_rounds",
            "Rounds without a draft, by why",
            &self.plain_rounds,
        );
        counters(
            "drafter_errors",
            "Drafters left out or given up, by why",
            &self.drafter_errors,
        );
        counters(
            "rejected_requests",
            "Requests that were refused, by why",
            &self.rejected,
        );
        counters("requests", "Generations that ended, by how", &self.requests);
        counters(
            "early_exit_tokens",
            "Tokens of finished lossy generations that left the model early, by exit head",
            &self.early_exit_tokens,
        );
        let mut histogram = |name: &str, help: &str, histogram: &Histogram| {
            registry.register(name, help, histogram.clone());
        };
        histogram(
            "draft_length",
            "Tokens of a verified draft",
            &self.draft_length,
        );
        histogram(
            "draft_wait_seconds",
            "Time from asking for a draft to its proposal, or to the end of waiting",
            &self.draft_wait,
        );
        histogram(
            "verify_step_seconds",
            "Time of a step of the model",
            &self.verify_step,
        );
        histogram(
            "verify_batch_rows",
            "Rows of a step of the model",
            &self.verify_batch_rows,
        );
        histogram(
            "time_to_first_token_seconds",
            "Time from the arrival of a request to its first token",
            &self.time_to_first_token,
        );
        histogram(
            "inter_token_latency_seconds",
            "Time from token to token; those that come together share it",
            &self.inter_token_latency,
        );
        histogram(
            "request_queue_time_seconds",
            "Time that an admitted request waited for room",
            &self.queue_time,
        );
        histogram(
            "refusal_delay_seconds",
            "How late requests that find no room are refused: after they came, or after the longest wait",
            &self.refusal_delay,
        );
        histogram(
            "e2e_request_latency_seconds",
            "Time from the arrival of a request to its end",
            &self.e2e_latency,
        );
        registry.register_collector(Box::new(Live::new(&self.live)));
    }

    /// A request to generate that arrives now.
    pub(crate) fn call(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        identity: Identity,
    ) -> Arc<Call> {
        Arc::new(Call::new(Arc::clone(self), deadline, identity))
    }

    /// Takes note of why a request was refused.
    pub(crate) fn rejected(&self, error: &crate::Error) {
        self.rejected.add(call::rejection(error), 1);
    }

    /// Takes note of how late a request that found no room was refused.
    pub(crate) fn refused(&self, late: Duration) {
        self.refusal_delay.observe(late.as_secs_f64());
    }

    /// Whom to ask for what is counted elsewhere; before, all of that is 0.
    pub(crate) fn watch(&self, source: Source) {
        // There is one engine.
        _ = self.live.set(source);
    }

    /// Takes note of a step of `rows` rows, `verified` of them of verifications.
    pub(crate) fn step(&self, rows: usize, verified: usize, time: Duration) {
        self.verify_step.observe(time.as_secs_f64());
        self.verify_batch_rows.observe(rows as f64);
        self.verified_rows.inc_by(verified as u64);
    }

    /// Takes note of how many rows of logits were copied from a GPU so far.
    pub(crate) fn copied_rows(&self, total: u64) {
        self.copied_rows.inc_by(total - self.copied_rows.get());
    }

    /// Takes note of a round.
    pub(crate) fn round(&self, news: &News) {
        if let Some((proposal, accepted)) = &news.draft {
            self.num_drafts.inc();
            self.num_draft_tokens.inc_by(proposal.tokens.len() as u64);
            self.num_accepted_tokens.inc_by(*accepted as u64);
            (0..*accepted).for_each(|position| self.accepted_per_pos.add(position, 1));
            self.draft_length.observe(proposal.tokens.len() as f64);
            self.draft_stop.add(proposal.stop_reason() as usize, 1);
            let heads = proposal.tokens.iter().map(|token| token.exit_head as usize);
            heads.for_each(|head| self.exit_head.add(head, 1));
        }
        if let Some(reason) = news.plain {
            self.plain_rounds.add(reason as usize, 1);
        }
        if let Some(waited) = news.waited {
            self.draft_wait.observe(waited.as_secs_f64());
        }
        if news.stale_proposals > 0 {
            self.stale_proposals.inc_by(news.stale_proposals);
        }
    }

    /// Takes note of a failure of a drafter.
    pub(crate) fn drafter_failed(&self, error: DrafterError) {
        self.drafter_errors.add(error as usize, 1);
    }
}
