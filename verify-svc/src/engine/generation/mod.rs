//! One running generation: what it computes next, and what a pass gave it.

mod report;

use super::{
    EngineHandle, GenerationKey, LinkKey, Place,
    early_exit::EarlyExit,
    events::{Event, LOOK_AGAIN},
    link::Link,
    logprobs::token_logprobs,
    output::Output,
    pass::{Passenger, ReadRow},
    request::GenerateRequest,
    work::{End, Outcome, PassResult, Turn, Work, WorkKind},
};
use crate::{
    Error, Result,
    drafters::Drafters,
    session::{News, Next, RoundHints, VerifySession},
};
use dssd_common::{
    kv::{KvCache, PrefixKey, SequenceId},
    model::Decoder,
    sampling::{self, Choice, History, Sampler, Scratch},
    tokenizer::TextStream,
};
use dssd_proto::v1::{self, PlainReason};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Time in which a drafter must have processed what an Open tells it.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Generation {
    pub(super) key: GenerationKey,
    pub(super) request: GenerateRequest,
    pub(super) sequence: SequenceId,
    pub(super) session: VerifySession,
    pub(super) link: Option<Link>,
    attempts: u64,
    /// No drafter does what is wished, so none is asked again.
    pub(super) undraftable: bool,
    sampler: Sampler,
    history: History,
    output: Output,
    early_exit: Option<EarlyExit>,
    rounds: u32,
    passes: u64,
    /// Tokens of prompt and resumption that the prefix cache had.
    cached: usize,
    verify_time: Duration,
    /// Given back after the sequence is closed.
    #[expect(dead_code, reason = "it is held for its end")]
    place: Place,
    /// When the client was found to have read too little for another turn.
    unread_since: Option<Duration>,
}

impl Generation {
    /// A generation; with its end, if the resumed tokens hold one already.
    pub(super) fn new(
        key: GenerationKey,
        mut request: GenerateRequest,
        (sequence, place): (SequenceId, Place),
        decoder: &Decoder,
        text: Option<TextStream>,
    ) -> Result<(Self, Option<End>)> {
        let sampler = Sampler::new(
            request.sampling.clone(),
            decoder.vocabulary(),
            request.stops.token_ids.clone(),
        )?;
        let (output, stop) = Output::new(request.stops.clone(), text, &request.resumed)?;
        let mut open = request
            .draft
            .as_ref()
            .map_or_else(undrafted, |draft| draft.open.clone());
        open.token_ids = [request.prompt.as_slice(), &request.resumed].concat();
        let rule = request.early_exit.take();
        let generation = Self {
            key,
            early_exit: rule.map(|rule| EarlyExit::new(rule, decoder.band_ends())),
            history: History::new(&request.prompt, &request.resumed),
            session: VerifySession::new(open),
            link: None,
            attempts: 0,
            undraftable: false,
            sampler,
            output,
            rounds: 0,
            passes: 0,
            cached: 0,
            verify_time: Duration::ZERO,
            unread_since: None,
            request,
            sequence,
            place,
        };
        Ok((generation, stop.map(End::Stop)))
    }

    /// Positions that the generation may reach: all but the last token get keys and values.
    pub(super) fn capacity(request: &GenerateRequest) -> usize {
        request.prompt.len() + request.max_new_tokens
    }

    /// Asks for a drafter.
    pub(super) fn attach(&mut self, drafters: &Drafters, engine: &EngineHandle) {
        self.attempts += 1;
        let key = LinkKey {
            generation: self.key,
            attempt: self.attempts,
        };
        let end = CancellationToken::new();
        let identity = self.request.call.identity().clone();
        drafters.attach(engine.clone(), key, end.clone(), identity);
        self.link = Some(Link::new(key, end));
    }

    /// Why its drafter is not worth waiting for any more, if so.
    pub(super) fn gives_drafter_up(&self, now: Instant) -> Option<&'static str> {
        let since = self.link.as_ref().and_then(|link| link.since);
        let overdue = since.is_some_and(|since| now.duration_since(since) > READY_TIMEOUT);
        if overdue && !self.session.is_ready() {
            return Some("is not ready to draft in time");
        }
        self.session.is_silent().then_some("sends no proposals")
    }

    /// Whether the client has made no room for another turn since `limit` ago.
    pub(super) fn is_unread(&self, now: Duration, limit: Duration) -> bool {
        let since = self.unread_since;
        let waited = since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        waited > limit && !self.request.events.has_room()
    }

    pub(super) fn remaining(&self) -> usize {
        self.request.max_new_tokens - self.history.generated().len()
    }

    /// Whether it is left to the drafter's policy if drafts pay.
    pub(super) fn is_adaptive(&self) -> bool {
        let draft = self.request.draft.as_ref();
        draft.is_some_and(|draft| draft.adaptive)
    }

    /// Takes from the prefix cache what is there. The newest token needs a row in any case.
    pub(super) fn reuse(&mut self, kv: &mut KvCache) {
        let tokens = self.history.tokens();
        let reused = kv.reuse(self.sequence, &tokens[..tokens.len() - 1]);
        self.request.call.reused(reused);
        self.cached += reused;
    }

    /// The block of positions that it fills next, if others may share it.
    pub(super) fn next_key(&self, kv: &KvCache) -> Option<PrefixKey> {
        let tokens = self.history.tokens();
        kv.next_key(self.sequence, &tokens[..tokens.len() - 1])
    }

    /// Lets others share what is computed: committed tokens alone, at the end of a pass.
    pub(super) fn publish(&self, kv: &mut KvCache) {
        kv.publish(self.sequence, self.history.tokens());
    }

    /// Whether it has to catch up before its next token: by more than the newest token's row.
    pub(super) fn fills(&self, kv: &KvCache) -> bool {
        let lacks = |band: usize| self.history.len() - kv.len(self.sequence, band);
        match lacks(0) {
            // The newest row waits before a deeper band.
            0 => (1..kv.layout().band_ends.len()).any(|band| lacks(band) > 1),
            lacking => lacking > 1,
        }
    }

    /// What to compute next, in at most `budget` rows. While its client does not read, a
    /// generation keeps its place and computes nothing.
    pub(super) fn turn(&mut self, kv: &KvCache, budget: usize, now: Duration) -> Turn {
        if !self.request.events.has_room() {
            self.unread_since.get_or_insert(now);
            return Turn::Wait(now + LOOK_AGAIN);
        }
        self.unread_since = None;
        let computed = kv.len(self.sequence, 0);
        let lacking = &self.history.tokens()[computed..];
        if lacking.is_empty() {
            return Turn::Run(self.deeper(kv, budget));
        }
        let run = |tokens: Vec<u32>, kind| {
            Turn::Run(Work {
                bands: 0..kv.layout().band_ends.len(),
                end: computed + tokens.len(),
                rows: tokens.len(),
                tokens,
                kind,
            })
        };
        if lacking.len() > budget {
            return run(lacking[..budget].to_vec(), WorkKind::Prefill);
        }
        let mut tokens = lacking.to_vec();
        if tokens.len() > 1 || self.history.generated().len() == self.request.resumed.len() {
            return run(tokens, WorkKind::Plain(None));
        }
        match self.session.next(now) {
            Next::Wait { until } => Turn::Wait(until),
            Next::Plain(reason) => run(tokens, WorkKind::Plain(Some(reason))),
            Next::Verify(mut proposal) => {
                // The newest token needs a row of its own; what does not fit counts as rejected.
                proposal.tokens.truncate(budget - 1);
                tokens.extend(proposal.tokens.iter().map(|drafted| drafted.token_id));
                run(tokens, WorkKind::Verify(proposal))
            }
        }
    }

    /// The newest row on its way, which found no exit so far: with it, or before it, go the rows
    /// that left the model earlier and lack the next band.
    fn deeper(&self, kv: &KvCache, budget: usize) -> Work {
        let bands = kv.layout().band_ends.len();
        let lacks = |band: &usize| kv.len(self.sequence, *band) < self.history.len();
        let band = (0..bands).find(lacks).unwrap_or(bands - 1);
        let held = kv.len(self.sequence, band);
        let lacking = self.history.len() - held;
        let (bands, kind) = match lacking <= budget {
            true => (band..bands, WorkKind::Plain(Some(PlainReason::Off))),
            false => (band..band + 1, WorkKind::LateFill),
        };
        let rows = lacking.min(budget);
        Work {
            tokens: Vec::new(),
            bands,
            end: held + rows,
            rows,
            kind,
        }
    }

    /// What the rows of `work` are in a step.
    pub(super) fn passenger<'a>(&'a self, work: &'a Work) -> Passenger<'a> {
        let rule = self.early_exit.as_ref().map(EarlyExit::rule);
        Passenger {
            sequence: self.sequence,
            tokens: &work.tokens,
            bands: work.bands.clone(),
            end: work.end,
            reads: work.logits_rows(),
            choices: (0..work.logits_rows())
                .map(|row| self.plain_choice(row))
                .collect(),
            rule,
            // The end of a prompt goes through the whole model with the rest of it.
            leaves: rule.is_some() && matches!(work.kind, WorkKind::Plain(Some(_))),
        }
    }

    /// How row `row` of those that are read next gives its token, where that takes no logits.
    fn plain_choice(&self, row: usize) -> Option<Choice> {
        let choice = self.sampler.plain_choice(&self.history, row);
        choice.filter(|_| self.request.logprobs.is_none())
    }

    /// Counts which layers were computed, while the cache still knows, and what came after the
    /// last round.
    pub(super) fn settle(&mut self, kv: &KvCache) {
        self.count();
        let first = self.request.prompt.len() + self.request.resumed.len() - 1;
        if let Some(early_exit) = &mut self.early_exit {
            early_exit.settle(kv, self.sequence, first);
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
            WorkKind::Prefill | WorkKind::LateFill => return Ok(Outcome::default()),
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
            let read = &pass.rows[row];
            let sampler = &self.sampler;
            let choice = sampler.choose_of(read.reading, &self.history, scratch);
            let identity = self.request.call.identity();
            let fault = |error| identity.in_log(|| Error::internal("choosing a token", error));
            let token = choice.map_err(fault)?;
            end = self.take(token, read)?;
            Ok::<_, Error>(Some(token))
        })?;
        let exit = pass.rows.first().and_then(|row| row.exit);
        if let Some(early) = &mut self.early_exit {
            early.left(exit);
        }
        let outcome = Outcome {
            exit,
            accepted: draft.map(|_| accepted.accepted),
            committed: accepted.committed,
            end,
        };
        kv.truncate(self.sequence, self.history.len() - 1);
        self.account(work, &outcome, pass.seconds);
        Ok(outcome)
    }

    /// A step was a part of the way to the next token.
    pub(super) fn went_on(&mut self, seconds: Duration) {
        self.verify_time += seconds;
    }

    /// Takes one chosen token; says whether it ends the generation.
    fn take(&mut self, token: u32, read: &ReadRow<'_>) -> Result<Option<End>> {
        let top = self.request.logprobs;
        let logprobs = top
            .map(|top| token_logprobs(read.logits()?, token, top))
            .transpose()?;
        self.history.push(token);
        let stop = self.output.push(token, logprobs)?.map(End::Stop);
        Ok(stop.or_else(|| (self.remaining() == 0).then_some(End::Length)))
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
    ) -> (Option<v1::VerifierMessage>, News) {
        let message = self
            .session
            .committed(&outcome.committed, outcome.accepted, hints);
        (message, self.count())
    }

    /// Counts what is new, over all generations, and returns it.
    fn count(&mut self) -> News {
        let news = self.session.take_news();
        self.request.call.round(&news);
        news
    }

    pub(super) fn emit(&self, event: Event) {
        self.request.call.told(&event);
        self.request.events.send(event);
    }
}

/// What a session without drafts holds.
fn undrafted() -> v1::Open {
    v1::Open {
        speculation: Some(v1::Speculation {
            mode: v1::SpeculationMode::Off.into(),
            ..v1::Speculation::default()
        }),
        ..v1::Open::default()
    }
}
