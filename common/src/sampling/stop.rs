//! Stop strings in text that arrives in pieces.

use super::params::invalid;
use crate::Result;

/// The most stop strings that a request may have.
pub const MAX_STOP_STRINGS: usize = 16;
/// The most bytes that a stop string may have.
pub const MAX_STOP_BYTES: usize = 1024;

/// The end of a text at a stop string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopHit {
    /// Which of the request's stop strings it was.
    pub index: usize,
}

/// Looks for stop strings in a text as it grows, and holds back what may still become one.
///
/// The text ends at the stop string that is complete first; of several that are complete at the same character, at the
/// longest. So the outcome depends on the text alone, not on how it was cut into tokens.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    include: bool,
    held: String,
    hit: Option<StopHit>,
}

impl StopMatcher {
    /// A matcher for these stop strings; with `include` the one found is part of the text.
    ///
    /// # Errors
    /// [`crate::Error::InvalidParameter`] for an empty stop string and above [`MAX_STOP_STRINGS`] or
    /// [`MAX_STOP_BYTES`].
    pub fn new(stop_strings: &[String], include: bool) -> Result<Self> {
        if stop_strings.len() > MAX_STOP_STRINGS {
            let reason = format!(
                "at most {MAX_STOP_STRINGS} are allowed, not {}",
                stop_strings.len()
            );
            return Err(invalid("stop_strings", reason));
        }
        for (i, stop) in stop_strings.iter().enumerate() {
            if !(1..=MAX_STOP_BYTES).contains(&stop.len()) {
                let reason = format!(
                    "entry {i} must have 1 to {MAX_STOP_BYTES} bytes, not {}",
                    stop.len()
                );
                return Err(invalid("stop_strings", reason));
            }
        }
        let patterns = stop_strings.iter().map(|stop| Pattern::new(stop)).collect();
        Ok(Self {
            patterns,
            include,
            held: String::new(),
            hit: None,
        })
    }

    /// Takes the next piece of text; returns what is now certain to be output, and the hit if the text ended in this
    /// piece. After a hit nothing more comes out.
    pub fn push(&mut self, text: &str) -> (String, Option<StopHit>) {
        if self.hit.is_some() {
            return (String::new(), None);
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (i, byte) in text.bytes().enumerate() {
            self.patterns
                .iter_mut()
                .for_each(|pattern| pattern.advance(byte));
            if let Some((index, len)) = self.longest_complete() {
                let end = before + i + 1;
                let kept = if self.include { end } else { end - len };
                self.hit = Some(StopHit { index });
                // A stop string starts and ends between characters, because it is made of whole ones.
                self.held.truncate(kept);
                return (std::mem::take(&mut self.held), self.hit);
            }
        }
        let open = self
            .patterns
            .iter()
            .map(|pattern| pattern.matched)
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - open);
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// The text held back, when the sequence ended for another reason; empty after a hit.
    pub fn flush(&mut self) -> String {
        self.patterns
            .iter_mut()
            .for_each(|pattern| pattern.matched = 0);
        std::mem::take(&mut self.held)
    }

    /// Index and length of the longest stop string that ends here.
    fn longest_complete(&self) -> Option<(usize, usize)> {
        let complete = self
            .patterns
            .iter()
            .enumerate()
            .filter(|(_, pattern)| pattern.is_complete());
        // The first of equal ones.
        complete
            .map(|(index, pattern)| (index, pattern.bytes.len()))
            .rev()
            .max_by_key(|&(_, len)| len)
    }
}

/// The Knuth–Morris–Pratt automaton of one stop string.
#[derive(Debug, Clone)]
struct Pattern {
    bytes: Vec<u8>,
    /// `borders[i]`: the longest proper prefix of the first i + 1 bytes that is also their suffix.
    borders: Vec<usize>,
    /// The longest prefix of the pattern that is a suffix of the text.
    matched: usize,
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let mut pattern = Self {
            bytes: stop.into(),
            borders: vec![0],
            matched: 0,
        };
        for i in 1..stop.len() {
            pattern.advance(pattern.bytes[i]);
            pattern.borders.push(pattern.matched);
        }
        pattern.matched = 0;
        pattern
    }

    fn is_complete(&self) -> bool {
        self.matched == self.bytes.len()
    }

    fn advance(&mut self, byte: u8) {
        while self.matched > 0 && self.bytes.get(self.matched) != Some(&byte) {
            self.matched = self.borders[self.matched - 1];
        }
        if self.bytes[self.matched] == byte {
            self.matched += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_STOP_BYTES, MAX_STOP_STRINGS, StopMatcher};
    use proptest::prelude::*;

    fn matcher(stops: &[&str], include: bool) -> StopMatcher {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        StopMatcher::new(&stops, include).unwrap()
    }

    /// What comes out, piece by piece, and the stop string that was hit; the last piece is the flush.
    fn run(stops: &[&str], include: bool, pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut matcher = matcher(stops, include);
        let mut released = Vec::new();
        let mut found = None;
        for piece in pieces {
            let (text, hit) = matcher.push(piece);
            released.push(text);
            found = found.or(hit.map(|hit| hit.index));
        }
        released.push(matcher.flush());
        (released, found)
    }

    fn strings(pieces: &[&str]) -> Vec<String> {
        pieces.iter().map(|piece| (*piece).to_owned()).collect()
    }

    #[test]
    fn text_flows_when_nothing_can_match() {
        let (text, hit) = run(&["END"], false, &["one ", "two"]);
        assert_eq!((text, hit), (strings(&["one ", "two", ""]), None));
        let (text, hit) = run(&[], false, &["one ", "two"]);
        assert_eq!((text, hit), (strings(&["one ", "two", ""]), None));
    }

    #[test]
    fn a_stop_string_across_pieces_never_leaks() {
        let pieces = ["well E", "N", "D more", "again"];
        let (text, hit) = run(&["END"], false, &pieces);
        assert_eq!((text, hit), (strings(&["well ", "", "", "", ""]), Some(0)));
        let (text, hit) = run(&["END"], true, &pieces);
        assert_eq!(
            (text, hit),
            (strings(&["well ", "", "END", "", ""]), Some(0))
        );
    }

    #[test]
    fn what_turns_out_harmless_is_released() {
        let (text, hit) = run(&["END"], false, &["an EN", "TRY", " E"]);
        assert_eq!((text, hit), (strings(&["an ", "ENTRY", " ", "E"]), None));
    }

    #[test]
    fn a_failed_match_may_contain_the_start_of_another() {
        let (text, hit) = run(&["aab"], false, &["a", "a", "a", "b"]);
        assert_eq!((text, hit), (strings(&["", "", "a", "", ""]), Some(0)));
    }

    #[test]
    fn the_first_complete_one_wins_and_then_the_longest() {
        assert_eq!(
            run(&["abcd", "bc"], false, &["abcd"]),
            (strings(&["a", ""]), Some(1))
        );
        assert_eq!(
            run(&["c", "abc"], false, &["xabc"]),
            (strings(&["x", ""]), Some(1))
        );
        assert_eq!(
            run(&["abc", "abc"], false, &["abc"]),
            (strings(&["", ""]), Some(0))
        );
    }

    #[test]
    fn whole_characters_are_released() {
        // "é" and "è" share their first byte.
        assert_eq!(
            run(&["é!"], false, &["è", "é", "?"]),
            (strings(&["è", "", "é?", ""]), None)
        );
        assert_eq!(
            run(&["日本"], false, &["a日", "本"]),
            (strings(&["a", "", ""]), Some(0))
        );
    }

    #[test]
    fn limits_are_named() {
        let refused = |stops: Vec<String>| StopMatcher::new(&stops, false).unwrap_err().to_string();
        assert!(refused(vec![String::new()]).contains("`stop_strings`"));
        assert!(refused(vec!["x".repeat(MAX_STOP_BYTES + 1)]).contains("entry 0"));
        assert!(refused(vec!["x".into(); MAX_STOP_STRINGS + 1]).contains("at most"));
        StopMatcher::new(&vec!["x".repeat(MAX_STOP_BYTES); MAX_STOP_STRINGS], false).unwrap();
    }

    /// The definition: the least end of any occurrence, then the least start.
    fn expected(stops: &[String], include: bool, text: &str) -> (String, bool) {
        let ends = (0..=text.len()).filter(|&end| text.is_char_boundary(end));
        for end in ends {
            let longest = stops
                .iter()
                .filter(|stop| text[..end].ends_with(*stop))
                .map(String::len)
                .max();
            if let Some(len) = longest {
                return (
                    text[..if include { end } else { end - len }].to_owned(),
                    true,
                );
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abéè]{0,5}", 0..12),
            include in any::<bool>(),
        ) {
            let mut matcher = StopMatcher::new(&stops, include).unwrap();
            let (mut released, mut hit) = (String::new(), false);
            for piece in &pieces {
                let (text, found) = matcher.push(piece);
                released.push_str(&text);
                hit |= found.is_some();
            }
            released.push_str(&matcher.flush());
            prop_assert_eq!((released, hit), expected(&stops, include, &pieces.concat()));
        }
    }
}
