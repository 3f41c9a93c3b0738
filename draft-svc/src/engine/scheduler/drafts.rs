//! Drafts: another token, a deeper exit, or the end.

use super::{Scheduler, ahead::Guess};
use crate::engine::{StreamKey, sequence::Proposed};
use dssd_common::{
    entropy::Summary,
    policy::{Decision, ExitView, Outcome, StopCause},
};
use dssd_proto::v1::{Commit, DraftStopReason, DraftedToken, drafter_message::Message};
use std::time::Duration;

/// A token that a policy lets an exit draft.
pub(super) struct Emitted {
    pub(super) head: usize,
    /// Of that exit, in nats.
    pub(super) entropy: f32,
    /// Whether the draft ends behind it.
    pub(super) last: bool,
}

impl Scheduler {
    /// Ends drafts, and work ahead, that must end before another row runs.
    pub(super) fn stop_drafts(&mut self) {
        let now = self.now();
        let exits = self.parts.decoder.band_ends().len();
        for index in (0..self.sequences.len()).rev() {
            let sequence = &mut self.sequences[index];
            let exhausted = sequence.depth >= exits;
            if exhausted && sequence.session.ahead().is_some() {
                sequence.session.stop_ahead();
                sequence.restart_row();
                continue;
            }
            // Beyond the deepest exit there is no confidence to be had.
            let exhausted = exhausted.then_some(DraftStopReason::Entropy);
            if let Some(reason) = exhausted.or_else(|| sequence.session.must_stop(now)) {
                self.finish_draft(index, reason, Guess::Unread);
            }
        }
    }

    /// Sends the proposal, and begins to work ahead from `guess` on where that is wanted.
    pub(super) fn finish_draft(&mut self, index: usize, reason: DraftStopReason, guess: Guess) {
        let (now, load) = (self.now(), self.load());
        let sequence = &mut self.sequences[index];
        let key = sequence.key;
        sequence.restart_row();
        let started = sequence.session.plan().goal.map(|goal| goal.started);
        let proposal = sequence.session.finished(reason, now, load);
        if let (Some(Message::Proposal(proposal)), Some(started)) = (
            proposal
                .as_ref()
                .and_then(|proposal| proposal.message.as_ref()),
            started,
        ) {
            sequence.proposed = Some(Proposed::new(proposal, started));
            sequence
                .spans
                .drafted(proposal, now.saturating_sub(started));
        }
        self.send(index, proposal);
        self.work_ahead(key, guess);
    }

    /// Lets a policy that expects nothing of a draft end it before its first row.
    pub(super) fn begin_draft(&mut self, key: StreamKey) {
        let Some(index) = self.find(key) else { return };
        let Self {
            parts, sequences, ..
        } = self;
        let sequence = &mut sequences[index];
        let policy = sequence.drafting.as_mut().and_then(|d| d.policy.as_mut());
        if let (Some(_), Some(policy)) = (sequence.session.plan().goal, policy)
            && let Some(cause) = policy.begin(&parts.experience)
        {
            self.finish_draft(index, stop_reason(cause), Guess::Unread);
        }
    }

    /// Learns from what a Commit says of the last draft. `unfinished` is when the draft was asked
    /// for that this Commit cut off, if it did.
    pub(super) fn learn(&mut self, index: usize, commit: &Commit, unfinished: Option<Duration>) {
        let now = self.now();
        let Self {
            parts, sequences, ..
        } = self;
        if !commit.verify_cost_us.is_empty() {
            let most = parts.profile.max_draft_tokens as usize + 2;
            let seconds = commit.verify_cost_us.iter().map(|&us| us as f64 * 1e-6);
            parts.experience.costs.verify = seconds.take(most).collect();
        }
        let sequence = &mut sequences[index];
        let mut proposed = match (sequence.proposed.take(), unfinished) {
            (_, Some(started)) => Proposed::nothing(started),
            (Some(proposed), None) => proposed,
            (None, None) => return,
        };
        proposed.committed += commit.token_ids.len();
        if proposed.drafted.is_empty() && commit.max_draft_tokens == 0 {
            // The rounds of a rest belong to the draft that was declined before it.
            sequence.proposed = Some(proposed);
            return;
        }
        let Some(drafting) = &mut sequence.drafting else {
            return;
        };
        let verdict = commit
            .accepted
            .filter(|_| commit.proposal_epoch == Some(proposed.epoch));
        // What came too late nobody looked at: its tokens teach nothing, its time does.
        let drafted = verdict.map_or(&[][..], |_| &proposed.drafted);
        let accepted = verdict.map_or(0, |accepted| accepted as usize);
        let outcome = Outcome {
            drafted,
            accepted: accepted.min(drafted.len()),
            committed: proposed.committed,
            seconds: now.saturating_sub(proposed.started).as_secs_f64(),
        };
        let temperature = f64::from(drafting.sampler.params().temperature);
        parts.experience.learn(outcome, temperature);
        for (head, agreement) in parts.experience.newly_adrift() {
            tracing::warn!(
                head,
                observed = agreement.observed(),
                calibrated = agreement.calibrated(),
                tokens = agreement.judged,
                "drafts are accepted at another rate than the heads were calibrated to"
            );
        }
        if let Some(policy) = &mut drafting.policy {
            policy.learn(outcome, &mut parts.experience);
        }
    }

    /// Lets the policy of a stream decide on row `row` of the exits that were read at `head`.
    pub(super) fn decide(&mut self, key: StreamKey, head: usize, row: usize) {
        let Some(index) = self.find(key) else {
            return;
        };
        if self.sequences[index].session.ahead().is_some() {
            return self.foresee(index, head, row);
        }
        let summary = self.readout.summaries()[row];
        let decision = self.ask(index, head, summary);
        match decision {
            Decision::Stop(cause) => self.finish_draft(index, stop_reason(cause), Guess::Row(row)),
            Decision::Deeper => self.sequences[index].depth = head + 1,
            Decision::Emit | Decision::EmitLast => {
                let token = self.choose(index, row);
                let emitted = Emitted {
                    head,
                    entropy: summary.entropy,
                    last: decision == Decision::EmitLast,
                };
                self.emit(index, emitted, token);
            }
        }
    }

    /// What the policy says to what an exit says of the draft's next position.
    pub(super) fn ask(&mut self, index: usize, head: usize, summary: Summary) -> Decision {
        let Self {
            parts, sequences, ..
        } = self;
        let sequence = &mut sequences[index];
        let base = sequence.session.plan().goal.map(|goal| goal.base_position);
        let Some((drafting, base)) = sequence.drafting.as_mut().zip(base) else {
            return Decision::Stop(StopCause::Confidence);
        };
        let Some(policy) = &mut drafting.policy else {
            return Decision::Stop(StopCause::Confidence);
        };
        policy.decide(ExitView {
            head,
            deepest: head + 1 == parts.decoder.band_ends().len(),
            summary: &summary,
            drafted: drafting.history.len().saturating_sub(base),
            experience: &parts.experience,
        })
    }

    /// The token that row `row` of the exits that were read chooses; none where nothing may be
    /// chosen (every token masked, say).
    pub(super) fn choose(&mut self, index: usize, row: usize) -> Option<u32> {
        let Self {
            sequences,
            readout,
            scratch,
            ..
        } = self;
        let drafting = sequences[index].drafting.as_mut()?;
        let (sampler, reading) = (&drafting.sampler, readout.row(row));
        let choice = sampler.choose_of(reading, &drafting.history, scratch);
        choice.ok()
    }

    /// Drafts a token. True if that ends the draft: its proposal is sent then.
    pub(super) fn emit(&mut self, index: usize, emitted: Emitted, token: Option<u32>) -> bool {
        let now = self.now();
        let sequence = &mut self.sequences[index];
        let Some(token_id) = token else {
            // Where nothing may be chosen there is nothing to propose.
            self.finish_draft(index, DraftStopReason::Entropy, Guess::Token(None));
            return true;
        };
        let base = sequence.session.plan().goal.map(|goal| goal.base_position);
        let (Some(drafting), Some(base)) = (sequence.drafting.as_mut(), base) else {
            return true;
        };
        drafting.history.push(token_id);
        let drafted = drafting.history.len().saturating_sub(base);
        let policy = drafting.policy.as_ref();
        let full = policy.is_some_and(|policy| drafted >= policy.max_draft_tokens());
        sequence.session.drafted(DraftedToken {
            token_id,
            exit_head: emitted.head as u32,
            entropy: emitted.entropy,
        });
        sequence.restart_row();
        sequence.waiting_since = now;
        let end = match (emitted.last, full) {
            (true, _) => DraftStopReason::Cost,
            (false, true) => DraftStopReason::MaxDraft,
            (false, false) => return false,
        };
        let reason = sequence.session.must_stop(now).unwrap_or(end);
        self.finish_draft(index, reason, Guess::Unread);
        true
    }
}

pub(super) fn stop_reason(cause: StopCause) -> DraftStopReason {
    match cause {
        StopCause::Confidence => DraftStopReason::Entropy,
        StopCause::Cost => DraftStopReason::Cost,
    }
}
