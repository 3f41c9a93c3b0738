//! Rotary position embeddings: tables computed once, in f64.

use crate::{
    checkpoint::{ModelConfig, Rotary, RotaryScaling},
    kernels::{Kernels, Rope},
    math,
};

/// Cosines and sines of every position, `[positions, dims / 2]` each.
pub(super) struct RotaryTable {
    pub(super) half: usize,
    head_dim: usize,
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
}

impl RotaryTable {
    pub(super) fn new(config: &ModelConfig, positions: usize) -> Self {
        let frequencies = frequencies(&config.rotary);
        let half = frequencies.len();
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = position as f64 * frequency;
                cos.push(math::cos(angle) as f32);
                sin.push(math::sin(angle) as f32);
            }
        }
        Self {
            half,
            head_dim: config.head_dim,
            cos,
            sin,
        }
    }

    /// Rotates `x`, `[rows, heads, head_dim]`, each row to its position.
    pub(super) fn apply(
        &self,
        kernels: &Kernels,
        heads: usize,
        positions: &[usize],
        x: &mut [f32],
    ) {
        let args = Rope {
            row_stride: heads * self.head_dim,
            offset: 0,
            heads,
            head_dim: self.head_dim,
            half: self.half,
            positions,
            cos: &self.cos,
            sin: &self.sin,
        };
        kernels.rope(x, args);
    }
}

/// The angle per position of each rotated pair: θ^(−2i/dims), scaled as the checkpoint asks.
fn frequencies(rotary: &Rotary) -> Vec<f64> {
    let dims = rotary.dims;
    let base = (0..dims / 2).map(|i| math::pow(rotary.theta, -((2 * i) as f64) / dims as f64));
    base.map(|frequency| scale(frequency, rotary.scaling))
        .collect()
}

/// Llama 3's scaling keeps short wavelengths, divides long ones by `factor`, and blends between.
fn scale(frequency: f64, scaling: RotaryScaling) -> f64 {
    match scaling {
        RotaryScaling::None => frequency,
        RotaryScaling::Linear { factor } => frequency / factor,
        RotaryScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_positions,
        } => {
            let original = original_max_positions as f64;
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            if wavelength < original / high_freq_factor {
                frequency
            } else if wavelength > original / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (original / wavelength - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}
