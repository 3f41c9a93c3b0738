//! The published sizes of well-known models, for random weights of the same shape.

use super::config::{Architecture, ModelConfig, Norm, NormKind, Rotary, RotaryScaling};
use crate::{
    error::{Error, Result},
    kernels::Activation,
};

/// The configuration of a published model.
pub fn shape(name: &str) -> Result<ModelConfig> {
    let pythia = PYTHIA
        .iter()
        .find(|row| row.name == name)
        .map(Pythia::config);
    let llama = || LLAMA.iter().find(|row| row.name == name).map(Llama::config);
    pythia
        .or_else(llama)
        .ok_or_else(|| Error::InvalidParameter {
            field: "shape",
            reason: format!(
                "`{name}` is not known; known are {}",
                shape_names().collect::<Vec<_>>().join(", ")
            ),
        })
}

/// All names that [`shape`] knows.
pub fn shape_names() -> impl Iterator<Item = &'static str> {
    PYTHIA
        .iter()
        .map(|row| row.name)
        .chain(LLAMA.iter().map(|row| row.name))
}

struct Pythia {
    name: &'static str,
    vocabulary: usize,
    hidden: usize,
    layers: usize,
    heads: usize,
}

#[rustfmt::skip]
const PYTHIA: [Pythia; 8] = [
    Pythia { name: "pythia-70m",  vocabulary: 50304, hidden:  512, layers:  6, heads:  8 },
    Pythia { name: "pythia-160m", vocabulary: 50304, hidden:  768, layers: 12, heads: 12 },
    Pythia { name: "pythia-410m", vocabulary: 50304, hidden: 1024, layers: 24, heads: 16 },
    Pythia { name: "pythia-1b",   vocabulary: 50304, hidden: 2048, layers: 16, heads:  8 },
    Pythia { name: "pythia-1.4b", vocabulary: 50304, hidden: 2048, layers: 24, heads: 16 },
    Pythia { name: "pythia-2.8b", vocabulary: 50304, hidden: 2560, layers: 32, heads: 32 },
    Pythia { name: "pythia-6.9b", vocabulary: 50432, hidden: 4096, layers: 32, heads: 32 },
    Pythia { name: "pythia-12b",  vocabulary: 50688, hidden: 5120, layers: 36, heads: 40 },
];

impl Pythia {
    fn config(&self) -> ModelConfig {
        let head_dim = self.hidden / self.heads;
        ModelConfig {
            architecture: Architecture::GptNeoX,
            vocabulary: self.vocabulary,
            hidden: self.hidden,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.heads,
            head_dim,
            intermediate: 4 * self.hidden,
            norm: Norm {
                kind: NormKind::LayerNorm,
                eps: 1e-5,
            },
            activation: Activation::Gelu,
            gated_mlp: false,
            rotary: Rotary {
                dims: head_dim / 4,
                theta: 10_000.0,
                scaling: RotaryScaling::None,
            },
            max_positions: 2048,
            parallel_residual: true,
            qkv_bias: true,
            attention_output_bias: true,
            mlp_bias: true,
            tied_embeddings: false,
            bos_token_id: Some(0),
            eos_token_ids: vec![0],
        }
    }
}

struct Llama {
    name: &'static str,
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    intermediate: usize,
    tied_embeddings: bool,
    /// `None`: the sizes that all of Llama 2 share; else the factor of Llama 3's rotary scaling.
    llama3_factor: Option<f64>,
}

#[rustfmt::skip]
const LLAMA: [Llama; 4] = [
    Llama { name: "tinyllama-1.1b", hidden: 2048, layers: 22, heads: 32, kv_heads: 4, intermediate:  5632, tied_embeddings: false, llama3_factor: None },
    Llama { name: "llama-3.2-1b",   hidden: 2048, layers: 16, heads: 32, kv_heads: 8, intermediate:  8192, tied_embeddings: true,  llama3_factor: Some(32.0) },
    Llama { name: "llama-3.2-3b",   hidden: 3072, layers: 28, heads: 24, kv_heads: 8, intermediate:  8192, tied_embeddings: true,  llama3_factor: Some(32.0) },
    Llama { name: "llama-3.1-8b",   hidden: 4096, layers: 32, heads: 32, kv_heads: 8, intermediate: 14336, tied_embeddings: false, llama3_factor: Some(8.0) },
];

impl Llama {
    fn config(&self) -> ModelConfig {
        let head_dim = self.hidden / self.heads;
        let two = self.llama3_factor.is_none();
        let (theta, scaling) = match self.llama3_factor {
            None => (10_000.0, RotaryScaling::None),
            Some(factor) => (500_000.0, llama3_scaling(factor)),
        };
        ModelConfig {
            architecture: Architecture::Llama,
            vocabulary: if two { 32_000 } else { 128_256 },
            hidden: self.hidden,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim,
            intermediate: self.intermediate,
            norm: Norm {
                kind: NormKind::RmsNorm,
                eps: 1e-5,
            },
            activation: Activation::Silu,
            gated_mlp: true,
            rotary: Rotary {
                dims: head_dim,
                theta,
                scaling,
            },
            max_positions: if two { 2048 } else { 131_072 },
            parallel_residual: false,
            qkv_bias: false,
            attention_output_bias: false,
            mlp_bias: false,
            tied_embeddings: self.tied_embeddings,
            bos_token_id: Some(if two { 1 } else { 128_000 }),
            eos_token_ids: vec![if two { 2 } else { 128_001 }],
        }
    }
}

fn llama3_scaling(factor: f64) -> RotaryScaling {
    RotaryScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    }
}
