//! Rest from drafters, of all generations that leave it to `auto` whether to draft.
//!
//! A drafter costs a stream, a prefill of the prompt and an answer, even if the answer is that
//! drafts do not pay. What one generation's drafter declined it would decline for the others: they
//! go without one for a while, and then one of them asks again for all.

use crate::session::News;

/// Committed tokens, of all generations, of the first rest.
const FIRST: usize = 64;
/// Of the longest.
const LONGEST: usize = 1024;

/// Each rest is twice as long as the one before; a round with a drafted token that is right halves
/// the next one.
#[derive(Debug, Default)]
pub(super) struct Rest {
    length: usize,
    left: usize,
    /// A drafted token was right since the last draft that was declined.
    pays: bool,
}

impl Rest {
    /// What a round of a generation told, which committed so many tokens.
    pub(super) fn learn(&mut self, news: &News, committed: usize) {
        self.left = self.left.saturating_sub(committed);
        if news.declined {
            self.length = (self.length * 2).clamp(FIRST, LONGEST);
            self.left = self.length;
            self.pays = false;
        }
        if matches!(news.draft, Some((_, accepted)) if accepted > 0) {
            self.length /= 2;
            self.pays = true;
        }
    }

    /// Whether a generation may ask for a drafter now. Behind a rest one of them may, and the
    /// others wait for what it learns.
    pub(super) fn admits_one(&mut self) -> bool {
        let admitted = self.pays || self.left == 0;
        if admitted {
            self.left = self.length;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST, LONGEST, Rest};
    use crate::session::News;
    use dssd_proto::v1::Proposal;

    fn declined() -> News {
        News {
            declined: true,
            ..News::default()
        }
    }

    fn accepted(tokens: usize) -> News {
        News {
            draft: Some((Proposal::default(), tokens)),
            ..News::default()
        }
    }

    #[test]
    fn one_asks_for_all_once_the_rest_is_over() {
        let mut rest = Rest::default();
        assert!(rest.admits_one() && rest.admits_one(), "nobody declined");
        rest.learn(&declined(), 1);
        rest.learn(&News::default(), FIRST - 1);
        assert!(!rest.admits_one());
        rest.learn(&News::default(), 1);
        assert!(rest.admits_one());
        assert!(!rest.admits_one(), "the others wait");
        rest.learn(&accepted(2), 3);
        assert!(rest.admits_one() && rest.admits_one(), "drafts pay again");
    }

    #[test]
    fn rests_grow_up_to_a_bound_and_shrink_with_what_is_right() {
        let mut rest = Rest::default();
        for _ in 0..40 {
            rest.learn(&declined(), 1);
        }
        assert_eq!(rest.left, LONGEST);
        rest.learn(&accepted(0), 1);
        assert_eq!(rest.left, LONGEST - 1, "a wrong draft is no reason");
        rest.learn(&accepted(1), 2);
        rest.learn(&declined(), 1);
        assert_eq!(rest.left, LONGEST, "half of it, and twice that");
        for _ in 0..20 {
            rest.learn(&accepted(1), 2);
        }
        rest.learn(&declined(), 1);
        assert_eq!(rest.left, FIRST);
    }
}
