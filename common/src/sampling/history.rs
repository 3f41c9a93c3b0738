//! The tokens of a sequence so far.

use std::collections::HashMap;

/// How often an id is in the two parts of a sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Occurrences {
    pub(super) prompt: u32,
    pub(super) generated: u32,
}

/// Tokens so far, prompt and generated, with how often each id occurs. Pushing or truncating n tokens costs O(n).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    tokens: Vec<u32>,
    prompt_len: usize,
    occurrences: HashMap<u32, Occurrences>,
}

impl History {
    /// A sequence with a prompt and the tokens already generated after it.
    #[must_use]
    pub fn new(prompt: &[u32], generated: &[u32]) -> Self {
        let mut history = Self {
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            ..Self::default()
        };
        for &id in prompt {
            history.occurrences.entry(id).or_default().prompt += 1;
        }
        generated.iter().for_each(|&id| history.push(id));
        history
    }

    /// Appends a generated token.
    pub fn push(&mut self, id: u32) {
        self.tokens.push(id);
        self.occurrences.entry(id).or_default().generated += 1;
    }

    /// Drops generated tokens until at most `len` tokens, prompt included, are left. The prompt always stays.
    pub fn truncate(&mut self, len: usize) {
        let start = len.clamp(self.prompt_len, self.tokens.len());
        for id in self.tokens.drain(start..) {
            let seen = self.occurrences.entry(id).or_default();
            seen.generated -= 1;
            if *seen == Occurrences::default() {
                self.occurrences.remove(&id);
            }
        }
    }

    /// Tokens so far, which is the absolute index of the next token.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a length here is the index of the next token, not a size"
    )]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens of the prompt.
    #[must_use]
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Prompt and generated tokens in order.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The tokens generated so far.
    #[must_use]
    pub fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Every id of the sequence once, in no particular order.
    pub(super) fn occurrences(&self) -> impl Iterator<Item = (u32, Occurrences)> {
        self.occurrences.iter().map(|(&id, &seen)| (id, seen))
    }
}

#[cfg(test)]
mod tests {
    use super::History;
    use proptest::prelude::*;

    #[test]
    fn indices_count_the_prompt() {
        let mut history = History::new(&[5, 6, 7], &[8]);
        assert_eq!((history.len(), history.prompt_len()), (4, 3));
        history.push(9);
        assert_eq!(history.generated(), [8, 9]);
        assert_eq!(history.tokens(), [5, 6, 7, 8, 9]);
        history.truncate(4);
        assert_eq!(history, History::new(&[5, 6, 7], &[8]));
    }

    #[test]
    fn the_prompt_is_never_truncated() {
        let mut history = History::new(&[1, 1], &[1, 2]);
        history.truncate(0);
        assert_eq!(history, History::new(&[1, 1], &[]));
    }

    proptest! {
        /// Whatever is pushed and dropped, the counts are those of a history built at once.
        #[test]
        fn counts_follow_every_change(
            prompt in prop::collection::vec(0u32..6, 0..8),
            changes in prop::collection::vec((prop::collection::vec(0u32..6, 0..5), 0usize..20), 0..12),
        ) {
            let mut history = History::new(&prompt, &[]);
            let mut generated = Vec::new();
            for (pushed, len) in changes {
                for id in pushed {
                    history.push(id);
                    generated.push(id);
                }
                history.truncate(len);
                generated.truncate(len.saturating_sub(prompt.len()));
                prop_assert_eq!(&history, &History::new(&prompt, &generated));
            }
        }
    }
}
