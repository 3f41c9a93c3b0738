//! One step: whatever is runnable, in one pass.

use super::{Scheduler, Wake, plan::Batch};
use crate::{
    Error, Result,
    engine::{
        events::Event,
        pass::{Passage, ReadRow},
        work::{End, PassResult, Work, WorkKind},
    },
    session::RoundHints,
};
use std::time::{Duration, Instant};

/// The least time that a draft is given: below it the scheduling of threads decides, not work.
const LEAST_DRAFT_BUDGET: Duration = Duration::from_millis(20);
/// Time that a proposal may be on its way beyond its drafting.
const WIRE_ALLOWANCE: Duration = Duration::from_millis(10);

impl Scheduler {
    /// Runs one pass over whatever is runnable.
    pub(super) fn step(&mut self) -> Wake {
        self.crowd.observe(self.generations.len(), self.now());
        let (batch, wait) = self.plan();
        if batch.rows() == 0 {
            return wait.map_or(Wake::OnCommand, Wake::At);
        }
        match self.pass(&batch) {
            Ok((passages, begun, seconds)) => self.deliver(&batch, &passages, (begun, seconds)),
            Err(error) if error.is_of_device() => {
                tracing::error!(%error, "the engine ends");
                self.broken = true;
            }
            Err(error) => self.fail(&batch, &error),
        }
        Wake::Now
    }

    /// Computes a batch. Returns what became of the rows of each work, and last of those scored;
    /// and when that was, and how long it took.
    fn pass(&mut self, batch: &Batch) -> Result<(Vec<Passage>, Instant, Duration)> {
        let Self {
            parts,
            generations,
            scorings,
            pass,
            ..
        } = self;
        let begun = Instant::now();
        let works = batch.work.iter();
        let mut passengers: Vec<_> = works
            .map(|(index, work)| generations[*index].passenger(work))
            .collect();
        if let Some(scoring) = scorings.first().filter(|_| !batch.scoring.is_empty()) {
            passengers.push(scoring.passenger(&parts.kv, &batch.scoring));
        }
        let most = parts.limits.max_step_rows;
        let passages = pass.run(&mut parts.decoder, &mut parts.kv, &passengers, most)?;
        let seconds = begun.elapsed();
        parts
            .metrics
            .step(batch.rows(), batch.verified_rows(), seconds);
        parts.metrics.copied_rows(parts.decoder.copied_rows());
        if pass.is_complete() {
            self.cost.observe(batch.rows(), seconds.as_secs_f64());
        }
        Ok((passages, begun, seconds))
    }

    /// Gives every generation of a batch its logits, commits, and removes those that are done.
    fn deliver(
        &mut self,
        batch: &Batch,
        passages: &[Passage],
        (begun, seconds): (Instant, Duration),
    ) {
        let vocabulary = self.parts.decoder.vocabulary();
        let pass = std::mem::take(&mut self.pass);
        let mut ended = Vec::new();
        for ((index, work), passage) in batch.work.iter().zip(passages) {
            let result = PassResult {
                rows: pass.rows(passage, vocabulary),
                stopped: passage.stopped,
                begun,
                seconds,
            };
            if let Some(end) = self.deliver_one(*index, work, &result) {
                ended.push((*index, end));
            }
        }
        if let Some(passage) = passages.get(batch.work.len()) {
            self.deliver_scores(&pass.rows(passage, vocabulary));
        }
        self.pass = pass;
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
        let call = &self.generations[index].request.call;
        call.passed(pass.begun, pass.seconds);
        match work.kind {
            WorkKind::Prefill => {
                self.generations[index].publish(&mut self.parts.kv);
                return None;
            }
            WorkKind::LateFill => {
                self.generations[index].went_on(pass.seconds);
                return None;
            }
            WorkKind::Plain(_) if pass.stopped => {
                self.generations[index].went_on(pass.seconds);
                return None;
            }
            WorkKind::Plain(_) | WorkKind::Verify(_) => {}
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
        generation.publish(&mut parts.kv);
        if outcome.accepted.is_some_and(|accepted| accepted > 0) {
            self.praise(index);
        }
        let room = self.draft_room(index);
        if outcome.end.is_none() {
            self.seek_drafter_late(index, room > 0);
        }
        let hints = self.hints(index, room);
        let generation = &mut self.generations[index];
        let (message, news) = generation.commit(&outcome, &hints);
        if generation.is_adaptive() {
            let committed = outcome.committed.len();
            self.rest.learn(generation.key, &news, committed);
        }
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

    /// What a session is told of the next round, which has room for a draft of `longest` tokens.
    fn hints(&self, index: usize, longest: usize) -> RoundHints {
        let generation = &self.generations[index];
        if longest == 0 || !generation.session.is_attached() {
            return RoundHints {
                remaining: generation.remaining(),
                ..RoundHints::default()
            };
        }
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

    fn deliver_scores(&mut self, rows: &[ReadRow<'_>]) {
        let Some(scoring) = self.scorings.first_mut() else {
            return;
        };
        let start = self.parts.kv.len(scoring.sequence, 0) - rows.len();
        match scoring.take(start, rows) {
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
            let generation = self.remove(index);
            let identity = generation.request.call.identity();
            let error = identity.in_log(|| Error::internal("the model pass", &text));
            generation.emit(Event::Failed(error));
        }
        if !batch.scoring.is_empty() {
            self.finish_scoring(0, Err(Error::internal("the model pass", &text)));
        }
    }
}
