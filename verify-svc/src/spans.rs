//! The spans of one request to generate: its wait for room, its prompt, its rounds.

use crate::session::News;
use dssd_common::serve::{Ending, Part, Trail};
use dssd_proto::v1::{DraftStopReason, FinishInfo, PlainReason};
use opentelemetry::KeyValue;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Rounds of a request that have spans; those beyond are counted.
const MOST_ROUNDS: u64 = 512;

/// What a request's spans are made of. Where nobody wants spans, it holds nothing.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    trail: Trail,
    account: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    /// The end of the newest round, or the admission.
    newest: Option<Instant>,
    /// Passes since then: the first one's beginning, the last one's end.
    passes: Option<(Instant, Instant)>,
    prompt_done: bool,
    rounds: u64,
}

impl Spans {
    pub(crate) fn new(trail: Trail) -> Self {
        Self {
            trail,
            account: Mutex::default(),
        }
    }

    /// The account, if somebody wants spans. The engine alone writes to it while it runs.
    fn account(&self) -> Option<MutexGuard<'_, Account>> {
        let account = || self.account.lock();
        let recorded = self.trail.is_recorded();
        recorded.then(|| account().unwrap_or_else(PoisonError::into_inner))
    }

    /// The request has room, after waiting so long for it.
    pub(crate) fn admitted(&self, queued: Duration) {
        let Some(mut account) = self.account() else {
            return;
        };
        let ended = Instant::now();
        account.newest = Some(ended);
        let begun = ended.checked_sub(queued).unwrap_or(ended);
        self.trail.note(move || part("queue", begun, ended));
    }

    /// A step with rows of it ran.
    pub(crate) fn passed(&self, begun: Instant, time: Duration) {
        if let Some(mut account) = self.account() {
            let first = account.passes.map_or(begun, |(first, _)| first);
            account.passes = Some((first, begun + time));
        }
    }

    /// A round is over; the first one is the end of the prompt.
    pub(crate) fn round(&self, news: &News) {
        let Some(mut account) = self.account() else {
            return;
        };
        let ended = Instant::now();
        let Some(begun) = account.newest.replace(ended) else {
            return;
        };
        let passes = account.passes.take();
        if !account.prompt_done {
            account.prompt_done = true;
            return self.trail.note(move || part("prefill", begun, ended));
        }
        // What comes after the last round is none.
        if news.draft.is_none() && news.plain.is_none() {
            return;
        }
        let number = account.rounds;
        account.rounds += 1;
        drop(account);
        if number < MOST_ROUNDS {
            let round = Round::new(number, news);
            self.trail.note(move || round.part(begun, ended, passes));
        }
    }

    /// The request has ended as `how` says.
    pub(crate) fn ended(&self, how: &'static str, is_failure: bool, info: Option<&FinishInfo>) {
        let Some(account) = self.account() else {
            return;
        };
        let rounds = account.rounds;
        drop(account);
        let mut attributes = vec![
            KeyValue::new("finish_reason", how),
            KeyValue::new("rounds", number(rounds)),
        ];
        if rounds > MOST_ROUNDS {
            let without = number(rounds - MOST_ROUNDS);
            attributes.push(KeyValue::new("rounds_without_span", without));
        }
        if let Some(info) = info {
            let policy = info.speculative_decoding.as_ref();
            let policy = policy.map_or_else(String::new, |drafts| drafts.policy.clone());
            attributes.extend([
                KeyValue::new("prompt_tokens", i64::from(info.prompt_token_count)),
                KeyValue::new("cached_prompt_tokens", i64::from(info.cached_prompt_tokens)),
                KeyValue::new("generated_tokens", i64::from(info.generated_token_count)),
                KeyValue::new("policy", policy),
            ]);
        }
        self.trail.end(move || Ending {
            attributes,
            failure: is_failure.then(|| how.to_owned()),
        });
    }
}

/// What there is to know of a round.
struct Round {
    number: u64,
    /// Drafted and accepted tokens, and why the draft ended.
    draft: Option<(usize, usize, DraftStopReason)>,
    plain: Option<PlainReason>,
    waited: Option<Duration>,
    wire: Duration,
}

impl Round {
    fn new(number: u64, news: &News) -> Self {
        let draft = news.draft.as_ref();
        Self {
            number,
            draft: draft.map(|(proposal, accepted)| {
                (proposal.tokens.len(), *accepted, proposal.stop_reason())
            }),
            plain: news.plain,
            waited: news.waited,
            wire: news.wire,
        }
    }

    fn part(self, begun: Instant, ended: Instant, passes: Option<(Instant, Instant)>) -> Part {
        let kind = match self.draft {
            Some(_) => "verify",
            None => "plain",
        };
        let mut round = part("round", begun, ended);
        round.attributes.extend([
            KeyValue::new("round", number(self.number)),
            KeyValue::new("kind", kind),
        ]);
        if let Some((drafted, accepted, stop)) = self.draft {
            round.attributes.extend([
                KeyValue::new("drafted", drafted as i64),
                KeyValue::new("accepted", accepted as i64),
                KeyValue::new("draft_stop", stop.as_str_name()),
            ]);
        }
        if let Some(plain) = self.plain {
            let reason = KeyValue::new("plain_reason", plain.as_str_name());
            round.attributes.push(reason);
        }
        // A draft is asked for at the end of the round before.
        if let Some(waited) = self.waited {
            let mut wait = part("draft wait", begun, begun + waited);
            let wire = i64::try_from(self.wire.as_micros()).unwrap_or(i64::MAX);
            wait.attributes.push(KeyValue::new("wire_us", wire));
            round.parts.push(wait);
        }
        if let Some((first, last)) = passes {
            let name = match self.draft {
                Some(_) => "verify",
                None => "decode",
            };
            round.parts.push(part(name, first, last));
        }
        round
    }
}

fn part(name: &'static str, begun: Instant, ended: Instant) -> Part {
    Part {
        name,
        begun,
        ended,
        attributes: Vec::new(),
        parts: Vec::new(),
    }
}

/// OpenTelemetry has signed numbers only.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
