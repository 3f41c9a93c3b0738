//! One transformer layer of either family.

use super::{
    attention::{Attention, AttentionScratch, LayerContext, Projections},
    mlp::{Linear, Mlp, MlpScratch},
    norm::Norm,
    weights::WeightLoader,
};
use crate::{
    Result,
    checkpoint::{Architecture, ModelConfig},
    kv::Step,
};

pub(super) struct Layer {
    pub(super) attention_norm: Norm,
    pub(super) attention: Attention,
    pub(super) mlp_norm: Norm,
    pub(super) mlp: Mlp,
    /// x + attention(norm(x)) + mlp(norm′(x)), instead of one after the other.
    pub(super) parallel_residual: bool,
}

/// Buffers of [`Layer::apply`], kept between calls.
#[derive(Default)]
pub(super) struct LayerScratch {
    normed: Vec<f32>,
    attended: Vec<f32>,
    fed: Vec<f32>,
    attention: AttentionScratch,
    mlp: MlpScratch,
}

impl Layer {
    pub(super) fn load(
        loader: &WeightLoader<'_>,
        config: &ModelConfig,
        index: usize,
    ) -> Result<Self> {
        let names = LayerNames::new(config.architecture, index);
        let linear = |name: &str, bias: bool| Linear::load(loader, name, bias);
        let projections = match &names.projections {
            ProjectionNames::Fused(name) => Projections::Fused(linear(name, config.qkv_bias)?),
            ProjectionNames::Separate(query, key, value) => Projections::Separate {
                query: linear(query, config.qkv_bias)?,
                key: linear(key, config.qkv_bias)?,
                value: linear(value, config.qkv_bias)?,
            },
        };
        let attention = Attention {
            projections,
            output: linear(&names.attention_output, config.attention_output_bias)?,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        };
        let mlp = Mlp {
            gate: names
                .gate
                .map(|name| linear(&name, config.mlp_bias))
                .transpose()?,
            up: linear(&names.up, config.mlp_bias)?,
            down: linear(&names.down, config.mlp_bias)?,
            activation: config.activation,
        };
        Ok(Self {
            attention_norm: Norm::load(loader, config, &names.attention_norm)?,
            attention,
            mlp_norm: Norm::load(loader, config, &names.mlp_norm)?,
            mlp,
            parallel_residual: config.parallel_residual,
        })
    }

    /// Takes `x`, `[rows, hidden]`, through the layer in place.
    pub(super) fn apply(
        &self,
        context: &LayerContext<'_>,
        step: &mut Step<'_>,
        scratch: &mut LayerScratch,
        x: &mut [f32],
    ) {
        let kernels = context.kernels;
        let LayerScratch {
            normed,
            attended,
            fed,
            attention,
            mlp,
        } = scratch;
        normed.resize(x.len(), 0.0);
        self.attention_norm.apply(kernels, x, normed);
        self.attention
            .apply(context, step, normed, attention, attended);
        if self.parallel_residual {
            self.mlp_norm.apply(kernels, x, normed);
            kernels.add(x, attended);
        } else {
            kernels.add(x, attended);
            self.mlp_norm.apply(kernels, x, normed);
        }
        self.mlp.apply(kernels, normed, mlp, fed);
        kernels.add(x, fed);
    }

    pub(super) fn byte_len(&self) -> usize {
        self.attention.byte_len() + self.mlp.byte_len()
    }
}

enum ProjectionNames {
    Fused(String),
    Separate(String, String, String),
}

/// What each family calls the tensors of a layer.
struct LayerNames {
    attention_norm: String,
    projections: ProjectionNames,
    attention_output: String,
    mlp_norm: String,
    gate: Option<String>,
    up: String,
    down: String,
}

impl LayerNames {
    fn new(architecture: Architecture, index: usize) -> Self {
        match architecture {
            Architecture::GptNeoX => {
                let at = |name: &str| format!("gpt_neox.layers.{index}.{name}");
                Self {
                    attention_norm: at("input_layernorm"),
                    projections: ProjectionNames::Fused(at("attention.query_key_value")),
                    attention_output: at("attention.dense"),
                    mlp_norm: at("post_attention_layernorm"),
                    gate: None,
                    up: at("mlp.dense_h_to_4h"),
                    down: at("mlp.dense_4h_to_h"),
                }
            }
            Architecture::Llama => {
                let at = |name: &str| format!("model.layers.{index}.{name}");
                let projections =
                    ["q_proj", "k_proj", "v_proj"].map(|name| at(&format!("self_attn.{name}")));
                let [query, key, value] = projections;
                Self {
                    attention_norm: at("input_layernorm"),
                    projections: ProjectionNames::Separate(query, key, value),
                    attention_output: at("self_attn.o_proj"),
                    mlp_norm: at("post_attention_layernorm"),
                    gate: Some(at("mlp.gate_proj")),
                    up: at("mlp.up_proj"),
                    down: at("mlp.down_proj"),
                }
            }
        }
    }
}
