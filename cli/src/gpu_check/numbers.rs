//! Arbitrary numbers, the same every time, and how to compare them.

use dssd_common::{
    bytes::SharedBytes,
    kernels::{Matrix, WeightType},
};
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(super) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub(super) fn numbers(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-2.0f32..2.0)).collect()
}

/// Logits that look like those of a model, around `shift`.
pub(super) fn logits(rng: &mut ChaCha8Rng, count: usize, spread: f32, shift: f32) -> Vec<f32> {
    let mut draw = || (0..6).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>();
    (0..count).map(|_| spread * draw() + shift).collect()
}

/// Comparable bits; all NaN are alike.
pub(super) fn bits(x: &[f32]) -> Vec<u32> {
    let bits = |x: &f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
    x.iter().map(bits).collect()
}

/// Numbers in the bytes of a type, rounded to it.
pub(super) fn bytes(values: &[f32], dtype: WeightType) -> Vec<u8> {
    let narrow = |x: &f32| match dtype {
        WeightType::F32 => x.to_ne_bytes().to_vec(),
        WeightType::F16 => f16::from_f32(*x).to_ne_bytes().to_vec(),
        WeightType::Bf16 => bf16::from_f32(*x).to_ne_bytes().to_vec(),
    };
    values.iter().flat_map(narrow).collect()
}

/// A number as a type holds it.
pub(super) fn rounded(x: f32, dtype: WeightType) -> f32 {
    match dtype {
        WeightType::F32 => x,
        WeightType::F16 => f16::from_f32(x).to_f32(),
        WeightType::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

/// A matrix of arbitrary weights.
///
/// # Errors
/// If it is empty.
pub(super) fn matrix(
    rng: &mut ChaCha8Rng,
    dtype: WeightType,
    n: usize,
    k: usize,
) -> dssd_common::Result<Matrix> {
    let values = numbers(rng, n * k);
    Matrix::new(SharedBytes::from_vec(bytes(&values, dtype)), dtype, n, k)
}
