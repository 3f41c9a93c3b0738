//! Windows of tokens in a shuffled order that can be left and taken up again.

use super::{Corpus, Encoder};
use crate::{Error, Result};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Windows that wait for their turn: the more, the less neighbours in a file stay neighbours.
const BUFFERED: usize = 2048;
/// Shorter ends of documents teach little and cost a pass all the same.
const SHORTEST: usize = 8;
/// Documents read in a row without a window before the text is held to be unfit.
const FRUITLESS: usize = 1 << 20;

/// Endless windows of a corpus, begun anew when it is through.
pub struct Windows {
    corpus: Corpus,
    encoder: Encoder,
    length: usize,
    held_out_share: u64,
    random: ChaCha8Rng,
    buffer: Vec<Vec<u32>>,
    passes: u64,
}

/// Where [`Windows`] stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowState {
    offsets: Vec<u64>,
    buffer: Vec<Vec<u32>>,
    /// Numbers drawn from the generator, in words.
    drawn: u64,
    passes: u64,
}

impl Windows {
    /// Windows of at most `length` tokens, without the documents (one in `held_out_share`) that
    /// are kept for measuring; 0 keeps none.
    pub fn new(
        corpus: Corpus,
        encoder: Encoder,
        length: usize,
        held_out_share: u64,
        seed: u64,
    ) -> Self {
        Self {
            corpus,
            encoder,
            length,
            held_out_share,
            random: ChaCha8Rng::seed_from_u64(seed),
            buffer: Vec::new(),
            passes: 0,
        }
    }

    /// How often the whole text was read.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// What [`Windows::restore`] needs.
    pub fn state(&self) -> WindowState {
        WindowState {
            offsets: self.corpus.offsets(),
            buffer: self.buffer.clone(),
            drawn: self.random.get_word_pos() as u64,
            passes: self.passes,
        }
    }

    /// Goes on where `state` was taken.
    ///
    /// # Errors
    /// If a file cannot be read there.
    pub fn restore(&mut self, state: WindowState) -> Result<()> {
        self.corpus.seek(&state.offsets)?;
        self.buffer = state.buffer;
        self.random.set_word_pos(state.drawn.into());
        self.passes = state.passes;
        Ok(())
    }

    /// The next window.
    ///
    /// # Errors
    /// If the text cannot be read, or has no window in it.
    pub fn next_window(&mut self) -> Result<Vec<u32>> {
        let mut fruitless = 0;
        while self.buffer.len() < BUFFERED && fruitless < FRUITLESS {
            let before = self.buffer.len();
            if !self.fill()? && self.passes > 0 && self.buffer.is_empty() {
                break;
            }
            fruitless = if self.buffer.len() > before {
                0
            } else {
                fruitless + 1
            };
        }
        if self.buffer.is_empty() {
            let reason = format!("holds no document of at least {SHORTEST} tokens to learn from");
            return Err(Error::setting("text", reason));
        }
        let chosen = self.random.random_range(0..self.buffer.len());
        Ok(self.buffer.swap_remove(chosen))
    }

    /// Adds the windows of one more document; false at the end of the text.
    fn fill(&mut self) -> Result<bool> {
        let Some(document) = self.corpus.next_document()? else {
            self.corpus.rewind()?;
            self.passes += 1;
            return Ok(false);
        };
        let share = self.held_out_share;
        if share == 0 || !document.is_held_out(share) {
            let ids = self.encoder.encode(&document)?;
            self.buffer.extend(cut(&ids, self.length));
        }
        Ok(true)
    }
}

/// The windows of one document.
pub(crate) fn cut(ids: &[u32], length: usize) -> impl Iterator<Item = Vec<u32>> {
    ids.chunks(length)
        .filter(move |window| window.len() >= SHORTEST.min(length))
        .map(<[u32]>::to_vec)
}
