//! How well heads say what the whole model says.

use super::{learning::Learning, lesson::Lesson};
use crate::{
    Result,
    backbone::{Backbone, Teacher},
};
use dssd_common::entropy::Summary;
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
    /// Counts rows: what a head and the teacher say, and the head's cross-entropy under the teacher.
    pub(super) fn count(&mut self, heads: &[Summary], teacher: &[Summary], cross_entropy: &[f32]) {
        for ((head, teacher), &cross) in heads.iter().zip(teacher).zip(cross_entropy) {
            self.tokens += 1;
            self.agreed += usize::from(head.valid && head.argmax == teacher.argmax);
            self.kl += f64::from(cross) - f64::from(teacher.entropy);
        }
    }

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
pub(super) enum Measured<'a> {
    /// As they are trained.
    Training(&'a mut dyn Learning),
    /// As they are stored, by the pass that serves them; they must be attached to the decoder.
    Stored,
}

/// Measures heads after `layers` on windows, `batch` windows in a pass.
pub(super) fn measure(
    backbone: &mut Backbone,
    mut heads: Measured<'_>,
    layers: &[usize],
    windows: &[Vec<u32>],
    batch: usize,
) -> Result<Vec<Quality>> {
    let mut tallies = vec![Tally::default(); layers.len()];
    let mut teacher = Teacher::new();
    let hidden = backbone.decoder().config().hidden;
    let most = match &heads {
        Measured::Training(learning) => learning.lesson_rows(),
        Measured::Stored => Lesson::rows_at_once(backbone.decoder().vocabulary()),
    };
    for windows in windows.chunks(batch) {
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        let pass = backbone.run(&windows)?;
        for rows in Lesson::parts(pass.rows, most) {
            let lesson = Lesson::new(backbone, &pass, rows.clone(), &mut teacher)?;
            match &mut heads {
                Measured::Training(learning) => learning.answer(&lesson, &mut tallies)?,
                Measured::Stored => {
                    for ((layer, states), tally) in layers.iter().zip(&pass.exits).zip(&mut tallies)
                    {
                        let states = &states[rows.start * hidden..rows.end * hidden];
                        let mut logits = Vec::new();
                        let decoder = backbone.decoder();
                        decoder.exit_logits(*layer, states, &mut logits)?;
                        lesson.judge(logits, tally);
                    }
                }
            }
        }
    }
    let both = layers.iter().zip(&tallies);
    Ok(both.map(|(&layer, tally)| tally.quality(layer)).collect())
}
