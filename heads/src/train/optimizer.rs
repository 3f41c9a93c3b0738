//! AdamW, with moments that can be written down and taken up again.

use crate::Result;
use candle_core::{Tensor, Var};
use dssd_common::kernels::AdamWStep;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
/// Longer gradients are scaled down to this length: one odd text must not undo an hour.
const LONGEST_GRADIENT: f64 = 1.0;

/// The state of one head's optimizer (Loshchilov and Hutter, "Decoupled Weight Decay
/// Regularization", arXiv 1711.05101).
pub struct AdamW {
    weight_decay: f64,
    steps: i32,
    moments: Vec<Moments>,
}

/// Running means of a parameter's gradient and of its square.
pub struct Moments {
    /// Of the gradient.
    pub first: Tensor,
    /// Of its square.
    pub second: Tensor,
}

impl AdamW {
    /// The optimizer before its first step.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn new(parameters: &[(&'static str, Var)], weight_decay: f64) -> Result<Self> {
        let moments = parameters.iter().map(|(_, parameter)| {
            Ok(Moments {
                first: parameter.zeros_like()?,
                second: parameter.zeros_like()?,
            })
        });
        Ok(Self {
            weight_decay,
            steps: 0,
            moments: moments.collect::<Result<_>>()?,
        })
    }

    /// Steps so far.
    pub fn steps(&self) -> i32 {
        self.steps
    }

    /// The moments, parameter by parameter.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// Goes on from stored moments.
    pub fn restore(&mut self, steps: i32, moments: Vec<Moments>) {
        self.steps = steps;
        self.moments = moments;
    }

    /// Moves every parameter against its gradient.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn step(
        &mut self,
        parameters: &[(&'static str, Var)],
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<()> {
        self.steps += 1;
        let clip = clip_factor(square_length(gradients)?);
        let correction1 = 1.0 - BETA1.powi(self.steps);
        let correction2 = 1.0 - BETA2.powi(self.steps);
        let all = parameters.iter().zip(gradients).zip(&mut self.moments);
        for (((_, parameter), gradient), moments) in all {
            let gradient = (gradient * clip)?;
            moments.first = ((&moments.first * BETA1)? + (&gradient * (1.0 - BETA1))?)?;
            moments.second = ((&moments.second * BETA2)? + (gradient.sqr()? * (1.0 - BETA2))?)?;
            let scale = ((&moments.second / correction2)?.sqrt()? + EPSILON)?;
            let direction = ((&moments.first / correction1)? / scale)?;
            let kept = (parameter.as_tensor() * (1.0 - learning_rate * self.weight_decay))?;
            parameter.set(&(kept - (direction * learning_rate)?)?)?;
        }
        Ok(())
    }
}

/// The square of the length of all gradients together.
fn square_length(gradients: &[Tensor]) -> Result<f64> {
    let mut square = 0.0;
    for gradient in gradients {
        square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(square)
}

/// What brings gradients down to [`LONGEST_GRADIENT`], given the square of their length.
fn clip_factor(square: f64) -> f64 {
    (LONGEST_GRADIENT / square.sqrt()).min(1.0)
}

/// What a GPU needs to know of the `step`-th step, from 1: as [`AdamW::step`], for gradients that are summed over
/// so many rows, to this square of their length.
pub(super) fn step_on_gpu(
    step: i32,
    rows: usize,
    square: f64,
    weight_decay: f64,
    learning_rate: f64,
) -> AdamWStep {
    let mean = 1.0 / rows as f64;
    AdamWStep {
        mean: mean as f32,
        clip: clip_factor(square * mean * mean) as f32,
        decay1: BETA1 as f32,
        rest1: (1.0 - BETA1) as f32,
        decay2: BETA2 as f32,
        rest2: (1.0 - BETA2) as f32,
        correction1: (1.0 / (1.0 - BETA1.powi(step))) as f32,
        correction2: (1.0 / (1.0 - BETA2.powi(step))) as f32,
        epsilon: EPSILON as f32,
        kept: (1.0 - learning_rate * weight_decay) as f32,
        rate: learning_rate as f32,
    }
}

/// Learning rate at a share of the work done: a linear rise over the first 2 %, then half a
/// cosine down to a tenth.
pub fn scheduled(peak: f64, progress: f64) -> f64 {
    const RISE: f64 = 0.02;
    const FLOOR: f64 = 0.1;
    let progress = progress.clamp(0.0, 1.0);
    if progress < RISE {
        return peak * (progress / RISE).max(0.01);
    }
    let angle = std::f64::consts::PI * (progress - RISE) / (1.0 - RISE);
    peak * (FLOOR + (1.0 - FLOOR) * (1.0 + dssd_common::math::cos(angle)) / 2.0)
}
