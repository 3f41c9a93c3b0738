//! Layer norm and RMS norm.

use super::weights::WeightLoader;
use crate::{
    Result,
    checkpoint::{ModelConfig, NormKind},
    kernels::Kernels,
};

/// A norm over the features of each row.
pub(super) struct Norm {
    kind: NormKind,
    pub(super) weight: Vec<f32>,
    pub(super) bias: Option<Vec<f32>>,
    pub(super) eps: f32,
}

impl Norm {
    pub(super) fn load(
        loader: &WeightLoader<'_>,
        config: &ModelConfig,
        prefix: &str,
    ) -> Result<Self> {
        let weight = loader.vector(&format!("{prefix}.weight"))?;
        let has_bias = config.norm.kind == NormKind::LayerNorm;
        let bias = loader.vector_if(has_bias, &format!("{prefix}.bias"))?;
        Ok(Self::from_parts(config, weight, bias))
    }

    pub(super) fn from_parts(
        config: &ModelConfig,
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
    ) -> Self {
        Self {
            kind: config.norm.kind,
            weight,
            bias,
            eps: config.norm.eps as f32,
        }
    }

    /// Whether the mean is taken away.
    pub(super) fn is_centred(&self) -> bool {
        self.kind == NormKind::LayerNorm
    }

    /// `x` and `out`: `[rows, features]`.
    pub(super) fn apply(&self, kernels: &Kernels, x: &[f32], out: &mut [f32]) {
        match self.kind {
            NormKind::LayerNorm => {
                kernels.layer_norm(x, &self.weight, self.bias.as_deref(), self.eps, out)
            }
            NormKind::RmsNorm => kernels.rms_norm(x, &self.weight, self.eps, out),
        }
    }
}
