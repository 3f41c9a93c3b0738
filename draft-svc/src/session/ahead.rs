//! Work ahead of the verifier.
//!
//! Once a proposal is sent, the engine may guess that all of it is accepted, guess the verifier's
//! own token behind it too, and go on with what would be the next draft. Such tokens are
//! *foretold*: they stand in `held` behind all others. A Commit that begins as foretold keeps
//! them, and the engine takes from them what the draft that is asked for would have had anyway;
//! any other lets go of them.

use super::DraftSession;

/// Foretold tokens, from an index on.
#[derive(Debug, Clone)]
pub(super) struct Ahead {
    /// Index of the first one, the guess at the verifier's own token.
    from: usize,
    /// Longest draft behind it.
    max_draft_tokens: usize,
    /// Nothing more is to be foretold.
    complete: bool,
}

impl Ahead {
    /// Index of the first token of the draft behind the guess, which itself is nobody's draft.
    fn base_position(&self) -> usize {
        self.from + 1
    }
}

/// What the engine may do while nobody waits for this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AheadPlan<'a> {
    /// Tokens to run behind what has run, in order ([`DraftSession::fed`]); then the last row
    /// decides the next token ([`DraftSession::foretold`]) or the end
    /// ([`DraftSession::stop_ahead`]).
    pub feed: &'a [u32],
    /// Index of the first token of the draft that is foretold; the one before it is a guess at
    /// what the verifier says.
    pub base_position: usize,
}

impl DraftSession {
    /// After a Proposal: guesses that all of it is accepted, and lets [`DraftSession::ahead`]
    /// say what to do until a Commit comes. `guess` is the verifier's own token, if it is guessed
    /// already. False if it cannot ([`DraftSession::can_work_ahead`]).
    pub fn work_ahead(&mut self, guess: Option<u32>) -> bool {
        if !self.can_work_ahead() {
            return false;
        }
        // Without a guess, the last row must run to give one.
        self.fed = self.fed.min(self.held.len() - usize::from(guess.is_none()));
        self.ahead = Some(Ahead {
            from: self.held.len(),
            max_draft_tokens: self.longest_ahead(),
            complete: false,
        });
        if let Some(token) = guess {
            self.foretold(token);
        }
        true
    }

    /// Whether there is something to foretell. There is nothing where the generation ends, the
    /// context is full, or drafts are not wanted.
    pub fn can_work_ahead(&self) -> bool {
        let ended = self.held.last().is_none_or(|&token| self.is_stop(token));
        self.draft.is_none() && !self.resting && !ended && self.longest_ahead() > 0
    }

    /// What is to be done ahead; `None` if nothing is.
    pub fn ahead(&self) -> Option<AheadPlan<'_>> {
        let ahead = self.ahead.as_ref().filter(|ahead| !ahead.complete)?;
        self.draft.is_none().then(|| AheadPlan {
            feed: &self.held[self.fed..],
            base_position: ahead.base_position(),
        })
    }

    /// The engine chose the next token ahead.
    pub fn foretold(&mut self, token: u32) {
        if self.ahead().is_none() {
            return;
        }
        self.held.push(token);
        let (ended, end) = (self.is_stop(token), self.held.len());
        if let Some(ahead) = &mut self.ahead {
            ahead.complete = ended || end >= ahead.base_position() + ahead.max_draft_tokens;
        }
    }

    /// Nothing more is to be foretold.
    pub fn stop_ahead(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            ahead.complete = true;
        }
    }

    /// Whether the draft that is asked for was worked at ahead. The engine then gives it what it
    /// would have had anyway ([`DraftSession::drafted`]), before it goes on with rows
    /// ([`DraftSession::resume`]) or finishes it.
    pub fn is_foretold(&self) -> bool {
        self.draft.is_some() && self.ahead.is_some()
    }

    /// The draft goes on with rows, and foretold tokens that it has not taken are let go of. With
    /// `rerun`, the row of its newest token runs again if it has run.
    pub fn resume(&mut self, rerun: bool) {
        if let Some(draft) = &self.draft {
            let end = draft.end();
            self.cut(end);
            self.ahead = None;
            self.fed = self.fed.min(end - usize::from(rerun));
        }
    }

    /// After a Commit: whether it says what was foretold, and the draft behind that is wanted.
    pub(super) fn came_true(&self) -> bool {
        let base = self.ahead.as_ref().map(Ahead::base_position);
        base == Some(self.committed)
    }

    /// Lets go of all foretold tokens that are not committed.
    pub(super) fn end_ahead(&mut self) {
        if let Some(ahead) = &self.ahead {
            self.cut(ahead.from.max(self.committed));
            self.ahead = None;
        }
    }

    /// Lets go of what is held from index `len` on. What was foretold among it, but for the guess,
    /// was drafted in vain.
    pub(super) fn cut(&mut self, len: usize) {
        let base = self.ahead.as_ref().map_or(usize::MAX, Ahead::base_position);
        let in_vain = self.held.len().saturating_sub(len.max(base));
        self.discarded = self.discarded.saturating_add(super::position(in_vain));
        self.held.truncate(len);
        self.fed = self.fed.min(len);
    }

    /// The longest draft behind the tokens held and a guess: as the last one that was asked for,
    /// one token less than remains then, and within the context.
    fn longest_ahead(&self) -> usize {
        let Some(open) = &self.open else { return 0 };
        let announced = open
            .sampling
            .as_ref()
            .map_or(0, |s| s.max_new_tokens as usize);
        let context = self.profile.max_context;
        let end = match announced {
            0 => context,
            most => context.min(open.prompt_length as usize + most),
        };
        let guess_and_own = 2;
        let room = end.saturating_sub(self.held.len() + guess_and_own);
        room.min(self.asked as usize)
    }

    fn is_stop(&self, token: u32) -> bool {
        let sampling = self.open.as_ref().and_then(|open| open.sampling.as_ref());
        sampling.is_some_and(|sampling| sampling.stop_token_ids.contains(&token))
    }
}
