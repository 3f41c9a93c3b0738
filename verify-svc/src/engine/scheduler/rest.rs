//! Rest from drafters, of all generations that leave it to `auto` whether to draft.
//!
//! A drafter costs a stream, a prefill of the prompt and an answer, even if the answer is that
//! drafts do not pay. What one generation's drafter declined it would decline for the others: they
//! go without one for a while, and then one of them, the scout, asks again for all. What others hear
//! that kept their drafters, or had unlike requests, changes nothing meanwhile.

use crate::{engine::GenerationKey, session::News};

/// Committed tokens of the first rest, those of generations that go by this.
const FIRST: usize = 64;
/// Of the longest.
const LONGEST: usize = 1024;
/// Committed tokens after which a scout that has learnt nothing is not waited for any more.
const PATIENCE: usize = 1024;
/// Drafts of scouts with a token that was right, none declined between them, that tell that drafts
/// pay: more than `auto` makes to find out what it does not know.
const CONVINCING: usize = 8;

/// Each rest that a scout ends by hearing no is twice as long as the one before; drafts that pay
/// halve the next one.
#[derive(Debug, Default)]
pub(super) struct Rest {
    state: State,
    /// Tokens of the newest rest.
    length: usize,
    /// Drafts of scouts since one was declined.
    drafts: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Everybody may ask.
    #[default]
    Awake,
    /// Nobody may, for so many committed tokens.
    Resting { left: usize },
    /// One asks for all, and the others wait, for so many committed tokens at most.
    Scouting { scout: GenerationKey, left: usize },
}

impl Rest {
    /// What a round of a generation told, which committed so many tokens.
    pub(super) fn learn(&mut self, generation: GenerationKey, news: &News, committed: usize) {
        match &mut self.state {
            State::Awake if news.declined => self.begin(self.length),
            State::Awake => {}
            State::Resting { left } => *left = left.saturating_sub(committed),
            State::Scouting { scout, left } => {
                *left = left.saturating_sub(committed);
                if *scout == generation {
                    self.hear(news);
                }
            }
        }
    }

    /// What the scout's drafter said.
    fn hear(&mut self, news: &News) {
        if news.declined {
            self.begin(self.length * 2);
        } else if matches!(news.draft, Some((_, accepted)) if accepted > 0) {
            self.drafts += 1;
            if self.drafts >= CONVINCING {
                self.length /= 2;
                self.state = State::Awake;
            }
        }
    }

    fn begin(&mut self, length: usize) {
        self.length = length.clamp(FIRST, LONGEST);
        self.drafts = 0;
        self.state = State::Resting { left: self.length };
    }

    /// Whether a generation may ask for a drafter now. Behind a rest the first one that is `long`
    /// enough to learn something may, and is the scout.
    pub(super) fn admits(&mut self, generation: GenerationKey, long: bool) -> bool {
        match self.state {
            State::Awake => true,
            State::Resting { left: 0 } | State::Scouting { left: 0, .. } if long => {
                self.state = State::Scouting {
                    scout: generation,
                    left: PATIENCE,
                };
                true
            }
            State::Resting { .. } => false,
            State::Scouting { scout, .. } => scout == generation,
        }
    }

    /// A generation has ended, or gets no drafter. If it was the scout, another one may go on where it
    /// had begun to learn, and otherwise all rest again: the next one would have no better chance.
    pub(super) fn leave(&mut self, generation: GenerationKey) {
        if matches!(self.state, State::Scouting { scout, .. } if scout == generation) {
            let left = if self.drafts > 0 { 0 } else { self.length };
            self.state = State::Resting { left };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CONVINCING, FIRST, LONGEST, PATIENCE, Rest};
    use crate::{engine::GenerationKey, session::News};
    use dssd_proto::v1::Proposal;

    const A: GenerationKey = GenerationKey(1);
    const B: GenerationKey = GenerationKey(2);

    fn declined() -> News {
        News {
            declined: true,
            ..News::default()
        }
    }

    fn drafted() -> News {
        News {
            draft: Some((Proposal::default(), 1)),
            ..News::default()
        }
    }

    /// Tokens until somebody may ask again; it is the scout then.
    fn rested(rest: &mut Rest, scout: GenerationKey) -> usize {
        let mut tokens = 0;
        while !rest.admits(scout, true) {
            rest.learn(B, &News::default(), 1);
            tokens += 1;
        }
        tokens
    }

    #[test]
    fn one_asks_for_all_once_the_rest_is_over() {
        let mut rest = Rest::default();
        assert!(
            rest.admits(A, true) && rest.admits(B, false),
            "nobody declined"
        );
        rest.learn(A, &declined(), 1);
        assert_eq!(rested(&mut rest, A), FIRST);
        assert!(rest.admits(A, true), "the scout may try another drafter");
        assert!(!rest.admits(B, true), "the others wait");
        for _ in 1..CONVINCING {
            rest.learn(A, &drafted(), 1);
            assert!(!rest.admits(B, true), "a try is no proof");
        }
        rest.learn(A, &drafted(), 1);
        assert!(
            rest.admits(A, true) && rest.admits(B, true),
            "drafts pay again"
        );
    }

    #[test]
    fn only_the_scout_makes_rests_longer() {
        let mut rest = Rest::default();
        for _ in 0..5 {
            rest.learn(A, &declined(), 1);
            rest.learn(B, &declined(), 1);
        }
        let mut lengths = vec![rested(&mut rest, A)];
        for _ in 0..6 {
            rest.learn(B, &declined(), 1);
            assert!(!rest.admits(B, true), "that was not the scout's");
            rest.learn(A, &declined(), 1);
            lengths.push(rested(&mut rest, A));
        }
        let expected = [FIRST - 9, 128, 256, 512, LONGEST, LONGEST, LONGEST];
        assert_eq!(lengths, expected);
        for _ in 0..CONVINCING {
            rest.learn(A, &drafted(), 2);
        }
        rest.learn(B, &declined(), 1);
        assert_eq!(rested(&mut rest, A), LONGEST / 2, "half of it");
    }

    #[test]
    fn a_scout_that_ends_or_learns_nothing_is_followed_by_another() {
        let mut rest = Rest::default();
        rest.learn(A, &declined(), 1);
        rest.learn(A, &News::default(), FIRST);
        assert!(!rest.admits(A, false), "too short to learn anything");
        assert!(rest.admits(A, true));
        for _ in 1..CONVINCING {
            rest.learn(A, &drafted(), 1);
        }
        rest.leave(B);
        assert!(!rest.admits(B, true));
        rest.leave(A);
        assert!(rest.admits(B, true));
        rest.learn(B, &drafted(), 1);
        assert!(rest.admits(A, true), "scouts learn together");

        rest.learn(A, &declined(), 1);
        rest.learn(A, &News::default(), FIRST);
        assert!(rest.admits(A, true));
        rest.leave(A);
        assert_eq!(rested(&mut rest, A), FIRST, "it had learnt nothing");
        rest.learn(B, &News::default(), PATIENCE - 1);
        assert!(!rest.admits(B, true));
        rest.learn(B, &News::default(), 1);
        assert!(rest.admits(B, true));
    }
}
