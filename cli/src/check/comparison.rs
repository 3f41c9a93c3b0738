//! A speculated run against a plain one.

use crate::client::{Cut, Generated, bits};
use serde::Serialize;

/// What a speculated run has to give: a plain run, from a cut on.
pub(super) struct Expected<'a> {
    pub(super) plain: &'a Generated,
    pub(super) cut: Cut,
    /// Whether log-probabilities count.
    pub(super) logprobs: bool,
}

/// In what a run differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    Token,
    Logprobs,
    /// The text, or the reason of its end, behind equal tokens.
    TextOrEnd,
}

/// How a run differs.
pub(super) struct Difference {
    /// Positions that differ, at least 1.
    pub(super) count: u64,
    pub(super) what: What,
    /// The first one: an index among the generated tokens, the cut's included.
    pub(super) position: usize,
    /// The plain run's token there; none if it ended before.
    pub(super) plain: Option<u32>,
    /// The speculated run's.
    pub(super) speculated: Option<u32>,
}

impl Expected<'_> {
    /// Positions to compare.
    pub(super) fn positions(&self, run: &Generated) -> usize {
        self.tokens().len().max(run.token_ids.len())
    }

    /// How `run` differs, if it does. Equal tokens with another text or end count as one
    /// difference, behind the last token.
    pub(super) fn difference(&self, run: &Generated) -> Option<Difference> {
        let positions = self.positions(run);
        let differing: Vec<usize> = (0..positions).filter(|&at| self.differs(run, at)).collect();
        let at = match differing.first() {
            Some(&first) => first,
            None if !self.has_end_of(run) => positions,
            None => return None,
        };
        let (plain, speculated) = (self.tokens().get(at), run.token_ids.get(at));
        let what = match (at == positions, plain == speculated) {
            (true, _) => What::TextOrEnd,
            (false, true) => What::Logprobs,
            (false, false) => What::Token,
        };
        Some(Difference {
            count: differing.len().max(1) as u64,
            what,
            position: self.cut.tokens + at,
            plain: plain.copied(),
            speculated: speculated.copied(),
        })
    }

    fn tokens(&self) -> &[u32] {
        self.plain
            .token_ids
            .get(self.cut.tokens..)
            .unwrap_or_default()
    }

    fn differs(&self, run: &Generated, at: usize) -> bool {
        if self.tokens().get(at) != run.token_ids.get(at) {
            return true;
        }
        let plain = self.plain.logprobs.get(self.cut.tokens + at).map(bits);
        self.logprobs && plain != run.logprobs.get(at).map(bits)
    }

    fn has_end_of(&self, run: &Generated) -> bool {
        let (plain, run_end) = (&self.plain.finish, &run.finish);
        self.plain.text.get(self.cut.bytes..) == Some(&run.text)
            && plain.finish_reason == run_end.finish_reason
            && plain.stop_string == run_end.stop_string
    }
}

#[cfg(test)]
mod tests {
    use super::{Cut, Expected, Generated, What};
    use dssd_proto::v1::{FinishInfo, PromptInfo, TokenLogprobs};

    fn run(token_ids: &[u32], text: &str) -> Generated {
        let logprobs = token_ids.iter().map(|&token_id| TokenLogprobs {
            token_id,
            logprob: -0.5,
            rank: 1,
            top: Vec::new(),
        });
        Generated {
            token_ids: token_ids.to_vec(),
            text: text.to_owned(),
            logprobs: logprobs.collect(),
            cuts: Vec::new(),
            prompt_info: PromptInfo::default(),
            finish: FinishInfo::default(),
            resumed: 0,
            tokens_per_second: 0.0,
        }
    }

    fn expected(plain: &Generated) -> Expected<'_> {
        Expected {
            plain,
            cut: Cut::default(),
            logprobs: true,
        }
    }

    #[test]
    fn equal_runs_do_not_differ() {
        let plain = run(&[1, 2, 3], "abc");
        assert!(expected(&plain).difference(&plain).is_none());
    }

    #[test]
    fn different_tokens_are_counted_and_the_first_is_located() {
        let plain = run(&[1, 2, 3], "abc");
        let found = expected(&plain).difference(&run(&[1, 7, 3, 4], "abc"));
        let found = found.unwrap();
        assert_eq!(
            (found.count, found.what, found.position),
            (2, What::Token, 1)
        );
        assert_eq!((found.plain, found.speculated), (Some(2), Some(7)));
    }

    #[test]
    fn one_bit_of_a_log_probability_differs_where_they_count() {
        let plain = run(&[1, 2], "ab");
        let mut speculated = run(&[1, 2], "ab");
        let logprob = &mut speculated.logprobs[1].logprob;
        *logprob = logprob.next_down();
        let mut expected = expected(&plain);
        let found = expected.difference(&speculated).unwrap();
        assert_eq!(
            (found.count, found.what, found.position),
            (1, What::Logprobs, 1)
        );
        expected.logprobs = false;
        assert!(expected.difference(&speculated).is_none());
    }

    #[test]
    fn another_text_or_end_of_equal_tokens_is_one_difference() {
        let plain = run(&[1], "a");
        let mut ended = run(&[1], "a");
        ended.finish.finish_reason = 2;
        for speculated in [run(&[1], "b"), ended] {
            let found = expected(&plain).difference(&speculated).unwrap();
            assert_eq!(
                (found.count, found.what, found.position),
                (1, What::TextOrEnd, 1)
            );
        }
    }

    #[test]
    fn a_resumed_run_has_to_give_the_rest_alone() {
        let plain = run(&[1, 2, 3], "abc");
        let mut expected = expected(&plain);
        expected.cut = Cut {
            tokens: 2,
            bytes: 2,
        };
        assert!(expected.difference(&run(&[3], "c")).is_none());
        assert_eq!(expected.positions(&run(&[3], "c")), 1);
        let found = expected.difference(&run(&[4], "c")).unwrap();
        assert_eq!((found.position, found.plain), (2, Some(3)));
        let text = expected.difference(&run(&[3], "abc")).unwrap();
        assert_eq!(text.what, What::TextOrEnd);
    }
}
