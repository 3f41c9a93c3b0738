//! Text of a growing sequence of tokens, piece by piece.

use std::sync::Arc;

use super::Tokenizer;
use crate::error::Result;

/// Tokens of a prompt that serve as context: more than any one piece has.
const CONTEXT_TOKENS: usize = 8;

/// An incremental detokeniser: its pieces, joined, are the [`Tokenizer::decode`] of all ids.
///
/// A piece never ends inside a character. What decoders do at the beginning of a text alone
/// (dropping a leading space) must not happen at every piece, so each decoding sees the tokens
/// of the piece before as context.
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    /// The tokens of the newest finished piece, then those that are not finished.
    window: Vec<u32>,
    /// How many tokens of `window` belong to the finished piece.
    context: usize,
    /// How many bytes of the window's text have been given out.
    given: usize,
}

impl TextStream {
    /// A stream at the beginning of a text.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            tokenizer,
            window: Vec::new(),
            context: 0,
            given: 0,
        }
    }

    /// A stream that goes on after `prompt`: joined to the prompt's own text, its pieces are the
    /// text of all tokens. (Some decoders drop a space at the beginning of a text only.)
    pub fn after(tokenizer: Arc<Tokenizer>, prompt: &[u32]) -> Result<Self> {
        let spoken = prompt.iter().rev().filter(|&&id| !tokenizer.is_silent(id));
        let mut window: Vec<u32> = spoken.take(CONTEXT_TOKENS).copied().collect();
        window.reverse();
        let given = tokenizer.decode(&window)?;
        // A prompt that ends inside a character is no context to build on.
        if given.is_empty() || given.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(Self::new(tokenizer));
        }
        Ok(Self {
            tokenizer,
            context: window.len(),
            window,
            given: given.len(),
        })
    }

    /// Adds a token; gives the text that is certain now, which may be none.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.tokenizer.is_silent(id) {
            return Ok(String::new());
        }
        self.window.push(id);
        if self.tokenizer.is_byte(id) {
            // One invalid byte turns its whole run of byte tokens into replacement characters,
            // so nothing of a run is certain before its end.
            return Ok(String::new());
        }
        let text = self.tokenizer.decode(&self.window)?;
        // A replacement character at the end may be the beginning of a character.
        let certain = text
            .strip_suffix(char::REPLACEMENT_CHARACTER)
            .unwrap_or(&text)
            .len();
        let piece = self.give(&text[..certain]);
        if certain == text.len() {
            self.finish_piece()?;
        }
        Ok(piece)
    }

    /// Whether some token's text is not complete yet.
    pub fn is_pending(&self) -> bool {
        self.window.len() > self.context
    }

    /// Ends the text: gives what was held back, with replacement characters for what never
    /// became a character.
    pub fn flush(&mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window)?;
        let piece = self.give(&text);
        self.window.clear();
        (self.context, self.given) = (0, 0);
        Ok(piece)
    }

    /// The part of the window's `text` that has not been given out.
    fn give(&mut self, text: &str) -> String {
        let piece = text.get(self.given..).unwrap_or_default().to_owned();
        self.given = self.given.max(text.len());
        piece
    }

    /// Makes the newest finished tokens the context of the next ones. One token with a
    /// character of its own is context enough: a leading space is dropped from it, if anywhere.
    fn finish_piece(&mut self) -> Result<()> {
        self.window.drain(..self.context);
        self.context = self.window.len();
        self.given = self.tokenizer.decode(&self.window)?.len();
        Ok(())
    }
}
