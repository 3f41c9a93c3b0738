//! One document, and how it becomes tokens.

use crate::{Error, Result};
use dssd_common::{checkpoint::Checkpoint, tokenizer::Tokenizer};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// A text, or one that was tokenised before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Text.
    Text(String),
    /// Token ids, special ones included.
    Tokens(Vec<u32>),
}

impl Document {
    /// Whether this is one of the documents (one in `share`) that training never sees. It
    /// depends on the content alone, so that a text and its copies are on one side.
    pub fn is_held_out(&self, share: u64) -> bool {
        let digest = match self {
            Self::Text(text) => Sha256::digest(text.trim()),
            Self::Tokens(ids) => {
                let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                Sha256::digest(&bytes)
            }
        };
        let number = digest.iter().take(8).fold(0, |n, &b| n << 8 | u64::from(b));
        number.is_multiple_of(share.max(1))
    }
}

/// Turns documents into token ids of one model.
#[derive(Clone)]
pub struct Encoder {
    tokenizer: Option<Arc<Tokenizer>>,
    vocabulary: usize,
    begin: Option<u32>,
    end: Option<u32>,
}

impl Encoder {
    /// The encoder of a checkpoint; without a tokenizer it takes token ids only.
    pub fn new(checkpoint: &Checkpoint, tokenizer: Option<Arc<Tokenizer>>) -> Self {
        let defaults = checkpoint.generation_defaults();
        Self {
            tokenizer,
            vocabulary: checkpoint.config().vocabulary,
            begin: defaults.bos_token_id,
            end: defaults.eos_token_ids.first().copied(),
        }
    }

    /// The document's tokens, with the model's begin and end token where it has them.
    ///
    /// # Errors
    /// If text cannot be tokenised, or an id is not in the vocabulary.
    pub fn encode(&self, document: &Document) -> Result<Vec<u32>> {
        let text = match document {
            Document::Tokens(ids) => return self.check(ids),
            Document::Text(text) => text,
        };
        let Some(tokenizer) = &self.tokenizer else {
            return Err(Error::setting(
                "text",
                "the model has no tokenizer.json: give JSON lines with `token_ids`",
            ));
        };
        let mut ids = tokenizer.encode(text)?;
        if let Some(begin) = self.begin.filter(|begin| ids.first() != Some(begin)) {
            ids.insert(0, begin);
        }
        if let Some(end) = self.end.filter(|end| ids.last() != Some(end)) {
            ids.push(end);
        }
        Ok(ids)
    }

    fn check(&self, ids: &[u32]) -> Result<Vec<u32>> {
        match ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            None => Ok(ids.to_vec()),
            Some(id) => Err(Error::setting(
                "text",
                format!(
                    "token id {id} is not below the model's vocabulary of {}",
                    self.vocabulary
                ),
            )),
        }
    }
}
