//! The loop of the engine. Each step takes one band and every sequence that waits for it.

use super::{
    Command, EngineParts, Outbox, StreamKey,
    sequence::{Drafting, Sequence, Want},
};
use crate::{Error, Result, session::DraftSession};
use dssd_common::{
    entropy::Summary,
    model::Span,
    policy::{Decision, ExitView},
    sampling::Scratch,
};
use dssd_proto::v1::{DraftStopReason, DraftedToken, DrafterLoad, DrafterMessage, VerifierMessage};
use std::{
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};
use tonic::Status;

/// Weight of the newest step in the mean that is reported.
const NEWEST: f64 = 0.1;

pub(super) struct Scheduler {
    parts: EngineParts,
    sequences: Vec<Sequence>,
    started: Instant,
    step_seconds: f64,
    hidden: Vec<f32>,
    logits: Vec<f32>,
    summaries: Vec<Summary>,
    scratch: Scratch,
}

impl Scheduler {
    pub(super) fn new(parts: EngineParts) -> Self {
        Self {
            parts,
            sequences: Vec::new(),
            started: Instant::now(),
            step_seconds: 0.0,
            hidden: Vec::new(),
            logits: Vec::new(),
            summaries: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Command>) {
        let mut busy = false;
        loop {
            let first = if busy { None } else { inbox.recv().ok() };
            if !busy && first.is_none() {
                break;
            }
            if !first
                .into_iter()
                .chain(inbox.try_iter())
                .all(|command| self.handle(command))
            {
                break;
            }
            busy = self.step();
        }
        for index in (0..self.sequences.len()).rev() {
            self.end(index, Error::Draining.into());
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn load(&self) -> DrafterLoad {
        DrafterLoad {
            sequences: self.sequences.len() as u32,
            free_kv_blocks: self.parts.kv.usage().free_blocks() as u32,
            step_us: (self.step_seconds * 1e6) as u64,
        }
    }

    fn handle(&mut self, command: Command) -> bool {
        match command {
            Command::Shutdown => return false,
            Command::Open(key, outbox) => self.open(key, outbox),
            Command::Message(key, message) => {
                if let Some(index) = self.find(key) {
                    self.on_message(index, *message);
                }
            }
            Command::Close(key) => {
                if let Some(index) = self.find(key) {
                    self.remove(index);
                }
            }
            Command::Load(reply) => _ = reply.send(self.load()),
        }
        true
    }

    fn find(&self, key: StreamKey) -> Option<usize> {
        self.sequences
            .iter()
            .position(|sequence| sequence.key == key)
    }

    fn open(&mut self, key: StreamKey, outbox: Outbox) {
        if self.sequences.len() >= self.parts.max_sequences {
            let reason = format!(
                "{} streams are open, the most that this drafter takes",
                self.sequences.len()
            );
            // A verifier that is gone needs no answer.
            _ = outbox.try_send(Err(Error::NoRoom(reason).into()));
            return;
        }
        let session = DraftSession::new(self.parts.profile.clone());
        self.sequences.push(Sequence::new(key, outbox, session));
    }

    fn on_message(&mut self, index: usize, message: VerifierMessage) {
        let (now, load) = (self.now(), self.load());
        let sequence = &mut self.sequences[index];
        sequence.waiting_since = now;
        sequence.depth = 0;
        match sequence.session.on_message(message, now, load) {
            Ok(answer) => match self.follow(index) {
                Ok(()) => self.send(index, answer),
                Err(error) => self.end(index, error.into()),
            },
            Err(refusal) => self.end(index, Error::Refused(refusal).into()),
        }
    }

    /// Brings history and cache of a sequence to what its session holds.
    fn follow(&mut self, index: usize) -> Result<()> {
        let Self {
            parts, sequences, ..
        } = self;
        let Sequence {
            session, drafting, ..
        } = &mut sequences[index];
        let Some(settings) = session.settings() else {
            return Ok(());
        };
        let drafting = match drafting {
            Some(drafting) => drafting,
            None => drafting.insert(Drafting::open(settings, session.tokens(), parts)?),
        };
        let plan = session.plan();
        // The last token of a draft gets no keys and values, nor does the newest committed one.
        let wanted = plan.goal.map_or(0, |goal| goal.max_draft_tokens as usize);
        drafting.check_room(&parts.kv, session.tokens().len() + wanted)?;
        drafting.follow(session.tokens());
        parts.kv.truncate(drafting.id, plan.truncate_to);
        Ok(())
    }

    fn send(&mut self, index: usize, message: Option<DrafterMessage>) {
        let Some(message) = message else { return };
        // A verifier that does not read its messages, or is gone, is done with.
        if self.sequences[index].outbox.try_send(Ok(message)).is_err() {
            self.remove(index);
        }
    }

    fn end(&mut self, index: usize, status: Status) {
        _ = self.sequences[index].outbox.try_send(Err(status));
        self.remove(index);
    }

    fn remove(&mut self, index: usize) {
        let sequence = self.sequences.swap_remove(index);
        if let Some(drafting) = sequence.drafting {
            self.parts.kv.close(drafting.id);
        }
    }

    /// Runs the band of the sequence that has waited longest, for every sequence that waits for
    /// that band; false if there is nothing to do.
    fn step(&mut self) -> bool {
        self.stop_drafts();
        let batch = self.plan();
        if batch.is_empty() {
            return false;
        }
        let begun = Instant::now();
        if let Err(error) = self.pass(&batch) {
            tracing::error!(%error, "a pass failed");
            let mut keys: Vec<StreamKey> = batch
                .iter()
                .map(|(index, _)| self.sequences[*index].key)
                .collect();
            for key in keys.drain(..) {
                if let Some(index) = self.find(key) {
                    self.end(index, Status::internal(error.to_string()));
                }
            }
        }
        self.step_seconds += NEWEST * (begun.elapsed().as_secs_f64() - self.step_seconds);
        true
    }

    /// Ends drafts that must end before another row runs.
    fn stop_drafts(&mut self) {
        let now = self.now();
        let exits = self.parts.decoder.band_ends().len();
        for index in (0..self.sequences.len()).rev() {
            let sequence = &self.sequences[index];
            // Beyond the deepest exit there is no confidence to be had.
            let exhausted = (sequence.depth >= exits).then_some(DraftStopReason::Entropy);
            if let Some(reason) = exhausted.or_else(|| sequence.session.must_stop(now)) {
                self.finish_draft(index, reason);
            }
        }
    }

    fn finish_draft(&mut self, index: usize, reason: DraftStopReason) {
        let (now, load) = (self.now(), self.load());
        let sequence = &mut self.sequences[index];
        sequence.depth = 0;
        let proposal = sequence.session.finished(reason, now, load);
        self.send(index, proposal);
    }

    fn plan(&self) -> Vec<(usize, Want)> {
        let mut budget = self.parts.max_step_rows;
        let mut order: Vec<usize> = (0..self.sequences.len()).collect();
        order.sort_by_key(|&index| self.sequences[index].waiting_since);
        let mut batch: Vec<(usize, Want)> = Vec::new();
        for index in order {
            if budget == 0 {
                break;
            }
            let Some(want) = self.sequences[index].want(&self.parts.kv, budget) else {
                continue;
            };
            if batch
                .first()
                .is_none_or(|(_, first)| first.band == want.band)
            {
                let id = self.sequences[index]
                    .drafting
                    .as_ref()
                    .map(|drafting| drafting.id);
                let start = id.map_or(want.end, |id| self.parts.kv.len(id, want.band));
                budget = budget.saturating_sub(want.end - start);
                batch.push((index, want));
            }
        }
        batch
    }

    /// Runs a batch through its band, reads the exits that the policies ask for, and lets them decide.
    fn pass(&mut self, batch: &[(usize, Want)]) -> Result<()> {
        let Some(band) = batch.first().map(|(_, want)| want.band) else {
            return Ok(());
        };
        let Self {
            parts,
            sequences,
            hidden,
            logits,
            summaries,
            ..
        } = self;
        let rows_of = |parts: &EngineParts, index: usize, want: &Want| {
            let id = sequences[index]
                .drafting
                .as_ref()
                .map(|drafting| drafting.id);
            id.map(|id| (id, want.end - parts.kv.len(id, band)))
        };
        let placed: Vec<_> = batch
            .iter()
            .filter_map(|(index, want)| {
                rows_of(parts, *index, want).map(|(id, rows)| (*index, id, rows, want))
            })
            .collect();
        let spans: Vec<Span<'_>> = placed
            .iter()
            .map(|(_, id, _, want)| Span {
                sequence: *id,
                end: want.end,
                tokens: &want.tokens,
            })
            .collect();
        let width = parts.decoder.config().hidden;
        let states = parts.decoder.advance(&mut parts.kv, band, &spans)?;
        hidden.clear();
        let mut row = 0;
        let mut readers = Vec::new();
        for (index, _, rows, want) in &placed {
            row += rows;
            let policy = sequences[*index]
                .drafting
                .as_ref()
                .and_then(|drafting| drafting.policy.as_ref());
            if want.decides && policy.is_some_and(|policy| policy.reads(band)) {
                hidden.extend_from_slice(&states[(row - 1) * width..row * width]);
                readers.push(sequences[*index].key);
            }
        }
        let layer = parts.decoder.band_ends()[band];
        let vocabulary = parts.decoder.vocabulary();
        parts.decoder.exit_logits(layer, hidden, logits);
        parts
            .decoder
            .kernels()
            .summarize(logits, vocabulary, summaries);
        let advanced: Vec<(StreamKey, usize, bool)> = placed
            .iter()
            .map(|(index, _, rows, want)| (sequences[*index].key, *rows, want.decides))
            .collect();
        self.deliver(band, &advanced, &readers);
        Ok(())
    }

    fn deliver(
        &mut self,
        band: usize,
        advanced: &[(StreamKey, usize, bool)],
        readers: &[StreamKey],
    ) {
        let (now, load) = (self.now(), self.load());
        for (key, rows, decides) in advanced {
            let Some(index) = self.find(*key) else {
                continue;
            };
            let sequence = &mut self.sequences[index];
            let ready = if band == 0 {
                sequence.session.fed(*rows, load)
            } else {
                None
            };
            let read = readers.iter().position(|reader| reader == key);
            if *decides && read.is_none() {
                sequence.depth = band + 1;
            }
            if !*decides {
                // A long prompt takes its turns with the drafts of others.
                sequence.waiting_since = now;
            }
            self.send(index, ready);
            if let Some(row) = read {
                self.decide(*key, band, row);
            }
        }
    }

    /// Lets the policy of a stream decide on row `row` of the exits that were read.
    fn decide(&mut self, key: StreamKey, band: usize, row: usize) {
        let Some(index) = self.find(key) else {
            return;
        };
        let now = self.now();
        let Self {
            parts,
            sequences,
            logits,
            summaries,
            scratch,
            ..
        } = self;
        let sequence = &mut sequences[index];
        let Some(drafting) = &mut sequence.drafting else {
            return;
        };
        let Some(policy) = &mut drafting.policy else {
            return;
        };
        let deepest = band + 1 == parts.decoder.band_ends().len();
        let summary = &summaries[row];
        match policy.decide(ExitView {
            head: band,
            deepest,
            summary,
        }) {
            Decision::Stop => self.finish_draft(index, DraftStopReason::Entropy),
            Decision::Deeper => sequence.depth = band + 1,
            Decision::Emit => {
                let vocabulary = parts.decoder.vocabulary();
                let logits = &logits[row * vocabulary..(row + 1) * vocabulary];
                let choice = drafting.sampler.choose(logits, &drafting.history, scratch);
                // Where nothing may be chosen (every token masked, say) there is nothing to propose.
                let Ok(token_id) = choice else {
                    self.finish_draft(index, DraftStopReason::Entropy);
                    return;
                };
                drafting.history.push(token_id);
                let entropy = summary.entropy;
                let most = policy.max_draft_tokens();
                let drafted = drafting.history.len();
                sequence.session.drafted(DraftedToken {
                    token_id,
                    exit_head: band as u32,
                    entropy,
                });
                sequence.depth = 0;
                sequence.waiting_since = now;
                let base = sequence
                    .session
                    .plan()
                    .goal
                    .map_or(0, |goal| goal.base_position);
                if drafted - base >= most {
                    let reason = sequence
                        .session
                        .must_stop(now)
                        .unwrap_or(DraftStopReason::MaxDraft);
                    self.finish_draft(index, reason);
                }
            }
        }
    }
}
