//! From committed tokens to what a client may see.
//!
//! A token is sent only with all of its text: what might become a stop string, or is a part of
//! a character, is held back together with its tokens.

use super::request::StopRules;
use crate::Result;
use dssd_common::{
    sampling::{StopHit, StopMatcher},
    tokenizer::TextStream,
};
use dssd_proto::v1;
use std::collections::VecDeque;

/// Why the text of a generation is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// An end-of-sequence or stop token.
    Token(u32),
    /// A stop string.
    String(String),
}

/// Turns tokens into messages for the client and watches for the end.
pub(crate) struct Output {
    rules: StopRules,
    text: Option<TextStream>,
    matcher: StopMatcher,
    /// Tokens that are not sent yet, each with the length of the text up to its end, once that is known.
    held: VecDeque<Held>,
    /// Bytes of text given to the matcher so far.
    produced: usize,
    /// Text that the matcher gave back and that is not sent yet.
    released: String,
    /// Bytes of text that the matcher gave back so far.
    released_bytes: usize,
    /// Bytes that the matcher has still to give back and that the client has already.
    known_bytes: usize,
    next_index: usize,
}

struct Held {
    token: u32,
    logprobs: Option<v1::TokenLogprobs>,
    text_end: Option<usize>,
}

impl Output {
    /// An output that goes on after `resumed` tokens, which are not sent again. If they hold a
    /// stop already, there is nothing to go on with.
    pub(crate) fn new(
        rules: StopRules,
        text: Option<TextStream>,
        resumed: &[u32],
    ) -> Result<(Self, Option<Stop>)> {
        let matcher = StopMatcher::new(&rules.strings, rules.include)?;
        let mut output = Self {
            rules,
            text,
            matcher,
            held: VecDeque::new(),
            produced: 0,
            released: String::new(),
            released_bytes: 0,
            known_bytes: 0,
            next_index: 0,
        };
        let mut stop = None;
        for &token in resumed {
            stop = stop.or(output.push(token, None)?);
            output.take();
        }
        // Whoever has these tokens has all of their text: the next ones showed that it was no stop
        // string, but are not among the resumed ones.
        output.held.clear();
        output.released.clear();
        output.known_bytes = output.produced - output.released_bytes;
        output.next_index = resumed.len();
        Ok((output, stop))
    }

    /// Takes one committed token; says whether it ends the generation.
    pub(crate) fn push(
        &mut self,
        token: u32,
        logprobs: Option<v1::TokenLogprobs>,
    ) -> Result<Option<Stop>> {
        self.held.push_back(Held {
            token,
            logprobs,
            text_end: None,
        });
        if self.rules.token_ids.contains(&token) {
            return Ok(Some(Stop::Token(token)));
        }
        let piece = self
            .text
            .as_mut()
            .map_or_else(|| Ok(String::new()), |text| text.push(token))?;
        let hit = self.feed(&piece);
        if !self.text.as_ref().is_some_and(TextStream::is_pending) {
            let produced = self.produced;
            self.held
                .iter_mut()
                .for_each(|held| _ = held.text_end.get_or_insert(produced));
        }
        Ok(hit.map(|hit| self.stop_string(hit)))
    }

    fn feed(&mut self, piece: &str) -> Option<StopHit> {
        self.produced += piece.len();
        let (released, hit) = self.matcher.push(piece);
        self.release(&released);
        hit
    }

    fn release(&mut self, text: &str) {
        self.released_bytes += text.len();
        let known = self.known_bytes.min(text.len());
        self.known_bytes -= known;
        // Both ends of a piece are between characters, or there is nothing known.
        self.released
            .push_str(text.get(known..).unwrap_or_default());
    }

    /// What may be sent now, if anything.
    pub(crate) fn take(&mut self) -> Option<v1::Tokens> {
        let ready = |held: &Held| held.text_end.is_some_and(|end| end <= self.released_bytes);
        let count = self.held.iter().take_while(|held| ready(held)).count();
        let last = count.checked_sub(1).and_then(|last| self.held.get(last))?;
        // Text beyond the last complete token belongs to the next one.
        let beyond = self.released_bytes - last.text_end.unwrap_or(self.released_bytes);
        let keep = self.released.split_off(self.released.len() - beyond);
        let text = std::mem::replace(&mut self.released, keep);
        Some(self.message(count, text))
    }

    /// Everything that was held back, at the end of a generation that `stop` ended (or its length
    /// did); and the stop, which may show only now.
    pub(crate) fn finish(
        &mut self,
        stop: Option<Stop>,
    ) -> Result<(Option<v1::Tokens>, Option<Stop>)> {
        let mut stop = stop;
        if !matches!(stop, Some(Stop::String(_))) {
            let rest = self
                .text
                .as_mut()
                .map_or_else(|| Ok(String::new()), TextStream::flush)?;
            match self.feed(&rest) {
                Some(hit) => stop = stop.or_else(|| Some(self.stop_string(hit))),
                None => {
                    let rest = self.matcher.flush();
                    self.release(&rest);
                }
            }
        }
        let text = std::mem::take(&mut self.released);
        let rest = !self.held.is_empty() || !text.is_empty();
        Ok((rest.then(|| self.message(self.held.len(), text)), stop))
    }

    fn stop_string(&self, hit: StopHit) -> Stop {
        Stop::String(self.rules.strings[hit.index].clone())
    }

    fn message(&mut self, count: usize, text: String) -> v1::Tokens {
        let first_index = self.next_index as u32;
        self.next_index += count;
        let (token_ids, logprobs): (Vec<_>, Vec<_>) = self
            .held
            .drain(..count)
            .map(|held| (held.token, held.logprobs))
            .unzip();
        v1::Tokens {
            first_index,
            token_ids,
            text,
            logprobs: logprobs.into_iter().flatten().collect(),
        }
    }
}
