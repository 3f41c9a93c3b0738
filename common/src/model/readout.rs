//! What rows of logits say, without the logits where those are not needed.

use crate::entropy::Summary;

/// The tokens and summaries of rows of logits. A GPU chooses tokens itself where penalties and filters have
/// no say, and then their logits stay there; the CPU has all logits at hand, and chooses nothing.
#[derive(Debug, Default)]
pub struct Readout {
    vocabulary: usize,
    rows: Vec<Row>,
    /// Those that are here, `[_, vocabulary]`.
    pub(super) logits: Vec<f32>,
    pub(super) summaries: Vec<Summary>,
}

#[derive(Clone, Copy, Debug)]
enum Row {
    Token(u32),
    /// The place of its logits.
    Logits(usize),
}

/// What is known of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reading<'a> {
    /// The token that was chosen.
    Token(u32),
    /// The logits, `[vocabulary]`, out of which a token is to be chosen.
    Logits(&'a [f32]),
}

impl Readout {
    /// What is known of row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> Reading<'_> {
        match self.rows[row] {
            Row::Token(token) => Reading::Token(token),
            Row::Logits(place) => {
                let begin = place * self.vocabulary;
                Reading::Logits(&self.logits[begin..begin + self.vocabulary])
            }
        }
    }

    /// A summary of each row, if they were asked for.
    pub fn summaries(&self) -> &[Summary] {
        &self.summaries
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.summaries.clear();
    }

    /// Forgets all rows, for those of another head.
    pub(super) fn begin(&mut self, vocabulary: usize) {
        self.clear();
        self.vocabulary = vocabulary;
    }

    /// Takes all that is in `logits` as rows, in order.
    pub(super) fn set_here(&mut self) {
        let rows = self.logits.len() / self.vocabulary;
        self.rows.extend((0..rows).map(Row::Logits));
    }

    /// Takes rows by their tokens, and makes room for the logits of those that have none.
    pub(super) fn set_tokens(&mut self, tokens: impl Iterator<Item = Option<u32>>) {
        let mut places = 0..;
        let row = |token: Option<u32>| match token {
            Some(token) => Row::Token(token),
            None => Row::Logits(places.next().unwrap_or(0)),
        };
        self.rows.extend(tokens.map(row));
        self.logits.resize(places.start * self.vocabulary, 0.0);
    }

    /// The rows that have no token, with room for their logits.
    pub(super) fn missing(&mut self) -> impl Iterator<Item = (usize, &mut [f32])> {
        let rows = self.rows.iter().enumerate();
        let missing = rows.filter(|(_, row)| matches!(row, Row::Logits(_)));
        let rooms = self.logits.chunks_exact_mut(self.vocabulary);
        missing.map(|(row, _)| row).zip(rooms)
    }
}
