//! Work ahead: drafting on while the verifier runs, and taking from it what is asked for.

use super::{
    Scheduler,
    drafts::{Emitted, stop_reason},
};
use crate::engine::{
    StreamKey,
    foresight::{Foresight, Position, Reading},
};
use dssd_common::{
    policy::{Decision, ExitView},
    serve::WorkAhead,
};
use dssd_proto::v1::DraftStopReason;

/// The verifier's own token behind a draft, as the drafter guesses it.
pub(super) enum Guess {
    /// Its exit was not read yet.
    Unread,
    /// What the exit in this row of the last pass chooses.
    Row(usize),
    /// Chosen; none where nothing may be.
    Token(Option<u32>),
}

/// How far what was foretold carries a draft.
enum Carried {
    /// To its end.
    Finished,
    /// To the next position, of which nothing was foretold.
    Emitted,
    /// To this exit of the next position.
    Exit(usize),
}

impl Scheduler {
    /// After a proposal: begins to work ahead, where that is wanted.
    pub(super) fn work_ahead(&mut self, key: StreamKey, guess: Guess) {
        let Some(index) = self.find(key) else { return };
        let drafting = self.sequences[index].drafting.as_ref();
        let policy = drafting.and_then(|drafting| drafting.policy.as_ref());
        let Some(mut policy) = policy.map(|policy| policy.duplicate()) else {
            return;
        };
        let declines = policy.begin(&self.parts.experience).is_some();
        // Whether it pays is asked last: a round counts as tried once that is said.
        if declines || !self.sequences[index].session.can_work_ahead() || !self.pays_ahead(index) {
            return;
        }
        let is_read = !matches!(guess, Guess::Unread);
        let token = match guess {
            Guess::Unread => None,
            Guess::Row(row) => self.choose(index, row),
            Guess::Token(token) => token,
        };
        // Where nothing may be chosen, the same row would give nothing again.
        if is_read && token.is_none() {
            return;
        }
        let Self {
            parts, sequences, ..
        } = self;
        let sequence = &mut sequences[index];
        let Some(drafting) = &mut sequence.drafting else {
            return;
        };
        sequence.session.work_ahead(token);
        drafting.follow(sequence.session.tokens());
        parts
            .kv
            .truncate(drafting.id, sequence.session.plan().truncate_to);
        sequence.foresight = Some(Foresight::new(policy));
        sequence.restart_row();
    }

    fn pays_ahead(&mut self, index: usize) -> bool {
        match self.parts.work_ahead {
            WorkAhead::Off => false,
            WorkAhead::On => true,
            WorkAhead::Auto => {
                !self.sequences[index].same_host && self.parts.experience.ahead.pays()
            }
        }
    }

    /// Goes on ahead with what an exit said, which was read in row `row` of the last pass.
    pub(super) fn foresee(&mut self, index: usize, head: usize, row: usize) {
        let (now, token) = (self.now(), self.choose(index, row));
        let Self {
            parts,
            sequences,
            readout,
            ..
        } = self;
        let sequence = &mut sequences[index];
        let (Some(drafting), Some(foresight), Some(plan)) = (
            sequence.drafting.as_mut(),
            sequence.foresight.as_mut(),
            sequence.session.ahead(),
        ) else {
            return;
        };
        sequence.waiting_since = now;
        let position = drafting.history.len();
        // The guess is the one token before the next draft.
        let guesses = position < plan.base_position;
        let drafted = position.saturating_sub(plan.base_position);
        let summary = readout.summaries()[row];
        let decision = foresight.policy.decide(ExitView {
            head,
            deepest: head + 1 == parts.decoder.band_ends().len(),
            summary: &summary,
            drafted,
            experience: &parts.experience,
        });
        if !guesses {
            let reading = Reading {
                head,
                summary,
                token,
            };
            foresight.keep(drafted, reading);
        }
        match (decision, token) {
            (Decision::Deeper, _) => return sequence.depth = head + 1,
            (Decision::Stop(_), _) if !guesses => return sequence.session.stop_ahead(),
            (_, None) => return sequence.session.stop_ahead(),
            (_, Some(token)) => {
                drafting.history.push(token);
                sequence.session.foretold(token);
            }
        }
        sequence.restart_row();
        let sequence = &mut self.sequences[index];
        let Some(foresight) = &mut sequence.foresight else {
            return;
        };
        let over = if guesses {
            foresight.policy.begin(&self.parts.experience).is_some()
        } else {
            foresight.positions[drafted].token = token;
            decision == Decision::EmitLast || drafted + 1 >= foresight.policy.max_draft_tokens()
        };
        if over {
            sequence.session.stop_ahead();
        }
    }

    /// A Commit has come. If the draft that it asks for was foretold, shows the policy what exits
    /// said, and goes on where that ends.
    pub(super) fn replay(&mut self, key: StreamKey, foresight: Option<Foresight>) {
        let Some(foresight) = foresight else { return };
        let index = self.find(key);
        let came_true = index.is_some_and(|at| self.sequences[at].session.is_foretold());
        if !came_true {
            return self.parts.experience.ahead.observe(None);
        }
        let mut saved = 0.0;
        let mut carried = Carried::Emitted;
        for position in &foresight.positions {
            carried = self.carry(key, position, &mut saved);
            if !matches!(carried, Carried::Emitted) {
                break;
            }
        }
        self.parts.experience.ahead.observe(Some(saved));
        match carried {
            Carried::Finished => {}
            Carried::Emitted => self.go_on(key, 0),
            Carried::Exit(head) => self.go_on(key, head),
        }
    }

    /// Shows the policy the readings of the draft's next position, and adds to `saved` the seconds
    /// that those take by running means.
    fn carry(&mut self, key: StreamKey, position: &Position, saved: &mut f64) -> Carried {
        let Some(index) = self.find(key) else {
            return Carried::Finished;
        };
        let now = self.now();
        if let Some(reason) = self.sequences[index].session.must_stop(now) {
            self.finish_draft(index, reason, Guess::Unread);
            return Carried::Finished;
        }
        let mut band = 0;
        for head in 0..self.parts.decoder.band_ends().len() {
            if !self.sequences[index].reads(head) {
                continue;
            }
            let Some(reading) = position.at(head) else {
                return Carried::Exit(head);
            };
            *saved += self
                .parts
                .experience
                .costs
                .through(band, head)
                .unwrap_or(0.0);
            band = head + 1;
            let decision = self.ask(index, head, reading.summary);
            if let Decision::Stop(cause) = decision {
                self.finish_draft(index, stop_reason(cause), Guess::Token(reading.token));
                return Carried::Finished;
            }
            if decision != Decision::Deeper {
                let emitted = Emitted {
                    head,
                    entropy: reading.summary.entropy,
                    last: decision == Decision::EmitLast,
                };
                let ended = self.emit(index, emitted, reading.token);
                return match (ended, reading.token == position.token) {
                    (true, _) => Carried::Finished,
                    (false, true) => Carried::Emitted,
                    (false, false) => Carried::Exit(0),
                };
            }
        }
        self.finish_draft(index, DraftStopReason::Entropy, Guess::Unread);
        Carried::Finished
    }

    /// Goes on with rows, at the next position's first exit from `exit` on that the policy reads.
    fn go_on(&mut self, key: StreamKey, exit: usize) {
        let Some(index) = self.find(key) else { return };
        let exits = self.parts.decoder.band_ends().len();
        let Self {
            parts, sequences, ..
        } = self;
        let sequence = &mut sequences[index];
        let Some(id) = sequence.drafting.as_ref().map(|drafting| drafting.id) else {
            return;
        };
        let exit = (exit..exits)
            .find(|&head| sequence.reads(head))
            .unwrap_or(exit);
        let end = sequence.session.tokens().len();
        sequence.session.resume(false);
        parts.kv.truncate(id, sequence.session.plan().truncate_to);
        // An exit can be read as its row comes through the band, and not later.
        let band = (0..=exit).find(|&band| parts.kv.len(id, band) < end);
        if band.is_none() {
            sequence.session.resume(true);
            parts.kv.truncate(id, sequence.session.plan().truncate_to);
        }
        sequence.depth = band.unwrap_or(0);
        sequence.decided = exit;
    }
}
