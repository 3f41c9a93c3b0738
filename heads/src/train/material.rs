//! What a training works with, and how much room it takes.

use crate::{backbone::Machine, corpus::HELD_OUT_SHARE};

use super::{head::Kind, lesson::Lesson, settings::TrainSettings};
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

/// What is known of the work before it starts.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Numbers that move, over all heads.
    pub parameters: usize,
    /// Most memory that training needs beside the mapped weights of the model, in bytes.
    pub peak_bytes: usize,
}

/// An upper estimate: parameters with their gradients, moments and best values; the states of
/// one pass; and the logits of one lesson.
pub(super) fn size(material: &Material, settings: &TrainSettings) -> Size {
    let config = material.checkpoint.config();
    let (hidden, vocabulary) = (config.hidden, config.vocabulary);
    let heads = settings.layers.len();
    let map = match settings.kind {
        Kind::Linear => vocabulary * hidden,
        Kind::Adapter { rank } => 2 * rank * hidden,
    };
    let parameters = heads * (map + 2 * hidden);
    // Value, best value, two moments, summed gradient, and what a step holds for a moment.
    let of_parameters = 4 * (5 * parameters + 3 * map) + 4 * vocabulary * hidden;
    let rows = PASS_ROWS.max(settings.window);
    let of_states = 4 * rows * (hidden * (2 * heads + 4) + 3 * config.intermediate)
        + 8 * rows * config.layers * config.kv_features();
    let of_logits = 4 * 8 * Lesson::rows_at_once(vocabulary) * vocabulary;
    Size {
        parameters,
        peak_bytes: of_parameters + of_states + of_logits,
    }
}
