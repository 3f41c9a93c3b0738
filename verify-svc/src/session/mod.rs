//! The verifier's side of the drafting protocol, for one generation.
//!
//! A [`VerifySession`] is a plain value: messages, outcomes of rounds and the time come in,
//! messages for the drafter go out. Time is a `Duration` since any fixed moment.
//!
//! Let L be the number of committed tokens, prompt included. The newest of them has no keys
//! and values yet: the KV cache ends at L − 1, and the first drafted token has index L.
//! Whatever a drafter sends or fails to send, the session only ever suggests tokens to
//! verify; the committed tokens come from the caller alone.
//!
//! | state | how it is entered | the next round |
//! |---|---|---|
//! | detached | start, loss, nonsense | plain |
//! | opened | [`VerifySession::attach`], Resync: an Open is sent | plain |
//! | ready, nothing asked | Ready; a pause, a rest after late proposals, one token left | plain |
//! | asked | end of a round: a Commit with `max_draft_tokens` > 0 is sent | wait |
//! | proposed | Proposal of the current epoch | verify, or plain if it is empty |
//! | late | the wait budget ended | plain |

mod back_off;
mod nonsense;
mod statistics;
mod stream;

use std::time::Duration;

use dssd_proto::v1::{
    DraftStopReason, DrafterMessage, Open, PlainReason, Proposal, Speculation, SpeculationMode,
    VerifierMessage, drafter_message::Message,
};

use back_off::{BackOff, Pause};
pub use nonsense::Nonsense;
pub use statistics::{News, Statistics};
use stream::{Receipt, Stream};

/// What the next round of a generation can be.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Verify this proposal: at least one token, following the newest committed one.
    Verify(Proposal),
    /// Decode one token plainly.
    Plain(PlainReason),
    /// A proposal is on its way: sit out until it comes, or until this moment.
    Wait {
        /// When waiting ends.
        until: Duration,
    },
}

/// What the caller knows at the end of a round and the session cannot.
#[derive(Debug, Clone, Default)]
pub struct RoundHints {
    /// The time now.
    pub now: Duration,
    /// How many more tokens may be generated (limits of request and context).
    pub remaining: usize,
    /// Longest draft wanted, in tokens; 0 asks for none.
    pub max_draft_tokens: u32,
    /// Time that the drafter is given.
    pub draft_budget: Duration,
    /// Time after which the round is plain: the draft budget and the way there and back.
    pub wait_budget: Duration,
    /// Estimated time of the next step with 0, 1, 2 … more rows, in microseconds.
    pub verify_cost_us: Vec<u64>,
}

/// The drafting protocol of one generation.
#[derive(Debug, Clone)]
pub struct VerifySession {
    /// What a drafter must know; `token_ids` are all committed tokens.
    open: Open,
    stream: Option<Stream>,
    back_off: BackOff,
    pause: Pause,
    /// Why no draft was asked for, where that is so.
    idle: PlainReason,
    /// Whether no drafter is asked for, by the caller's choice.
    held_back: bool,
    /// What the present round is, as `next` said last.
    round: Option<Next>,
    statistics: Statistics,
}

impl VerifySession {
    /// A session without a drafter. `open.token_ids` are the tokens committed so far, prompt
    /// and resumed ones; `open.last_epoch` is ignored.
    pub fn new(open: Open) -> Self {
        Self {
            open,
            stream: None,
            back_off: BackOff::default(),
            pause: Pause::default(),
            idle: PlainReason::Paused,
            held_back: false,
            round: None,
            statistics: Statistics::default(),
        }
    }

    /// Starts anew on a fresh stream, and returns the stream's first message. Messages of an
    /// earlier stream must not be given to the session from here on.
    pub fn attach(&mut self) -> VerifierMessage {
        self.back_off = BackOff::default();
        self.pause = Pause::default();
        self.idle = PlainReason::NotReady;
        let (stream, message) = Stream::start(&self.open);
        self.stream = Some(stream);
        message
    }

    /// The stream ended or broke. Decoding goes on plainly.
    pub fn on_lost(&mut self) {
        if self.stream.take().is_some() {
            self.statistics.drafter_losses += 1;
        }
    }

    /// Whether the caller chooses to ask for no drafter at present.
    pub fn hold_back(&mut self, held_back: bool) {
        self.held_back = held_back;
    }

    /// Whether a stream is attached.
    pub fn is_attached(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether the attached drafter has processed the newest Open. There is no clock here: a
    /// caller that finds it takes too long drops the stream and calls [`Self::on_lost`].
    pub fn is_ready(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_ready)
    }

    /// Whether the attached drafter is ready, is asked for drafts, and sends none at all: two
    /// rests in a row passed without a proposal. A caller that finds it so drops the stream,
    /// calls [`Self::on_lost`], and tries another drafter.
    pub fn is_silent(&self) -> bool {
        self.stream.is_some() && self.back_off.silent()
    }

    /// All committed tokens, prompt included.
    pub fn tokens(&self) -> &[u32] {
        &self.open.token_ids
    }

    /// What happened so far.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// What happened since this was asked for last: to be asked after every round, and at the end.
    pub fn take_news(&mut self) -> News {
        std::mem::take(&mut self.statistics.news)
    }

    /// Takes a message of the attached stream, and returns what to answer. After an error the
    /// session is detached: drop the stream and exclude the drafter for a while. The `load` in
    /// messages is the caller's to read.
    pub fn on_message(
        &mut self,
        message: DrafterMessage,
        now: Duration,
    ) -> Result<Option<VerifierMessage>, Nonsense> {
        let answer = self.take_message(message, now);
        if answer.is_err() {
            self.statistics.resets += 1;
            self.on_lost();
        }
        answer
    }

    fn take_message(
        &mut self,
        message: DrafterMessage,
        now: Duration,
    ) -> Result<Option<VerifierMessage>, Nonsense> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        match message.message {
            None => Err(Nonsense::EmptyMessage),
            Some(Message::Ready(ready)) => stream.on_ready(&ready, &self.open),
            Some(Message::Proposal(proposal)) => {
                let discarded = stream.discarded_ahead(&proposal);
                let receipt = stream.on_proposal(proposal, self.open.vocabulary_size, now)?;
                match receipt {
                    Receipt::Taken { .. } => self.back_off.in_time(),
                    Receipt::TakenLate | Receipt::Stale => self.back_off.heard(),
                }
                // One that came twice would count twice.
                if receipt != Receipt::Stale {
                    self.statistics.num_discarded_ahead_tokens += u64::from(discarded);
                }
                self.statistics.count_receipt(&receipt);
                Ok(None)
            }
            Some(Message::Resync(resync)) => {
                let answer = stream.on_resync(&resync, &self.open)?;
                if answer.is_some() {
                    self.statistics.resyncs += 1;
                    self.idle = PlainReason::NotReady;
                }
                Ok(answer)
            }
        }
    }

    /// What the next round can be at the time `now`. May be asked again until the round runs.
    pub fn next(&mut self, now: Duration) -> Next {
        let next = self.decide(now);
        self.round = Some(next.clone());
        next
    }

    fn decide(&mut self, now: Duration) -> Next {
        let Some(stream) = &mut self.stream else {
            let mode = self.open.speculation.as_ref().map(Speculation::mode);
            return Next::Plain(match mode {
                Some(SpeculationMode::Off) => PlainReason::Off,
                _ if self.held_back => PlainReason::Paused,
                _ => PlainReason::NoDrafter,
            });
        };
        let Some(request) = stream.request_mut() else {
            return Next::Plain(self.idle);
        };
        if let Some(proposal) = &request.proposal {
            return if proposal.tokens.is_empty() {
                Next::Plain(PlainReason::EmptyProposal)
            } else {
                Next::Verify(proposal.clone())
            };
        }
        if now < request.deadline {
            return Next::Wait {
                until: request.deadline,
            };
        }
        if !request.late {
            request.late = true;
            self.statistics.late_proposals += 1;
            let waited = request.deadline.saturating_sub(request.sent);
            self.statistics.count_wait(waited, Duration::ZERO);
            self.statistics.back_offs += u64::from(self.back_off.late());
        }
        Next::Plain(PlainReason::Late)
    }

    /// Ends a round: `tokens` are committed. `accepted` is how many drafted tokens were right
    /// if a proposal was verified, and `None` for a plain round (or for what a prefill gave).
    pub fn committed(
        &mut self,
        tokens: &[u32],
        accepted: Option<usize>,
        hints: &RoundHints,
    ) -> Option<VerifierMessage> {
        match (self.round.take(), accepted) {
            (Some(Next::Verify(proposal)), Some(accepted)) => {
                self.close_verified(proposal, accepted);
            }
            (Some(Next::Plain(reason)), None) => self.statistics.count_plain(reason),
            // What a prefill gave is no round.
            _ => {}
        }
        self.open.token_ids.extend_from_slice(tokens);
        let closed = self.stream.as_mut().and_then(Stream::close_request);
        let declines = |proposal: &Proposal| {
            proposal.tokens.is_empty() && proposal.stop_reason() == DraftStopReason::Cost
        };
        if closed.as_ref().is_some_and(declines) {
            self.pause.declined();
            self.statistics.news.declined = true;
        }
        self.statistics.count_unused(closed);
        let length = self.draft_length(hints);
        let stream = self.stream.as_mut()?;
        if hints.remaining == 0 {
            return None;
        }
        if length == 0 {
            return stream.gather(&self.open.token_ids);
        }
        Some(stream.ask(&self.open.token_ids, length, hints))
    }

    /// The drafter may be gone, or another one attached, since the proposal came.
    fn close_verified(&mut self, proposal: Proposal, accepted: usize) {
        let accepted = accepted.min(proposal.tokens.len());
        if accepted > 0 {
            self.pause.accepted();
        }
        self.statistics.count_draft(proposal, accepted);
        if let Some(stream) = &mut self.stream {
            stream.settle(accepted);
        }
    }

    /// How many tokens to ask for; where none, `idle` says why.
    fn draft_length(&mut self, hints: &RoundHints) -> u32 {
        let resting = self.back_off.resting();
        let pausing = self.pause.resting();
        // One token of every round is the whole model's own.
        let useful = u32::try_from(hints.remaining.saturating_sub(1)).unwrap_or(u32::MAX);
        self.idle = match &self.stream {
            Some(stream) if !stream.is_ready() => PlainReason::NotReady,
            _ if resting => PlainReason::BackOff,
            _ if useful == 0 => PlainReason::LastToken,
            _ => PlainReason::Paused,
        };
        if self.idle == PlainReason::Paused && !pausing {
            hints.max_draft_tokens.min(useful)
        } else {
            0
        }
    }
}
