//! Text and token ids of requests.

use crate::{Error, Result, served::Served};
use dssd_common::exit::ExitRule;
use dssd_proto::v1;

/// Most alternatives with log-probabilities that a request may ask for.
const MAX_LOGPROBS: u32 = 20;

/// A prompt as either request spells it.
pub(super) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl From<v1::generate_request::Prompt> for Prompt {
    fn from(prompt: v1::generate_request::Prompt) -> Self {
        match prompt {
            v1::generate_request::Prompt::Text(text) => Self::Text(text),
            v1::generate_request::Prompt::TokenIds(ids) => Self::Ids(ids.ids),
        }
    }
}

impl From<v1::score_request::Prompt> for Prompt {
    fn from(prompt: v1::score_request::Prompt) -> Self {
        match prompt {
            v1::score_request::Prompt::Text(text) => Self::Text(text),
            v1::score_request::Prompt::TokenIds(ids) => Self::Ids(ids.ids),
        }
    }
}

/// A checked request to score.
pub(super) struct CheckedScore {
    pub(super) tokens: Vec<u32>,
    pub(super) first_index: usize,
    pub(super) top: usize,
    pub(super) early_exit: Option<ExitRule>,
    pub(super) numerics_id: String,
}

impl Served {
    pub(super) fn check_score(&self, request: v1::ScoreRequest) -> Result<CheckedScore> {
        let (field, tokens) = self.prompt(request.prompt.map(Prompt::from))?;
        let (length, most) = (tokens.len(), self.limits.max_context as usize);
        if !(2..=most).contains(&length) {
            let reason = format!("{length} tokens; must be 2 to {most}");
            return Err(Error::field(field, reason));
        }
        let first_index = request.first_index.unwrap_or(1) as usize;
        if !(1..length).contains(&first_index) {
            let reason = format!("is {first_index}; must be 1 to {}", length - 1);
            return Err(Error::field("first_index", reason));
        }
        let early_exit = self.score_rule(request.speculation)?;
        Ok(CheckedScore {
            numerics_id: self.numerics_id(early_exit.as_ref()),
            early_exit,
            tokens,
            first_index,
            top: check_logprobs(request.logprobs)?.unwrap_or(0),
        })
    }

    /// The tokens of a prompt, and the field that they came from.
    pub(super) fn prompt(&self, prompt: Option<Prompt>) -> Result<(&'static str, Vec<u32>)> {
        match prompt {
            None => Err(Error::field(
                "prompt",
                "is missing: give `text` or `token_ids`",
            )),
            Some(Prompt::Text(text)) => Ok(("text", self.tokenize("text", &text)?)),
            Some(Prompt::Ids(ids)) => {
                self.check_ids("token_ids.ids", &ids)?;
                Ok(("token_ids.ids", ids))
            }
        }
    }

    pub(super) fn tokenize(&self, field: &str, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self
            .tokenizer
            .as_ref()
            .ok_or_else(|| no_tokenizer(field, "send token ids"))?;
        // Told before the work is done: a long text keeps a processor busy for seconds.
        let context = self.limits.max_context as usize;
        let most = context.saturating_mul(tokenizer.longest_token());
        if text.len() > most {
            let reason = format!(
                "{} bytes; must be at most {most}, as any longer text has more than {context} tokens",
                text.len()
            );
            return Err(Error::field(field, reason));
        }
        Ok(tokenizer.encode(text)?)
    }

    pub(super) fn detokenize(&self, ids: &[u32]) -> Result<String> {
        let (count, most) = (ids.len(), self.limits.max_context as usize);
        if count > most {
            let reason = format!("{count} ids; must be at most {most}, the longest context");
            return Err(Error::field("token_ids", reason));
        }
        self.check_ids("token_ids", ids)?;
        let tokenizer = self
            .tokenizer
            .as_ref()
            .ok_or_else(|| no_tokenizer("token_ids", "there is no text"))?;
        Ok(tokenizer.decode(ids)?)
    }

    /// Refuses ids that the model does not have.
    pub(super) fn check_ids(&self, field: &str, ids: &[u32]) -> Result<()> {
        let vocabulary = self.model.vocabulary_size;
        match ids.iter().position(|&id| id >= vocabulary) {
            None => Ok(()),
            Some(at) => Err(Error::field(
                format!("{field}[{at}]"),
                format!("is {}; the vocabulary has {vocabulary} ids", ids[at]),
            )),
        }
    }
}

/// Why text does not work with a model that has no tokenizer.
pub(super) fn no_tokenizer(field: &str, instead: &str) -> Error {
    let reason = format!("the model has no tokenizer.json, so {instead}");
    Error::field(field, reason)
}

/// Refuses more alternatives than are told.
pub(super) fn check_logprobs(logprobs: Option<u32>) -> Result<Option<usize>> {
    match logprobs {
        Some(top) if top > MAX_LOGPROBS => Err(Error::field(
            "logprobs",
            format!("is {top}; must be 0 to {MAX_LOGPROBS}"),
        )),
        other => Ok(other.map(|top| top as usize)),
    }
}
