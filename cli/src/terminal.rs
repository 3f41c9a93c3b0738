//! Colours for people: which tokens came from a draft, and which from the whole model.

use dssd_proto::v1::RoundTrace;
use std::{
    collections::BTreeMap,
    io::{ErrorKind, IsTerminal as _, Write as _},
};

const RESET: &str = "\x1b[0m";

/// Where a token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Drafted, and accepted by the whole model.
    Draft,
    /// Of the whole model, after a draft.
    Correction,
    /// Of the whole model, in a round without a draft.
    Plain,
}

impl Origin {
    fn colour(self) -> &'static str {
        match self {
            Self::Draft => "\x1b[32m",
            Self::Correction => "\x1b[33m",
            Self::Plain => "",
        }
    }
}

/// Whether stdout shows colours: a terminal, and no wish to the contrary (no-color.org).
pub(crate) fn has_colour() -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let able = std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb");
    wanted && able && std::io::stdout().is_terminal()
}

/// [`say`] of a formatted line.
macro_rules! say_line {
    ($($text:tt)*) => {
        $crate::terminal::say(&format!("{}\n", format_args!($($text)*)))
    };
}

/// Writes to stdout at once. Where whoever read it has left, as `head` does, there is nobody to tell anything:
/// the process ends, as it does, with a word, where a disk is full.
pub(crate) fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let said = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match said {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(1),
        Err(error) => {
            eprintln!("error: standard output: {error}");
            std::process::exit(1);
        }
    }
}

/// `text` in the colour of its origin.
pub(crate) fn paint(text: &str, origin: Origin, colour: bool) -> String {
    match origin.colour() {
        start if colour && !start.is_empty() && !text.is_empty() => format!("{start}{text}{RESET}"),
        _ => text.to_owned(),
    }
}

/// Where each generated token came from, as rounds tell it.
#[derive(Default)]
pub(crate) struct Origins {
    prompt_length: u32,
    by_index: BTreeMap<u32, Origin>,
}

impl Origins {
    /// Origins of a generation after a prompt of so many tokens.
    pub(crate) fn new(prompt_length: u32) -> Self {
        Self {
            prompt_length,
            by_index: BTreeMap::new(),
        }
    }

    /// Takes note of a round.
    pub(crate) fn note(&mut self, round: &RoundTrace) {
        let accepted = round.drafted.iter().take_while(|t| t.accepted).count() as u32;
        // The last token of the round has no keys and values yet: its index is `kv_position`.
        let last = round.kv_position.saturating_sub(self.prompt_length);
        for index in last.saturating_sub(accepted)..last {
            self.by_index.insert(index, Origin::Draft);
        }
        let own = match round.drafted.is_empty() {
            true => Origin::Plain,
            false => Origin::Correction,
        };
        self.by_index.insert(last, own);
    }

    /// Where the token with this index among the generated ones came from.
    pub(crate) fn of(&self, index: u32) -> Origin {
        self.by_index.get(&index).copied().unwrap_or(Origin::Plain)
    }
}

/// One line about a round.
pub(crate) fn describe(round: &RoundTrace) -> String {
    let drafted: Vec<String> = round
        .drafted
        .iter()
        .map(|token| {
            let mark = if token.accepted { '+' } else { '-' };
            format!(
                "{mark}{}@{} {:.2}",
                token.token_id, token.exit_head, token.entropy
            )
        })
        .collect();
    if let (Some(head), Some(entropy)) = (round.exit_head, round.entropy) {
        let token = round.correction;
        return format!("round {} [] {token}@{head} {entropy:.2}", round.round);
    }
    let why = match round.drafted.is_empty() {
        true => round.plain_reason().as_str_name(),
        false => round.stop_reason().as_str_name(),
    };
    format!(
        "round {} [{}] correction {} kv {} {why}",
        round.round,
        drafted.join(", "),
        round.correction,
        round.kv_position
    )
}

#[cfg(test)]
mod tests {
    use super::{Origin, Origins, paint};
    use dssd_proto::v1::{RoundTrace, TracedToken};

    #[test]
    fn a_round_tells_the_origin_of_its_tokens() {
        let token = |accepted| TracedToken {
            accepted,
            ..TracedToken::default()
        };
        let mut origins = Origins::new(10);
        // Index 0 came from the prefill. The round commits indices 1, 2 and 3.
        origins.note(&RoundTrace {
            drafted: vec![token(true), token(true), token(false)],
            kv_position: 13,
            ..RoundTrace::default()
        });
        origins.note(&RoundTrace {
            kv_position: 14,
            ..RoundTrace::default()
        });
        let found: Vec<Origin> = (0..5).map(|index| origins.of(index)).collect();
        let expected = [
            Origin::Plain,
            Origin::Draft,
            Origin::Draft,
            Origin::Correction,
            Origin::Plain,
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn text_without_colour_is_left_alone() {
        assert_eq!(paint("a", Origin::Draft, false), "a");
        assert_eq!(paint("a", Origin::Plain, true), "a");
        assert_ne!(paint("a", Origin::Draft, true), "a");
    }
}
