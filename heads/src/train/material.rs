//! What a training works with.

use crate::{backbone::Machine, corpus::HELD_OUT_SHARE};
use dssd_common::{checkpoint::Checkpoint, tokenizer::Tokenizer};
use std::{path::PathBuf, sync::Arc};

/// Positions that go through the model at once.
pub(super) const PASS_ROWS: usize = 2048;

/// Windows of full length in one pass.
pub(super) fn windows_at_once(length: usize) -> usize {
    PASS_ROWS.div_ceil(length).max(1)
}

/// What a training works with.
pub struct Material {
    /// The model.
    pub checkpoint: Arc<Checkpoint>,
    /// Its tokenizer, where it has one.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Text to learn from.
    pub text: Vec<PathBuf>,
    /// Text to measure on; a share of `text` if unset.
    pub held_out: Option<PathBuf>,
    /// Where the heads go; holds the state of a training that was interrupted.
    pub out: PathBuf,
    /// Where the model runs.
    pub machine: Machine,
}

impl Material {
    /// One document in so many of the text is kept from training; 0: none is.
    pub(super) fn held_out_share(&self) -> u64 {
        match self.held_out {
            Some(_) => 0,
            None => HELD_OUT_SHARE,
        }
    }
}
