//! What is going to be, and what an oracle says of it.

use dssd_proto::v1::{DraftedToken, Open};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
};

/// What each generation is going to be, by its `request_id`. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Truth {
    by_request: Arc<Mutex<HashMap<String, Arc<[u32]>>>>,
}

impl Truth {
    /// Tells the tokens that the generation `request_id` will have, the prompt's left out.
    pub(crate) fn tell(&self, request_id: &str, generated: &[u32]) {
        // No code panics while it holds the lock.
        let mut map = self
            .by_request
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        map.insert(request_id.to_owned(), generated.into());
    }

    fn of(&self, request_id: &str) -> Arc<[u32]> {
        let map = self
            .by_request
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        map.get(request_id).cloned().unwrap_or_default()
    }
}

/// How well an oracle drafts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OracleSettings {
    /// Probability that a proposed token is the true one, 0 to 1.
    pub(crate) acceptance: f64,
    /// Which tokens are wrong depends on this, the generation and the position alone.
    pub(crate) seed: u64,
}

/// What an oracle says of one generation.
pub(crate) struct Prophecy {
    truth: Arc<[u32]>,
    prompt_length: u32,
    vocabulary: u32,
    acceptance: f64,
    /// The errors; a position has its own place in it.
    noise: ChaCha8Rng,
}

impl Prophecy {
    /// What an oracle with `settings` says of the generation that `open` begins.
    pub(super) fn new(truth: &Truth, settings: OracleSettings, open: &Open) -> Self {
        let mut name = DefaultHasher::new();
        open.request_id.hash(&mut name);
        let mut noise = ChaCha8Rng::seed_from_u64(settings.seed);
        noise.set_stream(name.finish());
        Self {
            truth: truth.of(&open.request_id),
            prompt_length: open.prompt_length,
            vocabulary: open.vocabulary_size,
            acceptance: settings.acceptance,
            noise,
        }
    }

    /// The position after the last known one.
    pub(super) fn end(&self) -> u32 {
        self.prompt_length + self.truth.len() as u32
    }

    /// The token at `position`; beyond the known ones, an arbitrary one.
    pub(crate) fn propose(&mut self, position: u32) -> DraftedToken {
        let index = position.saturating_sub(self.prompt_length) as usize;
        let token = self.truth.get(index).copied().unwrap_or_default();
        // Two draws of 64 bits each, so that every position has four words of its own.
        self.noise.set_word_pos(u128::from(position) * 4);
        let right = self.noise.random_bool(self.acceptance);
        let shift = 1 + self.noise.random::<u64>() % u64::from(self.vocabulary.max(2) - 1);
        let wrong = (u64::from(token) + shift) % u64::from(self.vocabulary.max(1));
        DraftedToken {
            token_id: if right { token } else { wrong as u32 },
            exit_head: 0,
            entropy: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{OracleSettings, Prophecy, Truth};
    use dssd_proto::v1::Open;

    #[test]
    fn errors_have_their_rate_and_depend_on_the_position_alone() {
        let truth = Truth::default();
        truth.tell("a", &(0..1000).collect::<Vec<_>>());
        let settings = OracleSettings {
            acceptance: 0.7,
            seed: 3,
        };
        let open = Open {
            request_id: "a".to_owned(),
            prompt_length: 2,
            vocabulary_size: 1000,
            ..Open::default()
        };
        let mut prophecy = Prophecy::new(&truth, settings, &open);
        let mut right = 0;
        for position in 2..1002 {
            let first = prophecy.propose(position);
            assert!(first.token_id < 1000);
            assert_eq!(first, prophecy.propose(position));
            right += u32::from(first.token_id == position - 2);
        }
        // Mean 700, standard deviation 14.5: five of them.
        assert!((628..=772).contains(&right), "{right}");
    }
}
