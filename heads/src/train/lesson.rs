//! A few rows of a pass: what the teacher says of them, and how far each head is from it.
//!
//! The loss of a head is the mean over tokens of KL(teacher ‖ head) at temperature 1, over the
//! whole vocabulary. Memory is bounded by taking few rows at a time, not slices of the
//! vocabulary: that needs no second product, and a row's sums stay whole.

use super::quality::Tally;
use crate::{
    Result,
    backbone::{Backbone, Pass, Teacher},
};
use dssd_common::{checkpoint::NormKind, entropy::Summary, kernels::Kernels};
use std::{ops::Range, sync::Arc};

/// Logits of this size are held at once, a few times over.
const LOGITS_BYTES: usize = 32 << 20;
/// More rows at once are not quicker.
const MOST_ROWS: usize = 1024;

/// Rows of logits within so many bytes, as many as are worth it.
pub(super) fn rows_within(bytes: usize, vocabulary: usize) -> usize {
    (bytes / (size_of::<f32>() * vocabulary)).clamp(16, MOST_ROWS)
}

/// Rows of a pass with the teacher's word on them.
pub(super) struct Lesson<'a> {
    kernels: Arc<Kernels>,
    vocabulary: usize,
    /// What the whole model says of the rows.
    pub(super) teacher: &'a Teacher,
    /// For each exit, its rows normalised without gain and bias, `[rows, hidden]`.
    pub(super) normalised: Vec<Vec<f32>>,
}

impl<'a> Lesson<'a> {
    /// Rows that the CPU takes at once, for a vocabulary.
    pub(super) fn rows_at_once(vocabulary: usize) -> usize {
        rows_within(LOGITS_BYTES, vocabulary)
    }

    /// Cuts the rows of a pass into lessons of at most so many.
    pub(super) fn parts(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
        (0..rows)
            .step_by(most)
            .map(move |first| first..rows.min(first + most))
    }

    pub(super) fn new(
        backbone: &mut Backbone,
        pass: &Pass,
        rows: Range<usize>,
        teacher: &'a mut Teacher,
    ) -> Result<Self> {
        let config = backbone.decoder().config().clone();
        let part = rows.start * config.hidden..rows.end * config.hidden;
        backbone.teach(&pass.last[part.clone()], teacher)?;
        let kernels = backbone.kernels();
        let (ones, zeros) = (vec![1.0; config.hidden], vec![0.0; config.hidden]);
        let normalise = |states: &Vec<f32>| {
            let states = &states[part.clone()];
            let mut out = vec![0.0; states.len()];
            let eps = config.norm.eps as f32;
            match config.norm.kind {
                NormKind::LayerNorm => {
                    kernels.layer_norm(states, &ones, Some(&zeros), eps, &mut out)
                }
                NormKind::RmsNorm => kernels.rms_norm(states, &ones, eps, &mut out),
            }
            out
        };
        Ok(Self {
            normalised: pass.exits.iter().map(normalise).collect(),
            vocabulary: backbone.decoder().vocabulary(),
            kernels,
            teacher,
        })
    }

    /// How many rows it has.
    pub(super) fn rows(&self) -> usize {
        self.teacher.summaries.len()
    }

    /// Tallies logits `[rows, vocabulary]`, and returns the gradient of Σ KL over the rows.
    pub(super) fn judge(&self, mut values: Vec<f32>, tally: &mut Tally) -> Vec<f32> {
        let mut summaries: Vec<Summary> = Vec::new();
        self.kernels
            .summarize(&values, self.vocabulary, &mut summaries);
        let log_sum_exp: Vec<f32> = summaries.iter().map(|row| row.log_sum_exp).collect();
        let mut cross_entropy = vec![0.0; summaries.len()];
        self.kernels.cross_entropy(
            &self.teacher.probabilities,
            &mut values,
            &log_sum_exp,
            &mut cross_entropy,
        );
        tally.count(&summaries, &self.teacher.summaries, &cross_entropy);
        values
    }
}
