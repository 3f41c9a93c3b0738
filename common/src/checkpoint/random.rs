//! Checkpoints with random weights: for benches and tests, where only the shape matters.

use half::{bf16, f16};

use super::{Checkpoint, ModelConfig, TensorData, expected_tensors};
use crate::{bytes::SharedBytes, error::Result, kernels::WeightType};

/// Standard deviation of the weights, as Hugging Face initialises both families.
const DEVIATION: f32 = 0.02;

/// A checkpoint of this shape in memory, the same for the same seed: weights and biases
/// uniform with mean 0 and standard deviation 0.02, the gains of norms 1.
pub fn random_checkpoint(config: ModelConfig, dtype: WeightType, seed: u64) -> Result<Checkpoint> {
    config.validate()?;
    let uniform = encoded_uniform(dtype);
    let tensors = expected_tensors(&config, config.layers)
        .into_iter()
        .map(|(name, shape)| {
            let weights = shape.iter().product::<usize>();
            let bytes = if name.ends_with("norm.weight") {
                encode(dtype, 1.0).repeat(weights)
            } else {
                let (length, key) = (weights * dtype.bytes_per_weight(), seed ^ name_hash(&name));
                match dtype {
                    WeightType::F32 => fill::<4>(&uniform, length, key),
                    WeightType::F16 | WeightType::Bf16 => fill::<2>(&uniform, length, key),
                }
            };
            let tensor = TensorData::new(&name, dtype, shape, SharedBytes::from_vec(bytes))?;
            Ok((name, tensor))
        });
    let tensors = tensors.collect::<Result<_>>()?;
    Checkpoint::from_parts(config, tensors)
}

/// The 65,536 values that a weight may take, each as its stored bytes: a look-up per weight is
/// what keeps models of gigabytes quick to make.
fn encoded_uniform(dtype: WeightType) -> Vec<u8> {
    // A uniform value on ±a has deviation a/√3.
    let reach = DEVIATION * 3f32.sqrt();
    (0..=u16::MAX)
        .flat_map(|level| encode(dtype, ((f32::from(level) + 0.5) / 32_768.0 - 1.0) * reach))
        .collect()
}

fn encode(dtype: WeightType, value: f32) -> Vec<u8> {
    match dtype {
        WeightType::F32 => value.to_le_bytes().to_vec(),
        WeightType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        WeightType::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
    }
}

/// `length` bytes of values of `WIDTH` bytes out of `table`, chosen by 16 bits each of a
/// counter's hash.
fn fill<const WIDTH: usize>(table: &[u8], length: usize, key: u64) -> Vec<u8> {
    let (table, _) = table.as_chunks::<WIDTH>();
    let mut bytes = vec![0; length];
    let (weights, _) = bytes.as_chunks_mut::<WIDTH>();
    for (counter, four) in (0u64..).zip(weights.chunks_mut(4)) {
        let mut bits = split_mix(key.wrapping_add(counter));
        for weight in four {
            *weight = table[usize::from(bits as u16)];
            bits >>= 16;
        }
    }
    bytes
}

/// SplitMix64's output function (Steele, Lea and Flood 2014) of state `counter · γ`.
fn split_mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a, so that a tensor's weights depend on its name and not on its place in a list; mixed,
/// so that the counters of two tensors do not run side by side.
fn name_hash(name: &str) -> u64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    split_mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}
