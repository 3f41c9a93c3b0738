//! Text to token ids and back, without ever splitting a character.

mod stream;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use sha2::{Digest, Sha256};
use tokenizers::DecoderWrapper;

use crate::{
    checkpoint::hex,
    error::{Error, Result},
};

pub use stream::TextStream;

/// The tokenizer's file in a checkpoint folder.
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";

/// The tokenizer of a checkpoint folder.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Tokens `<0x00>` … `<0xFF>` stand for bytes instead of for their names.
    byte_fallback: bool,
    longest: usize,
    hash: String,
}

impl Tokenizer {
    /// Reads `tokenizer.json`; `None` if the folder has none, so that it serves token ids only.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let Some(text) = read(dir)? else {
            return Ok(None);
        };
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(&text)).map_err(|error| {
            Error::InvalidFile {
                path: dir.join(TOKENIZER_FILE),
                reason: error.to_string(),
            }
        })?;
        // Prompts are never cut or filled up silently, whatever the file was saved with.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| invalid("tokenizer", &error))?;
        let byte_fallback = inner.get_decoder().is_some_and(falls_back_to_bytes);
        let longest = inner.get_vocab(true).keys().map(String::len).max();
        Ok(Some(Self {
            longest: longest.unwrap_or(0),
            inner,
            byte_fallback,
            hash: hex(&Sha256::digest(&text)),
        }))
    }

    /// The token ids of a prompt, special tokens added as the tokenizer's template says.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, true))
            .map_err(|error| invalid("text", &error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids; special tokens are left out, unknown ids give nothing.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(|| self.inner.decode(ids, true)).map_err(|error| invalid("token_ids", &error))
    }

    /// Whether decoding leaves the token out: it is special, or no token at all.
    fn is_silent(&self, id: u32) -> bool {
        let special = |token: String| self.inner.get_added_vocabulary().is_special_token(&token);
        self.inner.id_to_token(id).is_none_or(special)
    }

    /// Whether the token is one byte of a run that is decoded together.
    fn is_byte(&self, id: u32) -> bool {
        let is_byte_name = |token: String| {
            let digits = token
                .strip_prefix("<0x")
                .and_then(|rest| rest.strip_suffix('>'));
            digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
        };
        self.byte_fallback && self.inner.id_to_token(id).is_some_and(is_byte_name)
    }

    /// Bytes of the longest token, or a little more: a text of more bytes than `count` times as
    /// many has more than `count` tokens.
    pub fn longest_token(&self) -> usize {
        self.longest
    }

    /// SHA-256 of `tokenizer.json`, lower-case hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// One more than the largest token id, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.inner
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |id| id as usize + 1)
    }
}

/// SHA-256 of a folder's `tokenizer.json`, where it has one.
pub(crate) fn file_hash(dir: &Path) -> Result<Option<String>> {
    Ok(read(dir)?.map(|text| hex(&Sha256::digest(&text))))
}

/// Runs the library, which panics over some damaged files where it could refuse them: at once,
/// or when a text needs what the file lacks. Nothing is changed by what is run, so nothing can be
/// left half done.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
        let words = words.unwrap_or("it is damaged");
        Err(format!("the tokenizer file cannot be used: {words}").into())
    })
}

fn falls_back_to_bytes(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(sequence) => {
            sequence.get_decoders().iter().any(falls_back_to_bytes)
        }
        _ => false,
    }
}

fn read(dir: &Path) -> Result<Option<Vec<u8>>> {
    let path = dir.join(TOKENIZER_FILE);
    match std::fs::read(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path, source }),
    }
}

fn invalid(field: &'static str, error: &tokenizers::Error) -> Error {
    Error::InvalidParameter {
        field,
        reason: error.to_string(),
    }
}
