//! How well heads say what the whole model says.

use super::{head::TrainableHead, lesson::Lesson};
use crate::{
    Result,
    backbone::{Backbone, Teacher},
};
use dssd_common::exit::ExitHeads;
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

/// Heads that can be measured.
#[derive(Clone, Copy)]
pub(super) enum Measured<'a> {
    /// As they are trained.
    Training(&'a [TrainableHead]),
    /// As they are stored, by the pass that serves them; they must be attached to the decoder.
    Stored(&'a ExitHeads),
}

impl Measured<'_> {
    fn layers(&self) -> Vec<usize> {
        match self {
            Self::Training(heads) => heads.iter().map(TrainableHead::layer).collect(),
            Self::Stored(heads) => heads.heads.iter().map(|head| head.layer).collect(),
        }
    }
}

/// Measures heads on windows, `batch` windows in a pass.
pub(super) fn measure(
    backbone: &mut Backbone,
    heads: Measured<'_>,
    windows: &[Vec<u32>],
    batch: usize,
) -> Result<Vec<Quality>> {
    let layers = heads.layers();
    let mut tallies = vec![Tally::default(); layers.len()];
    let mut teacher = Teacher::new();
    let hidden = backbone.decoder().config().hidden;
    for windows in windows.chunks(batch) {
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        let pass = backbone.run(&windows)?;
        for rows in Lesson::parts(backbone, pass.rows) {
            let lesson = Lesson::new(backbone, &pass, rows.clone(), &mut teacher)?;
            for (exit, tally) in tallies.iter_mut().enumerate() {
                let logits = match heads {
                    Measured::Training(heads) => lesson.logits(exit, &heads[exit])?,
                    Measured::Stored(_) => {
                        let states = &pass.exits[exit][rows.start * hidden..rows.end * hidden];
                        let mut logits = Vec::new();
                        let decoder = backbone.decoder();
                        decoder.exit_logits(layers[exit], states, &mut logits)?;
                        logits
                    }
                };
                lesson.judge(logits, tally);
            }
        }
    }
    let both = layers.into_iter().zip(&tallies);
    Ok(both.map(|(layer, tally)| tally.quality(layer)).collect())
}
