//! The decoder described by data: one configuration for both families.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    kernels::Activation,
};

/// Family, which decides the names and the layout of the tensors; the arithmetic is told by
/// the other fields of [`ModelConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// GPT-NeoX (Pythia): fused query-key-value laid out `[heads, 3, head_dim]`.
    GptNeoX,
    /// Llama and the models that compute the same thing (Mistral without a window, Qwen2).
    Llama,
}

/// What is subtracted and divided out before each sub-layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormKind {
    /// `(x − mean) / sqrt(variance + eps) · weight + bias`.
    LayerNorm,
    /// `x / sqrt(mean(x²) + eps) · weight`.
    RmsNorm,
}

/// A normalisation and its stabiliser.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// Which one.
    pub kind: NormKind,
    /// Added under the square root.
    pub eps: f64,
}

/// How rotary frequencies are changed for contexts longer than those first trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum RotaryScaling {
    /// `theta^(−2i/dims)` as it is.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between
    /// interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Positions that the model was first trained on.
        original_max_positions: usize,
    },
}

/// Rotary position embedding (half-split, GPT-NeoX style, in both families).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// Rotated features of each head, the first ones; even, at most the head's size.
    pub dims: usize,
    /// Base of the frequencies `theta^(−2i/dims)`.
    pub theta: f64,
    /// Change of these frequencies.
    pub scaling: RotaryScaling,
}

/// Everything that the arithmetic of a decoder depends on, besides its weights.
///
/// Both spellings of a Hugging Face `config.json` and both families end in this one form, so
/// that equal models compare equal and have one fingerprint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Token ids are below this.
    pub vocabulary: usize,
    /// Features of the residual stream.
    pub hidden: usize,
    /// Decoder layers of the whole model.
    pub layers: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Key-value heads of a layer; divides `heads`.
    pub kv_heads: usize,
    /// Features of a head; `heads · head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Features inside the MLP.
    pub intermediate: usize,
    /// All normalisations of the model.
    pub norm: Norm,
    /// Non-linearity of the MLP.
    pub activation: Activation,
    /// `down(act(gate(x)) · up(x))` instead of `down(act(up(x)))`.
    pub gated_mlp: bool,
    /// Position embedding.
    pub rotary: Rotary,
    /// Longest sequence that the model is made for.
    pub max_positions: usize,
    /// Attention and MLP read the same input, `x + attention(n₁(x)) + mlp(n₂(x))`.
    pub parallel_residual: bool,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the projection that ends the attention.
    pub attention_output_bias: bool,
    /// Biases on the projections of the MLP.
    pub mlp_bias: bool,
    /// The input embedding serves as the LM head too.
    pub tied_embeddings: bool,
    /// Token that begins a sequence, where the configuration names one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a sequence, where the configuration names any.
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// Features of all query heads together.
    pub fn query_features(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Features of all key (or value) heads together.
    pub fn kv_features(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Refuses sizes that contradict one another, so that no later code meets them. Errors
    /// name the field as `config.json` spells it.
    pub fn validate(&self) -> Result<()> {
        match self.contradiction() {
            None => Ok(()),
            Some((field, reason)) => Err(Error::InvalidParameter { field, reason }),
        }
    }

    /// The first field that cannot be true, and why.
    pub(super) fn contradiction(&self) -> Option<(&'static str, String)> {
        // Limits keep products of sizes far from overflow, and lists of layers small.
        let sizes = [
            ("vocab_size", self.vocabulary, 1 << 28),
            ("hidden_size", self.hidden, 1 << 28),
            ("num_hidden_layers", self.layers, 1 << 14),
            ("num_attention_heads", self.heads, 1 << 14),
            ("num_key_value_heads", self.kv_heads, 1 << 14),
            ("head_dim", self.head_dim, 1 << 14),
            ("intermediate_size", self.intermediate, 1 << 28),
            ("max_position_embeddings", self.max_positions, 1 << 28),
        ];
        for (field, size, limit) in sizes {
            if size == 0 || size > limit {
                return Some((field, format!("must be 1 to {limit}, is {size}")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let reason = format!("{} does not divide the {} heads", self.kv_heads, self.heads);
            return Some(("num_key_value_heads", reason));
        }
        let neox = self.architecture == Architecture::GptNeoX;
        if neox && (self.query_features() != self.hidden || self.kv_heads != self.heads) {
            let reason = format!(
                "{} heads of {} must fill the {} features of `hidden_size`",
                self.heads, self.head_dim, self.hidden
            );
            return Some(("num_attention_heads", reason));
        }
        let dims = self.rotary.dims;
        if dims == 0 || !dims.is_multiple_of(2) || dims > self.head_dim {
            let reason = format!(
                "{dims} rotated features of a head of {}: must be even, and no more than that",
                self.head_dim
            );
            return Some(("partial_rotary_factor", reason));
        }
        if !(self.rotary.theta.is_finite() && self.rotary.theta > 0.0) {
            return Some((
                "rope_theta",
                format!("must be positive, is {}", self.rotary.theta),
            ));
        }
        if !(self.norm.eps.is_finite() && self.norm.eps >= 0.0) {
            return Some((
                "rms_norm_eps",
                format!("must not be negative, is {}", self.norm.eps),
            ));
        }
        self.rotary.scaling.contradiction()
    }
}

impl RotaryScaling {
    fn contradiction(&self) -> Option<(&'static str, String)> {
        let positive = |field, value: f64| {
            let wrong = !(value.is_finite() && value > 0.0);
            wrong.then(|| (field, format!("must be positive, is {value}")))
        };
        match *self {
            Self::None => None,
            Self::Linear { factor } => positive("factor", factor),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => {
                let span = high_freq_factor - low_freq_factor;
                positive("factor", factor)
                    .or_else(|| positive("low_freq_factor", low_freq_factor))
                    .or_else(|| positive("high_freq_factor", high_freq_factor))
                    .or_else(|| positive("high_freq_factor − low_freq_factor", span))
                    .or_else(|| {
                        positive(
                            "original_max_position_embeddings",
                            original_max_positions as f64,
                        )
                    })
            }
        }
    }
}
