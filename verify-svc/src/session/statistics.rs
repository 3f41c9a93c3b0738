//! Counts of what speculation did in one generation.

use std::{collections::BTreeMap, time::Duration};

use dssd_proto::v1::{
    DraftStopReason, ExitHeadCount, PlainReason, PlainRoundCount, Proposal, SpeculativeDecoding,
    StopReasonCount,
};

use super::stream::Receipt;

/// Counts since the start of a generation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    /// Verified drafts; none is empty.
    pub num_drafts: u64,
    /// Tokens in them.
    pub num_draft_tokens: u64,
    /// Those that the whole model chose too.
    pub num_accepted_tokens: u64,
    /// Drafted tokens that were there before they were asked for.
    pub num_ahead_tokens: u64,
    /// Tokens that drafters say they drafted ahead in vain.
    pub num_discarded_ahead_tokens: u64,
    /// Proposals that answered no present request, or were not used in their round.
    pub stale_proposals: u64,
    /// Requests whose wait ended without a proposal.
    pub late_proposals: u64,
    /// Rests from drafting after late proposals.
    pub back_offs: u64,
    /// Opens sent again because the drafter could not follow.
    pub resyncs: u64,
    /// Streams dropped because of nonsense.
    pub resets: u64,
    /// Streams that ended before the generation, resets included.
    pub drafter_losses: u64,
    /// Rounds without a draft.
    pub plain_rounds: BTreeMap<PlainReason, u64>,
    /// Why verified drafts ended.
    pub stop_reasons: BTreeMap<DraftStopReason, u64>,
    /// Verified tokens of each exit head, by index from the shallowest.
    pub exit_heads: BTreeMap<u32, u64>,
    /// Time from requests to proposals or deadlines.
    pub draft_wait: Duration,
    /// Part of `draft_wait` that drafters did not spend on drafting.
    pub wire: Duration,
    /// What is new since somebody asked.
    pub(super) news: News,
}

/// What happened in a round, for whoever counts over all generations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct News {
    /// The verified draft, and how many of its tokens were right.
    pub draft: Option<(Proposal, usize)>,
    /// Why the round was plain.
    pub plain: Option<PlainReason>,
    /// The drafter said that a draft would not pay.
    pub declined: bool,
    /// Proposals that were not used.
    pub stale_proposals: u64,
    /// Time from the request to the proposal or the deadline.
    pub waited: Option<Duration>,
    /// Part of it that the drafter did not spend on drafting.
    pub wire: Duration,
}

impl Statistics {
    /// As a client sees it. What only the caller knows is left at its default: passes,
    /// policy, thresholds and time of verification.
    pub fn report(&self) -> SpeculativeDecoding {
        SpeculativeDecoding {
            num_drafts: self.num_drafts,
            num_draft_tokens: self.num_draft_tokens,
            num_accepted_tokens: self.num_accepted_tokens,
            mean_acceptance_length: match self.num_drafts {
                0 => 0.0,
                drafts => 1.0 + self.num_accepted_tokens as f64 / drafts as f64,
            },
            draft_acceptance_rate: match self.num_draft_tokens {
                0 => 0.0,
                drafted => self.num_accepted_tokens as f64 / drafted as f64,
            },
            num_ahead_tokens: self.num_ahead_tokens,
            num_discarded_ahead_tokens: self.num_discarded_ahead_tokens,
            stop_reasons: (self.stop_reasons.iter())
                .map(|(&reason, &count)| StopReasonCount {
                    reason: reason.into(),
                    count,
                })
                .collect(),
            exit_heads: (self.exit_heads.iter())
                .map(|(&exit_head, &count)| ExitHeadCount { exit_head, count })
                .collect(),
            plain_rounds: (self.plain_rounds.iter())
                .map(|(&reason, &count)| PlainRoundCount {
                    reason: reason.into(),
                    count,
                })
                .collect(),
            stale_proposals: self.stale_proposals,
            drafter_losses: self.drafter_losses,
            draft_wait_seconds: self.draft_wait.as_secs_f64(),
            wire_seconds: self.wire.as_secs_f64(),
            ..SpeculativeDecoding::default()
        }
    }

    pub(super) fn count_wait(&mut self, waited: Duration, wire: Duration) {
        self.draft_wait += waited;
        self.wire += wire;
        self.news.waited = Some(waited);
        self.news.wire = wire;
    }

    pub(super) fn count_receipt(&mut self, receipt: &Receipt) {
        match receipt {
            Receipt::Taken { waited, wire } => self.count_wait(*waited, *wire),
            Receipt::TakenLate => {}
            Receipt::Stale => self.count_stale(1),
        }
    }

    fn count_stale(&mut self, proposals: u64) {
        self.stale_proposals += proposals;
        self.news.stale_proposals += proposals;
    }

    pub(super) fn count_draft(&mut self, proposal: Proposal, accepted: usize) {
        self.num_drafts += 1;
        self.num_draft_tokens += proposal.tokens.len() as u64;
        self.num_accepted_tokens += accepted as u64;
        self.num_ahead_tokens += u64::from(proposal.ahead_tokens);
        *self.stop_reasons.entry(proposal.stop_reason()).or_default() += 1;
        for token in &proposal.tokens {
            *self.exit_heads.entry(token.exit_head).or_default() += 1;
        }
        self.news.draft = Some((proposal, accepted));
    }

    /// A proposal that came after its round had begun plainly. Empty ones are the reason of a
    /// plain round, and counted there.
    pub(super) fn count_unused(&mut self, proposal: Option<Proposal>) {
        let unused = proposal.is_some_and(|proposal| !proposal.tokens.is_empty());
        self.count_stale(u64::from(unused));
    }

    pub(super) fn count_plain(&mut self, reason: PlainReason) {
        *self.plain_rounds.entry(reason).or_default() += 1;
        self.news.plain = Some(reason);
    }
}
