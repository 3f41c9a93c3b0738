//! Documents that training never sees.

use super::{Corpus, Encoder, windows::cut};
use crate::{Error, Result};

/// Windows of the held-out documents (one in `share`; all if 0), in the order of the text, until
/// they hold `tokens` tokens. Each window comes with the number of its document.
///
/// # Errors
/// If the text cannot be read, or holds no such document.
pub fn held_out(
    mut corpus: Corpus,
    encoder: &Encoder,
    share: u64,
    length: usize,
    tokens: usize,
) -> Result<Vec<(usize, Vec<u32>)>> {
    let mut windows = Vec::new();
    let (mut held, mut number) = (0, 0);
    while held < tokens {
        let Some(document) = corpus.next_document()? else {
            break;
        };
        if share > 0 && !document.is_held_out(share) {
            continue;
        }
        let ids = encoder.encode(&document)?;
        for window in cut(&ids, length) {
            held += window.len();
            windows.push((number, window));
            if held >= tokens {
                break;
            }
        }
        number += 1;
    }
    if windows.is_empty() {
        let reason = "holds too few documents to keep some for measuring: give more, or \
                      a file of its own with --held-out";
        return Err(Error::setting("text", reason));
    }
    Ok(windows)
}
