//! One running generation: what it computes next, and what a pass gave it.

use super::{
    GenerationKey, LinkKey,
    output::{Output, Stop},
    request::{Event, GenerateRequest},
};
use crate::{
    Error, Result,
    drafters::LinkSender,
    session::{Next, RoundHints, VerifySession},
};
use dssd_common::{
    kv::{KvCache, SequenceId},
    sampling::{self, History, Sampler, Scratch},
    tokenizer::TextStream,
};
use dssd_proto::v1::{self, FinishReason, PlainReason};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Time in which a drafter must have processed what an Open tells it.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Rows of one generation in one pass.
pub(super) struct Work {
    /// Tokens of the rows, at positions from the end of the cache on.
    pub(super) tokens: Vec<u32>,
    pub(super) kind: WorkKind,
}

pub(super) enum WorkKind {
    /// A part of the prompt that is not its end; no logits are needed.
    Prefill,
    /// The newest token alone, or with the end of the prompt before it. `None`: a prefill gave
    /// the token, so it is no round.
    Plain(Option<PlainReason>),
    /// The newest token and a draft.
    Verify(v1::Proposal),
}

impl Work {
    /// Rows whose logits are needed; always the last ones.
    pub(super) fn logits_rows(&self) -> usize {
        match &self.kind {
            WorkKind::Prefill => 0,
            WorkKind::Plain(_) => 1,
            WorkKind::Verify(proposal) => proposal.tokens.len() + 1,
        }
    }
}

/// What a generation can do now.
pub(super) enum Turn {
    Run(Work),
    /// Sit out until this moment.
    Wait(Duration),
}

/// A stream to a drafter.
pub(super) struct Link {
    pub(super) key: LinkKey,
    /// Ends the stream's task when the link is dropped.
    _end: DropGuard,
    pub(super) address: Option<SocketAddr>,
    pub(super) sender: Option<LinkSender>,
    /// When the stream was opened, until its drafter was ready once.
    pub(super) since: Option<Instant>,
}

impl Link {
    pub(super) fn new(key: LinkKey, end: CancellationToken) -> Self {
        Self {
            key,
            _end: end.drop_guard(),
            address: None,
            sender: None,
            since: None,
        }
    }
}

pub(super) struct Generation {
    pub(super) key: GenerationKey,
    pub(super) request: GenerateRequest,
    pub(super) sequence: SequenceId,
    pub(super) session: VerifySession,
    pub(super) link: Option<Link>,
    pub(super) attempts: u64,
    sampler: Sampler,
    history: History,
    output: Output,
    rounds: u32,
    passes: u64,
    verify_time: Duration,
}

/// What the scheduler knows at the end of a pass.
pub(super) struct PassResult<'a> {
    /// `[rows, vocabulary]`, of the rows that needed them.
    pub(super) logits: &'a [f32],
    pub(super) vocabulary: usize,
    pub(super) seconds: Duration,
}

impl Generation {
    /// A generation; with its end, if the resumed tokens hold one already.
    pub(super) fn new(
        key: GenerationKey,
        request: GenerateRequest,
        sequence: SequenceId,
        vocabulary: usize,
        text: Option<TextStream>,
    ) -> Result<(Self, Option<End>)> {
        let sampler = Sampler::new(
            request.sampling.clone(),
            vocabulary,
            request.stops.token_ids.clone(),
        )?;
        let (output, stop) = Output::new(request.stops.clone(), text, &request.resumed)?;
        let mut open = request
            .draft
            .as_ref()
            .map(|draft| draft.open.clone())
            .unwrap_or_default();
        open.token_ids = [request.prompt.as_slice(), &request.resumed].concat();
        let generation = Self {
            key,
            history: History::new(&request.prompt, &request.resumed),
            session: VerifySession::new(open),
            link: None,
            attempts: 0,
            sampler,
            output,
            rounds: 0,
            passes: 0,
            verify_time: Duration::ZERO,
            request,
            sequence,
        };
        Ok((generation, stop.map(End::Stop)))
    }

    /// Positions that the generation may reach: all but the last token get keys and values.
    pub(super) fn capacity(request: &GenerateRequest) -> usize {
        request.prompt.len() + request.max_new_tokens
    }

    /// Whether its drafter has had more than enough time to process the prompt.
    pub(super) fn waits_for_ready(&self, now: Instant) -> bool {
        let since = self.link.as_ref().and_then(|link| link.since);
        let overdue = since.is_some_and(|since| now.duration_since(since) > READY_TIMEOUT);
        overdue && !self.session.is_ready()
    }

    pub(super) fn remaining(&self) -> usize {
        self.request.max_new_tokens - self.history.generated().len()
    }

    /// What to compute next, in at most `budget` rows.
    pub(super) fn turn(&mut self, kv: &KvCache, budget: usize, now: Duration) -> Turn {
        let computed = kv.len(self.sequence, 0);
        let lacking = &self.history.tokens()[computed..];
        if lacking.len() > budget {
            return Turn::Run(Work {
                tokens: lacking[..budget].to_vec(),
                kind: WorkKind::Prefill,
            });
        }
        let mut tokens = lacking.to_vec();
        if tokens.len() > 1 || self.history.generated().len() == self.request.resumed.len() {
            return Turn::Run(Work {
                tokens,
                kind: WorkKind::Plain(None),
            });
        }
        match self.session.next(now) {
            Next::Wait { until } => Turn::Wait(until),
            Next::Plain(reason) => {
                let off = self.request.draft.is_none();
                let reason = if off { PlainReason::Off } else { reason };
                Turn::Run(Work {
                    tokens,
                    kind: WorkKind::Plain(Some(reason)),
                })
            }
            Next::Verify(mut proposal) => {
                // The newest token needs a row of its own; what does not fit counts as rejected.
                proposal.tokens.truncate(budget - 1);
                tokens.extend(proposal.tokens.iter().map(|drafted| drafted.token_id));
                Turn::Run(Work {
                    tokens,
                    kind: WorkKind::Verify(proposal),
                })
            }
        }
    }

    /// Takes the outcome of a pass; returns the tokens that it committed, how many drafted ones
    /// were right (`None` for a plain row), and why the generation ends, if it does.
    ///
    /// # Errors
    /// If the logits hold nothing that can be chosen.
    pub(super) fn finish_pass(
        &mut self,
        work: &Work,
        pass: &PassResult<'_>,
        kv: &mut KvCache,
        scratch: &mut Scratch,
    ) -> Result<Outcome> {
        let draft: Option<Vec<u32>> = match &work.kind {
            WorkKind::Prefill => return Ok(Outcome::default()),
            WorkKind::Plain(_) => None,
            WorkKind::Verify(proposal) => {
                Some(proposal.tokens.iter().map(|token| token.token_id).collect())
            }
        };
        let mut end = None;
        // Row i is filtered with the history that plain decoding has there: it is chosen only if
        // the drafted tokens before it were right.
        let accepted = sampling::accept(draft.as_deref().unwrap_or_default(), |row| {
            if end.is_some() {
                return Ok(None);
            }
            let logits = &pass.logits[row * pass.vocabulary..(row + 1) * pass.vocabulary];
            let choice = self.sampler.choose(logits, &self.history, scratch);
            let token = choice.map_err(|error| Error::internal("choosing a token", error))?;
            end = self.take(token, logits)?;
            Ok::<_, Error>(Some(token))
        })?;
        let outcome = Outcome {
            accepted: draft.map(|_| accepted.accepted),
            committed: accepted.committed,
            end,
        };
        kv.truncate(self.sequence, self.history.len() - 1);
        self.account(work, &outcome, pass.seconds);
        Ok(outcome)
    }

    /// Takes one chosen token; says whether it ends the generation.
    fn take(&mut self, token: u32, logits: &[f32]) -> Result<Option<End>> {
        let top = self.request.logprobs;
        let logprobs = top
            .map(|top| token_logprobs(logits, token, top))
            .transpose()?;
        self.history.push(token);
        let stop = self.output.push(token, logprobs)?.map(End::Stop);
        Ok(stop.or_else(|| (self.remaining() == 0).then_some(End::Length)))
    }

    fn account(&mut self, work: &Work, outcome: &Outcome, seconds: Duration) {
        if matches!(work.kind, WorkKind::Plain(None)) {
            return;
        }
        self.passes += 1;
        self.verify_time += seconds;
        if self.request.trace {
            self.emit(Event::Round(self.trace(work, outcome)));
        }
        self.rounds += 1;
    }

    fn trace(&self, work: &Work, outcome: &Outcome) -> v1::RoundTrace {
        let accepted = outcome.accepted.unwrap_or(0);
        let nothing = v1::Proposal::default();
        let (proposal, plain_reason) = match &work.kind {
            WorkKind::Verify(proposal) => (proposal, PlainReason::Unspecified),
            WorkKind::Plain(reason) => (&nothing, reason.unwrap_or_default()),
            WorkKind::Prefill => (&nothing, PlainReason::Unspecified),
        };
        let traced = |(i, token): (usize, &v1::DraftedToken)| v1::TracedToken {
            token_id: token.token_id,
            exit_head: token.exit_head,
            entropy: token.entropy,
            accepted: i < accepted,
        };
        v1::RoundTrace {
            round: self.rounds,
            drafted: proposal.tokens.iter().enumerate().map(traced).collect(),
            correction: outcome.committed.get(accepted).copied().unwrap_or_default(),
            kv_position: (self.history.len() - 1) as u32,
            stop_reason: proposal.stop_reason,
            plain_reason: plain_reason.into(),
        }
    }

    /// Sends what may be sent now.
    pub(super) fn flush(&mut self) {
        if let Some(tokens) = self.output.take() {
            self.emit(Event::Tokens(tokens));
        }
    }

    /// Tells the session of a round, and returns what the drafter is to hear.
    pub(super) fn commit(
        &mut self,
        outcome: &Outcome,
        hints: &RoundHints,
    ) -> Option<v1::VerifierMessage> {
        self.session
            .committed(&outcome.committed, outcome.accepted, hints)
    }

    /// Sends everything that was held back, and the account.
    pub(super) fn finish(&mut self, end: End) {
        let (stop, reason) = match end {
            End::Stop(stop) => (Some(stop), FinishReason::Stop),
            End::Length => (None, FinishReason::Length),
            End::Aborted => (None, FinishReason::Aborted),
        };
        let (tokens, stop) = match self.output.finish(stop) {
            Ok(rest) => rest,
            Err(error) => return self.emit(Event::Failed(error)),
        };
        if let Some(tokens) = tokens {
            self.emit(Event::Tokens(tokens));
        }
        let reason = match (&stop, reason) {
            (Some(_), FinishReason::Length) => FinishReason::Stop,
            _ => reason,
        };
        let mut info = v1::FinishInfo {
            finish_reason: reason.into(),
            prompt_token_count: self.request.prompt.len() as u32,
            generated_token_count: self.history.generated().len() as u32,
            resumed_token_count: self.request.resumed.len() as u32,
            stop_string: None,
            stop_token_id: None,
            lossy: false,
            speculative_decoding: Some(self.speculative_decoding()),
        };
        match stop {
            Some(Stop::String(string)) => info.stop_string = Some(string),
            Some(Stop::Token(token)) => info.stop_token_id = Some(token),
            None => {}
        }
        self.emit(Event::Finished(Box::new(info)));
    }

    fn speculative_decoding(&self) -> v1::SpeculativeDecoding {
        let decoded = self.history.generated().len() - self.request.resumed.len();
        let mut report = self.session.statistics().report();
        // The first token came from the prefill, not from a decoding pass.
        report.tokens_per_pass = match self.passes {
            0 => 0.0,
            passes => decoded.saturating_sub(1) as f64 / passes as f64,
        };
        report.verify_seconds = self.verify_time.as_secs_f64();
        let speculation = self
            .request
            .draft
            .as_ref()
            .and_then(|draft| draft.open.speculation.as_ref());
        report.policy = speculation.map_or_else(
            || "off".to_owned(),
            |speculation| speculation.policy.clone(),
        );
        report
    }

    pub(super) fn emit(&self, event: Event) {
        // A closed channel is noticed at the next step.
        _ = self.request.events.send(event);
    }
}

/// What a pass did to a generation.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) committed: Vec<u32>,
    pub(super) accepted: Option<usize>,
    pub(super) end: Option<End>,
}

/// Why a generation ends.
pub(super) enum End {
    Stop(Stop),
    Length,
    Aborted,
}

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
