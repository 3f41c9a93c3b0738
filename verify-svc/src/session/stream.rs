//! One stream to one drafter: what it was told, what it was asked, what it answered.

use std::time::Duration;

use dssd_proto::v1::{
    Commit, Open, Proposal, Ready, Resync, VerifierMessage, verifier_message::Message,
};

use super::{Nonsense, RoundHints};

/// Most committed tokens that are held back in plain rounds, so that the drafter's next
/// draft need not begin with a long delta.
const GATHER_LIMIT: usize = 8;

/// Resyncs in a row, without a proposal between them, that a drafter is allowed.
const RESYNC_LIMIT: u32 = 8;

/// A draft that was asked for, and its answer.
#[derive(Debug, Clone)]
pub(super) struct Request {
    base_position: usize,
    max_draft_tokens: u32,
    pub(super) sent: Duration,
    pub(super) deadline: Duration,
    pub(super) proposal: Option<Proposal>,
    /// The deadline passed without a proposal; counted once.
    pub(super) late: bool,
}

/// What became of a proposal that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Receipt {
    /// It answers the present request.
    Taken {
        /// Time between the Commit and the proposal, as waited here.
        waited: Duration,
        /// Part of it that the drafter did not spend on drafting.
        wire: Duration,
    },
    /// It answers the present request after its deadline.
    TakenLate,
    /// It answers no present request.
    Stale,
}

/// The state of one stream.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    ready: bool,
    /// The newest epoch sent; 0 before the first Commit.
    epoch: u64,
    /// `epoch` when the newest Open was sent: a Resync up to it is answered already.
    opened_at: u64,
    /// Committed tokens that the drafter was told.
    told: usize,
    request: Option<Request>,
    /// Epoch and accepted tokens of a proposal, until a Commit carries them.
    verdict: Option<(u64, u32)>,
    /// Resyncs since the last proposal.
    resyncs: u32,
    /// Longest draft that was asked for.
    longest: u32,
}

impl Stream {
    /// A fresh stream and its first message.
    pub(super) fn start(open: &Open) -> (Self, VerifierMessage) {
        let mut stream = Self {
            ready: false,
            epoch: 0,
            opened_at: 0,
            told: 0,
            request: None,
            verdict: None,
            resyncs: 0,
            longest: 0,
        };
        let message = stream.open(open);
        (stream, message)
    }

    fn open(&mut self, open: &Open) -> VerifierMessage {
        self.ready = false;
        self.opened_at = self.epoch;
        self.told = open.token_ids.len();
        self.request = None;
        self.verdict = None;
        let open = Open {
            last_epoch: self.epoch,
            ..open.clone()
        };
        VerifierMessage {
            message: Some(Message::Open(open)),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn request_mut(&mut self) -> Option<&mut Request> {
        self.request.as_mut()
    }

    /// The drafter is ready; it is told at once what was committed meanwhile.
    pub(super) fn on_ready(
        &mut self,
        ready: &Ready,
        open: &Open,
    ) -> Result<Option<VerifierMessage>, Nonsense> {
        self.check_held(ready.held_position)?;
        self.ready = true;
        let behind = self.told < open.token_ids.len();
        Ok(behind.then(|| self.commit(&open.token_ids)))
    }

    /// The tokens drafted ahead in vain that a proposal tells of, as far as that can be true: a
    /// drafter works ahead once after each proposal, at one draft as was asked for.
    pub(super) fn discarded_ahead(&self, proposal: &Proposal) -> u32 {
        proposal.discarded_ahead_tokens.min(self.longest)
    }

    pub(super) fn on_proposal(
        &mut self,
        proposal: Proposal,
        vocabulary_size: u32,
        now: Duration,
    ) -> Result<Receipt, Nonsense> {
        self.check_epoch(proposal.epoch)?;
        let current = proposal.epoch == self.epoch;
        let request = match &mut self.request {
            Some(request) if current && request.proposal.is_none() => request,
            _ => return Ok(Receipt::Stale),
        };
        request.check(&proposal, vocabulary_size)?;
        let late = request.late;
        let waited = now.saturating_sub(request.sent);
        let wire = waited.saturating_sub(Duration::from_micros(proposal.draft_us));
        request.proposal = Some(proposal);
        self.resyncs = 0;
        Ok(if late {
            Receipt::TakenLate
        } else {
            Receipt::Taken { waited, wire }
        })
    }

    pub(super) fn on_resync(
        &mut self,
        resync: &Resync,
        open: &Open,
    ) -> Result<Option<VerifierMessage>, Nonsense> {
        self.check_held(resync.held_position)?;
        if resync.epoch > self.epoch {
            return Err(Nonsense::UnknownEpoch {
                epoch: resync.epoch,
                newest: self.epoch,
            });
        }
        if resync.epoch <= self.opened_at {
            return Ok(None);
        }
        self.resyncs += 1;
        if self.resyncs > RESYNC_LIMIT {
            return Err(Nonsense::RepeatedResync);
        }
        Ok(Some(self.open(open)))
    }

    fn check_epoch(&self, epoch: u64) -> Result<(), Nonsense> {
        if epoch == 0 || epoch > self.epoch {
            return Err(Nonsense::UnknownEpoch {
                epoch,
                newest: self.epoch,
            });
        }
        Ok(())
    }

    fn check_held(&self, held: u32) -> Result<(), Nonsense> {
        if held as usize > self.told {
            return Err(Nonsense::HeldPosition {
                held,
                told: self.told,
            });
        }
        Ok(())
    }

    /// The proposal of the present request was verified: the request is over, and its outcome
    /// is kept for the next Commit.
    pub(super) fn settle(&mut self, accepted: usize) {
        if let Some(proposal) = self.close_request() {
            self.verdict = u32::try_from(accepted)
                .ok()
                .map(|accepted| (proposal.epoch, accepted));
        }
    }

    /// Ends the present request; returns its proposal if that came.
    pub(super) fn close_request(&mut self) -> Option<Proposal> {
        self.request.take()?.proposal
    }

    /// Tells the committed tokens once enough have gathered, and asks for nothing.
    pub(super) fn gather(&mut self, tokens: &[u32]) -> Option<VerifierMessage> {
        (tokens.len() - self.told >= GATHER_LIMIT).then(|| self.commit(tokens))
    }

    /// Tells the committed tokens and asks for a draft.
    pub(super) fn ask(
        &mut self,
        tokens: &[u32],
        max_draft_tokens: u32,
        hints: &RoundHints,
    ) -> VerifierMessage {
        let mut message = self.commit(tokens);
        if let Some(Message::Commit(commit)) = &mut message.message {
            commit.max_draft_tokens = max_draft_tokens;
            commit.draft_budget_us =
                Some(u64::try_from(hints.draft_budget.as_micros()).unwrap_or(u64::MAX));
            commit.verify_cost_us.clone_from(&hints.verify_cost_us);
        }
        self.longest = self.longest.max(max_draft_tokens);
        self.request = Some(Request {
            base_position: tokens.len(),
            max_draft_tokens,
            sent: hints.now,
            deadline: hints.now.saturating_add(hints.wait_budget),
            proposal: None,
            late: false,
        });
        message
    }

    fn commit(&mut self, tokens: &[u32]) -> VerifierMessage {
        self.epoch += 1;
        let first = std::mem::replace(&mut self.told, tokens.len());
        let verdict = self.verdict.take();
        let commit = Commit {
            epoch: self.epoch,
            first_position: position(first),
            token_ids: tokens[first..].to_vec(),
            kv_position: position(tokens.len().saturating_sub(1)),
            accepted: verdict.map(|(_, accepted)| accepted),
            proposal_epoch: verdict.map(|(epoch, _)| epoch),
            max_draft_tokens: 0,
            draft_budget_us: None,
            verify_cost_us: Vec::new(),
        };
        VerifierMessage {
            message: Some(Message::Commit(commit)),
        }
    }
}

impl Request {
    fn check(&self, proposal: &Proposal, vocabulary_size: u32) -> Result<(), Nonsense> {
        if proposal.base_position as usize != self.base_position {
            return Err(Nonsense::BasePosition {
                found: proposal.base_position,
                expected: self.base_position,
            });
        }
        if proposal.tokens.len() > self.max_draft_tokens as usize {
            return Err(Nonsense::TooManyTokens {
                found: proposal.tokens.len(),
                most: self.max_draft_tokens,
            });
        }
        if proposal.ahead_tokens as usize > proposal.tokens.len() {
            return Err(Nonsense::AheadTokens {
                ahead: proposal.ahead_tokens,
                found: proposal.tokens.len(),
            });
        }
        if let Some(token) = proposal
            .tokens
            .iter()
            .find(|t| t.token_id >= vocabulary_size)
        {
            return Err(Nonsense::TokenId(token.token_id));
        }
        let sane = |entropy: f32| entropy.is_finite() && entropy >= 0.0;
        if !proposal.tokens.iter().all(|t| sane(t.entropy)) {
            return Err(Nonsense::Entropy);
        }
        Ok(())
    }
}

/// A context is far shorter than 2³² tokens; a longer one would be told wrongly, and the
/// drafter would refuse it.
fn position(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
