//! The feed-forward half of a layer.

use super::weights::WeightLoader;
use crate::{
    Result,
    kernels::{Activation, Kernels, Matrix},
};

/// A matrix with an optional bias.
pub(super) struct Linear {
    pub(super) weight: Matrix,
    pub(super) bias: Option<Vec<f32>>,
}

impl Linear {
    pub(super) fn load(loader: &WeightLoader<'_>, name: &str, bias: bool) -> Result<Self> {
        Ok(Self {
            weight: loader.matrix(&format!("{name}.weight"))?,
            bias: loader.vector_if(bias, &format!("{name}.bias"))?,
        })
    }

    pub(super) fn from_parts(weight: Matrix, bias: Option<Vec<f32>>) -> Self {
        Self { weight, bias }
    }

    pub(super) fn outputs(&self) -> usize {
        self.weight.n()
    }

    pub(super) fn byte_len(&self) -> usize {
        self.weight.byte_len()
    }

    /// `x`: `[rows, inputs]`; `out` becomes `[rows, outputs]`.
    pub(super) fn apply(&self, kernels: &Kernels, x: &[f32], out: &mut Vec<f32>) {
        let rows = x.len() / self.weight.k();
        out.resize(rows * self.weight.n(), 0.0);
        kernels.matmul(x, &self.weight, self.bias.as_deref(), out);
    }
}

/// Up, activation, down; with a gate in the Llama family.
pub(super) struct Mlp {
    pub(super) gate: Option<Linear>,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) activation: Activation,
}

/// Buffers of [`Mlp::apply`], kept between calls.
#[derive(Default)]
pub(super) struct MlpScratch {
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Mlp {
    /// `x`: `[rows, hidden]`; `out` becomes `[rows, hidden]`.
    pub(super) fn apply(
        &self,
        kernels: &Kernels,
        x: &[f32],
        scratch: &mut MlpScratch,
        out: &mut Vec<f32>,
    ) {
        self.up.apply(kernels, x, &mut scratch.up);
        match &self.gate {
            None => {
                kernels.activation(self.activation, &mut scratch.up);
                self.down.apply(kernels, &scratch.up, out);
            }
            Some(gate) => {
                gate.apply(kernels, x, &mut scratch.gate);
                kernels.gated(self.activation, &mut scratch.gate, &scratch.up);
                self.down.apply(kernels, &scratch.gate, out);
            }
        }
    }

    pub(super) fn byte_len(&self) -> usize {
        self.up.byte_len() + self.down.byte_len() + self.gate.as_ref().map_or(0, Linear::byte_len)
    }
}
