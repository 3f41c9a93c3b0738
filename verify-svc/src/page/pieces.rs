//! Tokens joined with the rounds that they came from, and each with its own text.

use super::view::{DraftedView, RoundView};
use dssd_common::tokenizer::TextStream;
use dssd_proto::v1;
use serde::Serialize;
use std::collections::VecDeque;

/// One token: its text, and where it comes from.
#[derive(Serialize)]
pub(super) struct Piece {
    text: String,
    #[serde(flatten)]
    source: Source,
}

/// Where a token comes from.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Source {
    /// The drafter's, and the whole model chose the same.
    Accepted {
        round: u32,
        exit_head: u32,
        entropy: f32,
    },
    /// The whole model's, after a draft: instead of the `refused` token, or, without one, after
    /// all of a right draft.
    Correction {
        round: u32,
        refused: Option<DraftedView>,
    },
    /// The whole model's, without a draft; the first one comes from the prompt's pass and belongs
    /// to no round.
    Plain {
        round: Option<u32>,
        plain_reason: Option<&'static str>,
    },
}

impl Source {
    /// The first token's, which comes from the prompt's pass.
    const PROMPT: Self = Self::Plain {
        round: None,
        plain_reason: None,
    };
}

/// Joins the messages of one answer, in the order in which they are sent.
pub(super) struct Joiner {
    /// The text of the tokens so far; none if the model has no tokenizer.
    text: Option<TextStream>,
    /// Sources of the next tokens: they may be held back for a while, but each is sent.
    sources: VecDeque<Source>,
}

impl Joiner {
    /// A joiner for the tokens behind those that `text` knows.
    pub(super) fn new(text: Option<TextStream>) -> Self {
        Self {
            text,
            sources: VecDeque::from([Source::PROMPT]),
        }
    }

    /// Takes a round; the tokens that it committed come later.
    pub(super) fn round(&mut self, round: &RoundView) {
        let (number, drafted) = (round.number(), round.drafted());
        let accepted = drafted.iter().take_while(|token| token.accepted);
        let accepted = accepted.map(|token| Source::Accepted {
            round: number,
            exit_head: token.exit_head,
            entropy: token.entropy,
        });
        self.sources.extend(accepted);
        self.sources.push_back(match drafted {
            [] => Source::Plain {
                round: Some(number),
                plain_reason: Some(round.plain_reason()),
            },
            _ => Source::Correction {
                round: number,
                refused: drafted.iter().find(|token| !token.accepted).cloned(),
            },
        });
    }

    /// The pieces of newly committed tokens.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub(super) fn pieces(&mut self, tokens: &v1::Tokens) -> crate::Result<Vec<Piece>> {
        let mut rest = tokens.text.as_str();
        let mut left = tokens.token_ids.len();
        let mut pieces = Vec::with_capacity(left);
        for &id in &tokens.token_ids {
            let own = match &mut self.text {
                Some(text) => text.push(id)?.len(),
                None => 0,
            };
            left -= 1;
            // A message has all the text of its tokens, or what a stop string left of it.
            let end = match left {
                0 => rest.len(),
                _ => rest.floor_char_boundary(own),
            };
            let (text, beyond) = rest.split_at(end);
            rest = beyond;
            pieces.push(Piece {
                text: text.to_owned(),
                source: self.sources.pop_front().unwrap_or(Source::PROMPT),
            });
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dssd_common::serve::open_model;

    const PROMPT: &str = "Once upon a time";

    fn traced(token_id: u32, accepted: bool) -> v1::TracedToken {
        v1::TracedToken {
            token_id,
            exit_head: 1,
            entropy: 0.5,
            accepted,
        }
    }

    fn round(number: u32, drafted: Vec<v1::TracedToken>) -> RoundView {
        let trace = v1::RoundTrace {
            round: number,
            plain_reason: match drafted[..] {
                [] => v1::PlainReason::Late.into(),
                _ => 0,
            },
            drafted,
            ..v1::RoundTrace::default()
        };
        RoundView::new(trace, None)
    }

    fn told(first_index: u32, token_ids: &[u32], text: &str) -> v1::Tokens {
        v1::Tokens {
            first_index,
            token_ids: token_ids.to_vec(),
            text: text.to_owned(),
            ..v1::Tokens::default()
        }
    }

    fn described(pieces: &[Piece]) -> Vec<String> {
        let describe = |piece: &Piece| match &piece.source {
            Source::Accepted { round, .. } => format!("accepted {round}"),
            Source::Correction { round, refused } => {
                let refused = refused.as_ref().map(|token| token.token_id);
                format!("correction {round} {refused:?}")
            }
            Source::Plain {
                round,
                plain_reason,
            } => {
                let reason = plain_reason.unwrap_or("prompt");
                format!("plain {round:?} {reason}")
            }
        };
        pieces.iter().map(describe).collect()
    }

    /// Tokens that are held back come in a later message than those of their round.
    #[test]
    fn tokens_find_the_round_that_they_came_from() {
        let mut joiner = Joiner::new(None);
        let mut pieces = joiner.pieces(&told(0, &[7], "")).unwrap();
        joiner.round(&round(
            0,
            vec![traced(8, true), traced(9, false), traced(3, false)],
        ));
        pieces.extend(joiner.pieces(&told(1, &[8], "")).unwrap());
        joiner.round(&round(1, vec![]));
        joiner.round(&round(2, vec![traced(5, true)]));
        pieces.extend(joiner.pieces(&told(2, &[4, 6, 5, 2], "")).unwrap());
        let expected = [
            "plain None prompt",
            "accepted 0",
            "correction 0 Some(9)",
            "plain Some(1) PLAIN_REASON_LATE",
            "accepted 2",
            "correction 2 None",
        ];
        assert_eq!(described(&pieces), expected);
    }

    #[test]
    fn texts_of_tokens_make_the_text_of_their_message() {
        let tokenizer = open_model(None).unwrap().1.unwrap();
        let prompt = tokenizer.encode(PROMPT).unwrap();
        let text = " there was a naïve 🙂 cat.\n\nThe end";
        let ids = tokenizer.encode(text).unwrap();
        let split = |text: &str| {
            let stream = TextStream::after(tokenizer.clone(), &prompt).unwrap();
            let pieces = Joiner::new(Some(stream)).pieces(&told(0, &ids, text));
            let pieces = pieces.unwrap().into_iter().map(|piece| piece.text);
            pieces.collect::<Vec<_>>()
        };
        let whole = split(text);
        assert_eq!(whole.concat(), text);
        assert!(whole.contains(&" was".to_owned()), "{whole:?}");
        let smile = whole.iter().position(|piece| piece.contains('🙂')).unwrap();
        assert_eq!(whole[smile - 1], "", "a part of a character has no text");
        // As after a stop string.
        let cut = split(" there was a na");
        assert_eq!(cut.concat(), " there was a na");
        assert_eq!(cut.len(), ids.len());
    }
}
