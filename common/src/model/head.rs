//! What turns a hidden state into logits: the model's own end, or an exit head.

use super::{
    mlp::Linear,
    norm::Norm,
    weights::{self, WeightLoader},
};
use crate::{
    Result,
    checkpoint::{ModelConfig, TensorData, final_norm_name, lm_head_name},
    exit::{ExitHead, HeadKind},
    kernels::{Activation, Kernels, WeightType},
};
use std::sync::Arc;

/// Norm, then (for an adapter) a small residual map, then the unembedding.
///
/// The model's own head is also the *untrained exit* of every layer: the final norm and the
/// unembedding applied early (the "logit lens", nostalgebraist 2020).
pub struct Head {
    pub(super) norm: Norm,
    pub(super) adapter: Option<Adapter>,
    pub(super) unembedding: Arc<Linear>,
}

/// x + up(silu(down(x))).
pub(super) struct Adapter {
    pub(super) down: Linear,
    pub(super) up: Linear,
}

/// Buffers of [`Head::logits`], kept between calls.
#[derive(Default)]
pub(super) struct HeadScratch {
    normed: Vec<f32>,
    inner: Vec<f32>,
    mapped: Vec<f32>,
}

impl Head {
    /// The model's own head.
    pub(super) fn of_model(loader: &WeightLoader<'_>, config: &ModelConfig) -> Result<Self> {
        let unembedding = Linear::from_parts(loader.matrix(lm_head_name(config))?, None);
        let norm = Norm::load(loader, config, final_norm_name(config.architecture))?;
        Ok(Self {
            norm,
            adapter: None,
            unembedding: Arc::new(unembedding),
        })
    }

    /// A trained head; an adapter shares this model's unembedding.
    pub(super) fn trained(
        &self,
        config: &ModelConfig,
        head: &ExitHead,
        compute: Option<WeightType>,
    ) -> Result<Self> {
        let vector = |name, tensor: &TensorData| weights::vector(name, tensor.clone());
        let matrix = |name, tensor: &TensorData| weights::matrix(name, tensor.clone(), compute);
        let norm_bias = head
            .norm_bias
            .as_ref()
            .map(|bias| vector("norm.bias", bias))
            .transpose()?;
        let norm = Norm::from_parts(config, vector("norm.weight", &head.norm_weight)?, norm_bias);
        Ok(match &head.kind {
            HeadKind::Linear { weight, bias } => {
                let bias = bias.as_ref().map(|bias| vector("bias", bias)).transpose()?;
                let unembedding = Linear::from_parts(matrix("weight", weight)?, bias);
                Self {
                    norm,
                    adapter: None,
                    unembedding: Arc::new(unembedding),
                }
            }
            HeadKind::Adapter { down, up } => {
                let down = Linear::from_parts(matrix("down", down)?, None);
                let up = Linear::from_parts(matrix("up", up)?, None);
                Self {
                    norm,
                    adapter: Some(Adapter { down, up }),
                    unembedding: Arc::clone(&self.unembedding),
                }
            }
        })
    }

    /// `hidden`: `[rows, hidden]`; `out` becomes `[rows, vocabulary]`.
    pub(super) fn logits(
        &self,
        kernels: &Kernels,
        hidden: &[f32],
        scratch: &mut HeadScratch,
        out: &mut Vec<f32>,
    ) {
        let HeadScratch {
            normed,
            inner,
            mapped,
        } = scratch;
        normed.resize(hidden.len(), 0.0);
        self.norm.apply(kernels, hidden, normed);
        if let Some(Adapter { down, up }) = &self.adapter {
            down.apply(kernels, normed, inner);
            kernels.activation(Activation::Silu, inner);
            up.apply(kernels, inner, mapped);
            kernels.add(normed, mapped);
        }
        self.unembedding.apply(kernels, normed, out);
    }

    /// Rows of the unembedding, which may be more than the tokenizer knows.
    pub(super) fn vocabulary(&self) -> usize {
        self.unembedding.outputs()
    }

    pub(super) fn byte_len(&self) -> usize {
        let adapter = self
            .adapter
            .as_ref()
            .map_or(0, |a| a.down.byte_len() + a.up.byte_len());
        self.unembedding.byte_len() + adapter
    }
}
