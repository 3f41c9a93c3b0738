//! Drafts: another token, a deeper exit, or the end.

use super::Scheduler;
use crate::engine::StreamKey;
use dssd_common::policy::{Decision, ExitView};
use dssd_proto::v1::{DraftStopReason, DraftedToken};

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
        let proposal = sequence.session.finished(reason, now, load);
        self.send(index, proposal);
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
