//! A draft in progress.

use std::time::Duration;

use dssd_proto::v1::{Commit, DraftStopReason, DraftedToken, DrafterLoad, Proposal};

use super::{DrafterProfile, position};

/// A draft that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftGoal {
    /// The Commit that asked.
    pub epoch: u64,
    /// Index of the first drafted token: L.
    pub base_position: usize,
    /// Longest draft: as asked, and as the profile and the context permit.
    pub max_draft_tokens: u32,
    /// When the Commit came.
    pub started: Duration,
    /// When drafting must end; `None` is never.
    pub deadline: Option<Duration>,
}

/// The draft towards a goal, so far.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    goal: DraftGoal,
    tokens: Vec<DraftedToken>,
    /// How many of them had been foretold.
    foretold: u32,
    /// Whether the context, not the Commit, limits its length.
    context_limited: bool,
}

impl Draft {
    /// The draft that `commit` asks for, whose tokens are held already.
    pub(super) fn new(commit: &Commit, profile: &DrafterProfile, now: Duration) -> Self {
        let base_position = commit.first_position as usize + commit.token_ids.len();
        let room = position(profile.max_context.saturating_sub(base_position));
        let wanted = commit.max_draft_tokens.min(profile.max_draft_tokens);
        let goal = DraftGoal {
            epoch: commit.epoch,
            base_position,
            max_draft_tokens: wanted.min(room),
            started: now,
            deadline: (commit.draft_budget_us)
                .and_then(|budget| now.checked_add(Duration::from_micros(budget))),
        };
        Self {
            goal,
            tokens: Vec::new(),
            foretold: 0,
            context_limited: room < wanted,
        }
    }

    pub(super) fn goal(&self) -> DraftGoal {
        self.goal
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Index of the next token.
    pub(super) fn end(&self) -> usize {
        self.goal.base_position + self.tokens.len()
    }

    pub(super) fn push(&mut self, token: DraftedToken, foretold: bool) {
        self.tokens.push(token);
        self.foretold += u32::from(foretold);
    }

    pub(super) fn must_stop(&self, stop_tokens: &[u32], now: Duration) -> Option<DraftStopReason> {
        let last = self.tokens.last().map(|token| token.token_id);
        if last.is_some_and(|token| stop_tokens.contains(&token)) {
            return Some(DraftStopReason::EndOfSequence);
        }
        if self.tokens.len() >= self.goal.max_draft_tokens as usize {
            let full = self.context_limited;
            return Some(if full {
                DraftStopReason::ContextFull
            } else {
                DraftStopReason::MaxDraft
            });
        }
        let over = self.goal.deadline.is_some_and(|deadline| now >= deadline);
        over.then_some(DraftStopReason::Time)
    }

    pub(super) fn into_proposal(
        self,
        reason: DraftStopReason,
        now: Duration,
        load: DrafterLoad,
    ) -> Proposal {
        let elapsed = now.saturating_sub(self.goal.started);
        Proposal {
            epoch: self.goal.epoch,
            base_position: position(self.goal.base_position),
            tokens: self.tokens,
            stop_reason: reason.into(),
            draft_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            load: Some(load),
            ahead_tokens: self.foretold,
            discarded_ahead_tokens: 0,
        }
    }
}
