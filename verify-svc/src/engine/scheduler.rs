//! The loop of the engine: takes whatever is runnable, runs it in one pass, never waits for a
//! single sequence.

use super::{
    Command, EngineHandle, EngineParts, GenerationKey, LinkKey,
    cost::StepCost,
    generation::{End, Generation, Link, PassResult, Turn, Work, WorkKind},
    request::{Event, GenerateRequest, ScoreRequest},
    scoring::Scoring,
};
use crate::{Error, Result, drafters::LinkEvent, session::RoundHints};
use dssd_common::{model::Span, sampling::Scratch, tokenizer::TextStream};
use dssd_proto::v1;
use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// The least time that a draft is given: below it the scheduling of threads decides, not work.
const LEAST_DRAFT_BUDGET: Duration = Duration::from_millis(20);
/// Time that a proposal may be on its way beyond its drafting.
const WIRE_ALLOWANCE: Duration = Duration::from_millis(10);

/// One row in so many is kept for scoring, while there is any.
const SCORING_PART: usize = 4;

/// When the loop goes on.
enum Wake {
    Now,
    At(Duration),
    OnCommand,
}

pub(super) struct Scheduler {
    parts: EngineParts,
    handle: EngineHandle,
    generations: Vec<Generation>,
    scorings: Vec<Scoring>,
    cost: StepCost,
    started: Instant,
    next_key: u64,
    /// Which generation is served first in the next step.
    first: usize,
    draining: bool,
    hidden: Vec<f32>,
    logits: Vec<f32>,
    scratch: Scratch,
}

/// One step: rows of some generations, and of at most one request to score.
#[derive(Default)]
struct Batch {
    work: Vec<(usize, Work)>,
    scoring: Vec<u32>,
}

impl Batch {
    fn rows(&self) -> usize {
        self.work
            .iter()
            .map(|(_, work)| work.tokens.len())
            .sum::<usize>()
            + self.scoring.len()
    }
}

impl Scheduler {
    pub(super) fn new(parts: EngineParts, handle: EngineHandle) -> Self {
        Self {
            parts,
            handle,
            generations: Vec::new(),
            scorings: Vec::new(),
            cost: StepCost::new(),
            started: Instant::now(),
            next_key: 0,
            first: 0,
            draining: false,
            hidden: Vec::new(),
            logits: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Command>) {
        let mut wake = Wake::OnCommand;
        while self.receive(inbox, &wake) {
            self.expire();
            wake = self.step();
            if self.draining && self.generations.is_empty() && self.scorings.is_empty() {
                break;
            }
        }
        for generation in self.generations.drain(..) {
            generation.emit(Event::Failed(Error::Draining));
        }
        for scoring in self.scorings.drain(..) {
            scoring.finish(Err(Error::Draining));
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes all commands that are there, after waiting as `wake` says; false to end.
    fn receive(&mut self, inbox: &Receiver<Command>, wake: &Wake) -> bool {
        let first = match wake {
            Wake::Now => None,
            Wake::OnCommand => match inbox.recv() {
                Ok(command) => Some(command),
                Err(_) => return false,
            },
            Wake::At(until) => match inbox.recv_timeout(until.saturating_sub(self.now())) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return false,
            },
        };
        first
            .into_iter()
            .chain(inbox.try_iter())
            .all(|command| self.handle_command(command))
    }

    fn handle_command(&mut self, command: Command) -> bool {
        match command {
            Command::Shutdown => return false,
            Command::Drain => self.draining = true,
            Command::Generate(request, reply) => {
                let admitted = self.admit(*request);
                // If the caller is gone, so is the receiver of its events, and the generation ends.
                _ = reply.send(admitted);
            }
            Command::Score(request) => self.admit_scoring(request),
            Command::Abort(request_id) => {
                let found = self
                    .generations
                    .iter()
                    .position(|g| g.request.request_id == request_id);
                if let Some(index) = found {
                    self.remove(index).finish(End::Aborted);
                }
            }
            Command::Link { link, event } => self.on_link(link, event),
            Command::Load(reply) => _ = reply.send(self.load()),
        }
        true
    }

    fn admit(&mut self, request: GenerateRequest) -> Result<()> {
        // What was cancelled just now holds neither its name nor its place any more.
        self.expire();
        if self
            .generations
            .iter()
            .any(|g| g.request.request_id == request.request_id)
        {
            return Err(Error::RequestIdInUse(request.request_id));
        }
        self.check_room()?;
        let key = GenerationKey(self.next_key);
        self.next_key += 1;
        let vocabulary = self.parts.decoder.vocabulary();
        let text = self
            .parts
            .tokenizer
            .as_ref()
            .map(|tokenizer| TextStream::after(Arc::clone(tokenizer), &request.prompt))
            .transpose()?;
        let sequence = self.parts.kv.open(Generation::capacity(&request))?;
        match Generation::new(key, request, sequence, vocabulary, text) {
            Ok((generation, None)) => self.generations.push(generation),
            Ok((mut generation, Some(end))) => {
                self.parts.kv.close(sequence);
                generation.finish(end);
                return Ok(());
            }
            Err(error) => {
                self.parts.kv.close(sequence);
                return Err(error);
            }
        }
        self.attach(self.generations.len() - 1);
        Ok(())
    }

    fn admit_scoring(&mut self, request: ScoreRequest) {
        self.expire();
        let opened = self
            .check_room()
            .and_then(|()| Ok(self.parts.kv.open(request.tokens.len())?));
        match opened {
            Ok(sequence) => self.scorings.push(Scoring::new(request, sequence)),
            Err(error) => _ = request.reply.send(Err(error)),
        }
    }

    fn check_room(&self) -> Result<()> {
        if self.draining {
            return Err(Error::Draining);
        }
        let running = self.generations.len() + self.scorings.len();
        if running < self.parts.limits.max_sequences {
            return Ok(());
        }
        Err(Error::NoRoom(format!(
            "{running} sequences are running, the most that this server takes"
        )))
    }

    /// Asks for a drafter, if this generation may have one.
    fn attach(&mut self, index: usize) {
        let Self {
            parts,
            generations,
            handle,
            ..
        } = self;
        let generation = &mut generations[index];
        let Some(drafters) = parts
            .drafters
            .as_ref()
            .filter(|_| generation.request.draft.is_some())
        else {
            return;
        };
        generation.attempts += 1;
        let key = LinkKey {
            generation: generation.key,
            attempt: generation.attempts,
        };
        let end = CancellationToken::new();
        drafters.attach(handle.clone(), key, end.clone());
        generation.link = Some(Link::new(key, end));
    }

    fn on_link(&mut self, key: LinkKey, event: LinkEvent) {
        let current = |g: &Generation| g.link.as_ref().is_some_and(|link| link.key == key);
        let Some(index) = self.generations.iter().position(current) else {
            return;
        };
        let now = self.now();
        let generation = &mut self.generations[index];
        match event {
            LinkEvent::Attached { address, sender } => {
                if let Some(link) = &mut generation.link {
                    link.address = Some(address);
                    link.sender = Some(sender);
                    link.since = Some(Instant::now());
                }
                let open = generation.session.attach();
                self.send(index, open);
            }
            LinkEvent::Message(message) => match generation.session.on_message(message, now) {
                Ok(answer) => {
                    if let Some(link) = generation
                        .link
                        .as_mut()
                        .filter(|_| generation.session.is_ready())
                    {
                        link.since = None;
                    }
                    if let Some(message) = answer {
                        self.send(index, message);
                    }
                }
                Err(nonsense) => {
                    self.exclude(index, &nonsense.to_string());
                    self.attach(index);
                }
            },
            LinkEvent::Lost => {
                generation.session.on_lost();
                self.attach(index);
            }
            LinkEvent::Refused => {
                generation.session.on_lost();
                generation.link = None;
            }
        }
    }

    /// Leaves the drafter of a generation out for a while.
    fn exclude(&self, index: usize, reason: &str) {
        let link = self.generations[index].link.as_ref();
        if let (Some(drafters), Some(address)) =
            (&self.parts.drafters, link.and_then(|link| link.address))
        {
            drafters.exclude(address, reason);
        }
    }

    /// Sends a message to the drafter; one that takes none is lost.
    fn send(&mut self, index: usize, message: v1::VerifierMessage) {
        let generation = &mut self.generations[index];
        let Some(sender) = generation
            .link
            .as_ref()
            .and_then(|link| link.sender.as_ref())
        else {
            return;
        };
        if sender.try_send(message).is_err() {
            generation.session.on_lost();
            self.attach(index);
        }
    }

    fn load(&self) -> v1::GetLoadResponse {
        let usage = self.parts.kv.usage();
        let step = self
            .cost
            .expect(self.generations.len().max(1))
            .unwrap_or(0.0);
        v1::GetLoadResponse {
            running: (self.generations.len() + self.scorings.len()) as u32,
            waiting: 0,
            free_kv_blocks: usage.free_blocks() as u32,
            kv_blocks: usage.total_blocks as u32,
            step_us: (step * 1e6) as u64,
        }
    }

    /// Ends what nobody waits for any more.
    fn expire(&mut self) {
        let now = Instant::now();
        let expired = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        for index in (0..self.generations.len()).rev() {
            let request = &self.generations[index].request;
            if request.events.is_closed() {
                self.remove(index);
            } else if expired(request.deadline) {
                self.remove(index)
                    .emit(Event::Failed(Error::DeadlineExceeded));
            } else if self.generations[index].waits_for_ready(now) {
                self.exclude(index, "is not ready to draft in time");
                self.generations[index].session.on_lost();
                self.attach(index);
            }
        }
        for index in (0..self.scorings.len()).rev() {
            let request = &self.scorings[index].request;
            if request.reply.is_closed() || expired(request.deadline) {
                self.finish_scoring(index, Err(Error::DeadlineExceeded));
            }
        }
    }

    fn remove(&mut self, index: usize) -> Generation {
        let generation = self.generations.remove(index);
        self.parts.kv.close(generation.sequence);
        generation
    }

    fn finish_scoring(&mut self, index: usize, outcome: Result<()>) {
        let scoring = self.scorings.remove(index);
        self.parts.kv.close(scoring.sequence);
        scoring.finish(outcome);
    }

    /// Runs one pass over whatever is runnable.
    fn step(&mut self) -> Wake {
        let (batch, wait) = self.plan();
        if batch.rows() == 0 {
            return wait.map_or(Wake::OnCommand, Wake::At);
        }
        match self.pass(&batch) {
            Ok(seconds) => self.deliver(batch, seconds),
            Err(error) => self.fail(&batch, &error),
        }
        Wake::Now
    }

    /// What runs now, and when the first of those that wait is to be looked at again.
    fn plan(&mut self) -> (Batch, Option<Duration>) {
        let now = self.now();
        let most = self.parts.limits.max_step_rows;
        // Scoring gets a part of every step, so that no load of generations can starve it.
        let kept = if self.scorings.is_empty() {
            0
        } else {
            most / SCORING_PART
        };
        let mut budget = most - kept;
        let mut batch = Batch::default();
        let mut wait: Option<Duration> = None;
        let count = self.generations.len();
        self.first = (self.first + 1) % count.max(1);
        for index in (0..count).map(|i| (self.first + i) % count) {
            if budget == 0 {
                break;
            }
            match self.generations[index].turn(&self.parts.kv, budget, now) {
                Turn::Run(work) => {
                    budget -= work.tokens.len();
                    batch.work.push((index, work));
                }
                Turn::Wait(until) => {
                    wait = Some(wait.map_or(until, |earliest| earliest.min(until)))
                }
            }
        }
        if let Some(scoring) = self.scorings.first() {
            batch.scoring = scoring.rows(&self.parts.kv, budget + kept).to_vec();
        }
        (batch, wait)
    }

    /// Computes a batch; afterwards `self.logits` are those of the rows that need them, in order.
    fn pass(&mut self, batch: &Batch) -> Result<Duration> {
        let Self {
            parts,
            generations,
            scorings,
            hidden,
            logits,
            ..
        } = self;
        let begun = Instant::now();
        let mut spans: Vec<Span<'_>> = Vec::with_capacity(batch.work.len() + 1);
        let mut needed = Vec::with_capacity(batch.work.len() + 1);
        for (index, work) in &batch.work {
            let sequence = generations[*index].sequence;
            let end = parts.kv.len(sequence, 0) + work.tokens.len();
            spans.push(Span {
                sequence,
                end,
                tokens: &work.tokens,
            });
            needed.push(work.logits_rows());
        }
        if let Some(scoring) = scorings.first().filter(|_| !batch.scoring.is_empty()) {
            let end = parts.kv.len(scoring.sequence, 0) + batch.scoring.len();
            spans.push(Span {
                sequence: scoring.sequence,
                end,
                tokens: &batch.scoring,
            });
            needed.push(batch.scoring.len());
        }
        let width = parts.decoder.config().hidden;
        let states = parts.decoder.advance(&mut parts.kv, 0, &spans)?;
        hidden.clear();
        let mut row = 0;
        for (span, needed) in spans.iter().zip(needed) {
            row += span.tokens.len();
            hidden.extend_from_slice(&states[(row - needed) * width..row * width]);
        }
        parts.decoder.logits(hidden, logits);
        let seconds = begun.elapsed();
        self.cost.observe(batch.rows(), seconds.as_secs_f64());
        Ok(seconds)
    }

    /// Gives every generation of a batch its logits, commits, and removes those that are done.
    fn deliver(&mut self, batch: Batch, seconds: Duration) {
        let vocabulary = self.parts.decoder.vocabulary();
        let logits = std::mem::take(&mut self.logits);
        let mut rest = logits.as_slice();
        let mut ended = Vec::new();
        for (index, work) in &batch.work {
            let (own, others) = rest.split_at(work.logits_rows() * vocabulary);
            rest = others;
            let pass = PassResult {
                logits: own,
                vocabulary,
                seconds,
            };
            if let Some(end) = self.deliver_one(*index, work, &pass) {
                ended.push((*index, end));
            }
        }
        if !batch.scoring.is_empty() {
            self.deliver_scores(&batch.scoring, rest, vocabulary);
        }
        self.logits = logits;
        ended.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, end) in ended {
            let mut generation = self.remove(index);
            match end {
                Ok(end) => generation.finish(end),
                Err(error) => generation.emit(Event::Failed(error)),
            }
        }
    }

    fn deliver_one(
        &mut self,
        index: usize,
        work: &Work,
        pass: &PassResult<'_>,
    ) -> Option<Result<End>> {
        if matches!(work.kind, WorkKind::Prefill) {
            return None;
        }
        let Self {
            parts,
            generations,
            scratch,
            ..
        } = self;
        let generation = &mut generations[index];
        let outcome = match generation.finish_pass(work, pass, &mut parts.kv, scratch) {
            Ok(outcome) => outcome,
            Err(error) => return Some(Err(error)),
        };
        let hints = self.hints(index);
        let generation = &mut self.generations[index];
        let message = generation.commit(&outcome, &hints);
        if outcome.end.is_some() {
            return outcome.end.map(Ok);
        }
        // The drafter first: it can work while the tokens go out.
        if let Some(message) = message {
            self.send(index, message);
        }
        self.generations[index].flush();
        None
    }

    fn hints(&self, index: usize) -> RoundHints {
        let generation = &self.generations[index];
        let Some(draft) = generation
            .request
            .draft
            .as_ref()
            .filter(|_| generation.session.is_attached())
        else {
            return RoundHints {
                remaining: generation.remaining(),
                ..RoundHints::default()
            };
        };
        let longest = draft.max_draft_tokens;
        let rows = self.generations.len();
        let plain = Duration::from_secs_f64(self.cost.expect(rows).unwrap_or(0.0));
        // A draft that takes longer than the tokens it could save is not worth waiting for.
        let budget = (plain * (longest as u32 + 1)).max(LEAST_DRAFT_BUDGET);
        RoundHints {
            now: self.now(),
            remaining: generation.remaining(),
            max_draft_tokens: longest as u32,
            draft_budget: budget,
            wait_budget: budget + WIRE_ALLOWANCE,
            verify_cost_us: self.cost.table_us(rows, longest),
        }
    }

    fn deliver_scores(&mut self, rows: &[u32], logits: &[f32], vocabulary: usize) {
        let Some(scoring) = self.scorings.first_mut() else {
            return;
        };
        let start = self.parts.kv.len(scoring.sequence, 0) - rows.len();
        match scoring.take(start, logits, vocabulary) {
            Ok(false) => {}
            Ok(true) => self.finish_scoring(0, Ok(())),
            Err(error) => self.finish_scoring(0, Err(error)),
        }
    }

    /// A pass that could not be run ends everything that was in it.
    fn fail(&mut self, batch: &Batch, error: &Error) {
        let text = error.to_string();
        tracing::error!(error = %text, "a pass failed");
        let mut indices: Vec<usize> = batch.work.iter().map(|(index, _)| *index).collect();
        indices.sort_unstable_by(|a, b| b.cmp(a));
        for index in indices {
            self.remove(index)
                .emit(Event::Failed(Error::internal("the model pass", &text)));
        }
        if !batch.scoring.is_empty() {
            self.finish_scoring(0, Err(Error::internal("the model pass", &text)));
        }
    }
}
