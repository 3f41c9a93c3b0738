//! Messages of a drafter that cannot be true.

/// Why a drafter's message cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// A `DrafterMessage` without any of its alternatives.
    #[error("empty message")]
    EmptyMessage,
    /// A message for a Commit that was never sent.
    #[error("epoch {epoch} was never sent, the newest is {newest}")]
    UnknownEpoch {
        /// What the drafter said.
        epoch: u64,
        /// The newest epoch sent.
        newest: u64,
    },
    /// A proposal that starts elsewhere than the Commit of its epoch asked.
    #[error("proposal starts at {found}, asked for {expected}")]
    BasePosition {
        /// What the drafter said.
        found: u32,
        /// What its Commit asked for.
        expected: usize,
    },
    /// A proposal with more tokens than were asked for.
    #[error("{found} tokens proposed, at most {most} asked for")]
    TooManyTokens {
        /// Tokens in the proposal.
        found: usize,
        /// `max_draft_tokens` of its Commit.
        most: u32,
    },
    /// More tokens drafted ahead than there are.
    #[error("{ahead} of {found} tokens drafted ahead")]
    AheadTokens {
        /// What the drafter said.
        ahead: u32,
        /// Tokens in the proposal.
        found: usize,
    },
    /// A token id at or above the vocabulary size.
    #[error("token id {0} is outside the vocabulary")]
    TokenId(u32),
    /// An entropy that is negative or not a number.
    #[error("entropy of a drafted token is negative or not finite")]
    Entropy,
    /// A position beyond every token that the drafter was told.
    #[error("drafter holds {held} positions, was told {told} tokens")]
    HeldPosition {
        /// What the drafter said.
        held: u32,
        /// Committed tokens that it was told.
        told: usize,
    },
    /// One Resync after another, with no proposal in between.
    #[error("too many resyncs without a proposal")]
    RepeatedResync,
}
