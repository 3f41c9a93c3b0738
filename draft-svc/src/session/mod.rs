//! The drafter's side of the drafting protocol, for one stream.
//!
//! A [`DraftSession`] is a plain value: messages, the engine's progress and the time come in;
//! messages for the verifier and a [`Plan`] for the engine come out. Time is a `Duration`
//! since any fixed moment.
//!
//! Let L be the number of committed tokens. To draft, the engine needs keys and values up to
//! L − 1 and runs the newest committed token as the first row; each drafted token is the next
//! row. The last drafted token has no keys and values yet. When a Commit comes, everything up
//! to the first difference is kept.

mod ahead;
mod draft;
mod refusal;

use std::time::Duration;

use dssd_proto::v1::{
    Commit, DraftStopReason, DraftedToken, DrafterLoad, DrafterMessage, Open, Ready, Resync,
    VerifierMessage, drafter_message::Message, verifier_message,
};

use ahead::Ahead;
pub use ahead::AheadPlan;
use draft::Draft;
pub use draft::DraftGoal;
pub use refusal::Refusal;
use refusal::{check_commit, check_open};

/// What the drafter is, and how far it goes.
#[derive(Debug, Clone, Default)]
pub struct DrafterProfile {
    /// SHA-256 of its checkpoint's manifest.
    pub checkpoint_fingerprint: String,
    /// SHA-256 of its tokenizer file; empty without one.
    pub tokenizer_hash: String,
    /// Number of token ids.
    pub vocabulary_size: u32,
    /// Most tokens of one generation, prompt included.
    pub max_context: usize,
    /// Longest draft, whatever a Commit asks for.
    pub max_draft_tokens: u32,
    /// Layers after which its exit heads sit, shallowest first.
    pub exit_layers: Vec<u32>,
    /// SHA-256 of its calibration; empty without one.
    pub calibration_id: String,
}

/// What the engine is to do for this session.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan<'a> {
    /// Positions of the KV cache to keep, in every band that has more.
    pub truncate_to: usize,
    /// Tokens to run from there on, in order; a part may be run first ([`DraftSession::fed`]).
    pub feed: &'a [u32],
    /// The draft in progress: once all of `feed` has run, its last row decides the next token
    /// ([`DraftSession::drafted`]) or the end ([`DraftSession::finished`]). Ask
    /// [`DraftSession::must_stop`] before any row.
    pub goal: Option<DraftGoal>,
}

/// The drafting protocol of one stream.
#[derive(Debug, Clone)]
pub struct DraftSession {
    profile: DrafterProfile,
    /// The newest Open without its tokens; `None` before the first.
    open: Option<Open>,
    /// Newest epoch seen; 0 before the first Commit.
    epoch: u64,
    /// Committed tokens, behind them tokens of the newest draft, and then foretold ones.
    held: Vec<u32>,
    /// How many of `held` are committed: L. 0 while the drafter cannot follow.
    committed: usize,
    /// How many of `held` have keys and values.
    fed: usize,
    draft: Option<Draft>,
    ahead: Option<Ahead>,
    /// Length of the draft that was asked for last.
    asked: u32,
    /// Tokens drafted ahead in vain since the last Proposal.
    discarded: u32,
    ready_sent: bool,
    /// Nobody wants drafts now, so what is committed runs when the next one begins: its rows would
    /// take time from whoever shares the processor.
    resting: bool,
}

impl DraftSession {
    /// A session that waits for its Open.
    pub fn new(profile: DrafterProfile) -> Self {
        Self {
            profile,
            open: None,
            epoch: 0,
            held: Vec::new(),
            committed: 0,
            fed: 0,
            draft: None,
            ahead: None,
            asked: 0,
            discarded: 0,
            ready_sent: false,
            resting: false,
        }
    }

    /// The newest Open, without its tokens: sampling settings, policy, prompt length.
    pub fn settings(&self) -> Option<&Open> {
        self.open.as_ref()
    }

    /// Committed tokens, then those of the draft in progress, or of the work ahead: the history
    /// of the next choice.
    pub fn tokens(&self) -> &[u32] {
        match &self.draft {
            Some(draft) => &self.held[..draft.end()],
            None if self.ahead.is_some() => &self.held,
            None => &self.held[..self.committed],
        }
    }

    /// The newest epoch seen.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes a message of the verifier, at the time `now`. An error ends the stream.
    pub fn on_message(
        &mut self,
        message: VerifierMessage,
        now: Duration,
        load: DrafterLoad,
    ) -> Result<Option<DrafterMessage>, Refusal> {
        match message.message {
            None => Err(Refusal::invalid("message", "is empty")),
            Some(verifier_message::Message::Open(open)) => self.on_open(open, load),
            Some(verifier_message::Message::Commit(commit)) => self.on_commit(&commit, now),
        }
    }

    /// Takes an Open. What is held already is kept up to the first difference. Answers with
    /// Ready if nothing is left to run; else [`DraftSession::fed`] does.
    fn on_open(
        &mut self,
        mut open: Open,
        load: DrafterLoad,
    ) -> Result<Option<DrafterMessage>, Refusal> {
        check_open(&open, &self.profile)?;
        let tokens = std::mem::take(&mut open.token_ids);
        let last_epoch = std::mem::take(&mut open.last_epoch);
        if self.open.as_ref().is_some_and(|first| *first != open) {
            return Err(Refusal::invalid(
                "open",
                "differs from this stream's first Open",
            ));
        }
        self.open = Some(open);
        if last_epoch < self.epoch {
            return Ok(None);
        }
        self.epoch = last_epoch;
        self.draft = None;
        self.hold(0, &tokens);
        self.end_ahead();
        self.ready_sent = false;
        Ok(self.ready(load))
    }

    /// Takes a Commit, at the time `now`. A Commit that is not newer than all before is
    /// ignored; one that leaves a gap is answered with Resync. Any other ends the draft in
    /// progress, and starts the next if it asks for one.
    fn on_commit(
        &mut self,
        commit: &Commit,
        now: Duration,
    ) -> Result<Option<DrafterMessage>, Refusal> {
        let open = self.open.as_ref().ok_or(Refusal::CommitBeforeOpen)?;
        check_commit(commit, open, &self.profile)?;
        if commit.epoch <= self.epoch {
            return Ok(None);
        }
        self.epoch = commit.epoch;
        self.draft = None;
        let first = commit.first_position as usize;
        if first > self.committed {
            self.end_ahead();
            return Ok(Some(self.resync()));
        }
        let known = self.hold(first, &commit.token_ids);
        if !known || !self.came_true() || commit.max_draft_tokens == 0 {
            self.end_ahead();
        }
        self.resting = commit.max_draft_tokens == 0;
        if commit.max_draft_tokens > 0 {
            self.begin(commit, now);
        }
        Ok(None)
    }

    /// The engine gave up this session's KV cache.
    pub fn evicted(&mut self) -> DrafterMessage {
        self.cut(0);
        self.committed = 0;
        self.draft = None;
        self.ahead = None;
        self.resync()
    }

    /// What the engine is to do next. Between drafts it runs what was committed, except for
    /// the newest token: that is the first row of the next draft. While no drafts are wanted it
    /// runs nothing, once it has said Ready.
    pub fn plan(&self) -> Plan<'_> {
        let end = match &self.draft {
            Some(draft) => draft.end(),
            None if self.resting && self.ready_sent => self.fed,
            None => self.committed.saturating_sub(1).max(self.fed),
        };
        Plan {
            truncate_to: self.fed,
            // What was foretold may have run already.
            feed: self.held.get(self.fed..end).unwrap_or_default(),
            goal: self.draft.as_ref().map(Draft::goal),
        }
    }

    /// The engine ran the first `rows` tokens of the plan, or of the work ahead. Answers with Ready when the tokens
    /// of an Open are done.
    pub fn fed(&mut self, rows: usize, load: DrafterLoad) -> Option<DrafterMessage> {
        let ahead = self.ahead().map(|ahead| ahead.feed.len());
        let most = ahead.unwrap_or_else(|| self.plan().feed.len());
        self.fed += rows.min(most);
        self.ready(load)
    }

    /// The engine chose the next token of the draft in progress. If it was foretold, what was
    /// foretold behind it stays.
    pub fn drafted(&mut self, token: DraftedToken) {
        let Some(draft) = &mut self.draft else { return };
        let end = draft.end();
        let foretold = self.held.get(end) == Some(&token.token_id);
        draft.push(token, foretold);
        if !foretold {
            self.cut(end);
            self.held.push(token.token_id);
        }
    }

    /// Why the draft in progress must end at the time `now`, whatever the policy says.
    pub fn must_stop(&self, now: Duration) -> Option<DraftStopReason> {
        let stop_tokens = &self.open.as_ref()?.sampling.as_ref()?.stop_token_ids;
        self.draft.as_ref()?.must_stop(stop_tokens, now)
    }

    /// Ends the draft in progress and returns its Proposal; `None` if there is no draft.
    pub fn finished(
        &mut self,
        reason: DraftStopReason,
        now: Duration,
        load: DrafterLoad,
    ) -> Option<DrafterMessage> {
        let draft = self.draft.take()?;
        self.cut(draft.end());
        self.ahead = None;
        // A declined draft ends before its rows.
        self.resting = reason == DraftStopReason::Cost && draft.is_empty();
        let mut proposal = draft.into_proposal(reason, now, load);
        proposal.discarded_ahead_tokens = std::mem::take(&mut self.discarded);
        Some(DrafterMessage {
            message: Some(Message::Proposal(proposal)),
        })
    }

    /// Commits `tokens` from position `first` on, which is at most `committed`. True if all were
    /// held already.
    fn hold(&mut self, first: usize, tokens: &[u32]) -> bool {
        let known = self.held[first..]
            .iter()
            .zip(tokens)
            .take_while(|(a, b)| a == b)
            .count();
        if known < tokens.len() {
            self.cut(first + known);
            self.held.extend_from_slice(&tokens[known..]);
        }
        self.committed = first + tokens.len();
        known == tokens.len()
    }

    fn begin(&mut self, commit: &Commit, now: Duration) {
        let draft = Draft::new(commit, &self.profile, now);
        self.asked = draft.goal().max_draft_tokens;
        self.draft = Some(draft);
        if self.ahead.is_none() {
            // The row of the newest committed token must run to give the first choice.
            self.resume(true);
        }
    }

    fn ready(&mut self, load: DrafterLoad) -> Option<DrafterMessage> {
        if self.ready_sent || self.committed == 0 || self.fed + 1 < self.committed {
            return None;
        }
        self.ready_sent = true;
        let ready = Ready {
            held_position: position(self.fed.min(self.committed)),
            exit_layers: self.profile.exit_layers.clone(),
            calibration_id: self.profile.calibration_id.clone(),
            load: Some(load),
        };
        Some(DrafterMessage {
            message: Some(Message::Ready(ready)),
        })
    }

    fn resync(&self) -> DrafterMessage {
        let resync = Resync {
            epoch: self.epoch,
            held_position: position(self.committed),
        };
        DrafterMessage {
            message: Some(Message::Resync(resync)),
        }
    }
}

/// Positions from the wire have 32 bits, and no context is longer than the drafter's.
fn position(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
