//! Drafts: another token, a deeper exit, or the end.

use super::Scheduler;
use crate::engine::{StreamKey, sequence::Proposed};
use dssd_common::policy::{Decision, ExitView, Outcome, StopCause};
use dssd_proto::v1::{Commit, DraftStopReason, DraftedToken, drafter_message::Message};
use std::time::Duration;

impl Scheduler {
    /// Ends drafts that must end before another row runs.
    pub(super) fn stop_drafts(&mut self) {
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

    pub(super) fn finish_draft(&mut self, index: usize, reason: DraftStopReason) {
        let (now, load) = (self.now(), self.load());
        let sequence = &mut self.sequences[index];
        sequence.depth = 0;
        let started = sequence.session.plan().goal.map(|goal| goal.started);
        let proposal = sequence.session.finished(reason, now, load);
        if let (Some(Message::Proposal(proposal)), Some(started)) = (
            proposal
                .as_ref()
                .and_then(|proposal| proposal.message.as_ref()),
            started,
        ) {
            sequence.proposed = Some(Proposed::new(proposal, started));
        }
        self.send(index, proposal);
    }

    /// Lets a policy that expects nothing of a draft end it before its first row.
    pub(super) fn begin_draft(&mut self, index: usize) {
        let Self {
            parts, sequences, ..
        } = self;
        let sequence = &mut sequences[index];
        let policy = sequence.drafting.as_mut().and_then(|d| d.policy.as_mut());
        if let (Some(_), Some(policy)) = (sequence.session.plan().goal, policy)
            && let Some(cause) = policy.begin(&parts.experience)
        {
            self.finish_draft(index, stop_reason(cause));
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
        let proposed = match (sequence.proposed.take(), unfinished) {
            (_, Some(started)) => Proposed::nothing(started),
            (Some(proposed), None) => proposed,
            (None, None) => return,
        };
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
            committed: commit.token_ids.len(),
            seconds: now.saturating_sub(proposed.started).as_secs_f64(),
        };
        let temperature = f64::from(drafting.sampler.params().temperature);
        parts.experience.learn(outcome, temperature);
        if let Some(policy) = &mut drafting.policy {
            policy.learn(outcome, &mut parts.experience);
        }
    }

    /// Lets the policy of a stream decide on row `row` of the exits that were read.
    pub(super) fn decide(&mut self, key: StreamKey, band: usize, row: usize) {
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
        let goal = sequence.session.plan().goal;
        let base = goal.map_or(0, |goal| goal.base_position);
        let decision = policy.decide(ExitView {
            head: band,
            deepest,
            summary,
            drafted: drafting.history.len().saturating_sub(base),
            experience: &parts.experience,
        });
        match decision {
            Decision::Stop(cause) => self.finish_draft(index, stop_reason(cause)),
            Decision::Deeper => sequence.depth = band + 1,
            Decision::Emit | Decision::EmitLast => {
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
                let end = if decision == Decision::EmitLast {
                    Some(DraftStopReason::Cost)
                } else {
                    (drafted - base >= most).then_some(DraftStopReason::MaxDraft)
                };
                if let Some(end) = end {
                    let reason = sequence.session.must_stop(now).unwrap_or(end);
                    self.finish_draft(index, reason);
                }
            }
        }
    }
}

fn stop_reason(cause: StopCause) -> DraftStopReason {
    match cause {
        StopCause::Confidence => DraftStopReason::Entropy,
        StopCause::Cost => DraftStopReason::Cost,
    }
}
