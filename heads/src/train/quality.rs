//! How well heads say what the whole model says.

use super::{head::TrainableHead, lesson::Lesson};
use crate::{
    Result,
    backbone::{Backbone, Teacher},
};
use serde::{Deserialize, Serialize};

/// One head on held-out text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Layers that run before the head.
    pub layer: usize,
    /// Share of tokens for which its arg-max is the whole model's.
    pub agreement: f64,
    /// Mean divergence KL(model ‖ head), in nats.
    pub kl: f64,
}

/// Sums over tokens, for one head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) tokens: usize,
    pub(super) agreed: usize,
    pub(super) kl: f64,
}

impl Tally {
    pub(super) fn quality(&self, layer: usize) -> Quality {
        let tokens = self.tokens.max(1) as f64;
        Quality {
            layer,
            agreement: self.agreed as f64 / tokens,
            kl: self.kl / tokens,
        }
    }
}

/// Measures heads on windows, `batch` windows in a pass.
pub(super) fn measure(
    backbone: &mut Backbone,
    heads: &[TrainableHead],
    windows: &[Vec<u32>],
    batch: usize,
) -> Result<Vec<Quality>> {
    let mut tallies = vec![Tally::default(); heads.len()];
    let mut teacher = Teacher::new();
    for windows in windows.chunks(batch) {
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        let pass = backbone.run(&windows)?;
        for rows in Lesson::parts(backbone, pass.rows) {
            let lesson = Lesson::new(backbone, &pass, rows, &mut teacher)?;
            for ((index, head), tally) in heads.iter().enumerate().zip(&mut tallies) {
                lesson.hear(index, head, tally)?;
            }
        }
    }
    let both = heads.iter().zip(&tallies);
    Ok(both
        .map(|(head, tally)| tally.quality(head.layer()))
        .collect())
}
