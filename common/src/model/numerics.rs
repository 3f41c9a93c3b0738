//! The name of everything that the bits of an answer depend on.

use super::ARITHMETIC_VERSION;
use crate::{
    Result,
    checkpoint::{Checkpoint, expected_tensors},
    kernels::WeightType,
};

/// Hexadecimal digits of a fingerprint that tell checkpoints apart.
const FINGERPRINT_DIGITS: usize = 16;

/// The type that a checkpoint's matrices are computed in: `f32`, `bf16`, `f16`, or `mixed` where
/// they are kept as stored and not all alike. `asked` is that of [`super::DecoderOptions`].
///
/// # Errors
/// If the checkpoint lacks a tensor.
pub fn compute_type(checkpoint: &Checkpoint, asked: Option<WeightType>) -> Result<&'static str> {
    if let Some(asked) = asked {
        return Ok(asked.name());
    }
    let mut stored = None;
    for (tensor, shape) in expected_tensors(checkpoint.config(), checkpoint.layers_held()) {
        // Norms and biases are widened to f32 however they are stored.
        if shape.len() < 2 {
            continue;
        }
        let dtype = checkpoint.tensor(&tensor)?.dtype;
        if *stored.get_or_insert(dtype) != dtype {
            return Ok("mixed");
        }
    }
    Ok(stored.unwrap_or(WeightType::F32).name())
}

/// Names what output bits depend on: two servers with the same name give the same bits.
/// `compute` is from [`compute_type`], `device` the class of the device, such as `cpu`.
pub fn numerics_id(fingerprint: &str, compute: &str, device: &str) -> String {
    let fingerprint = fingerprint.get(..FINGERPRINT_DIGITS).unwrap_or(fingerprint);
    format!("{fingerprint}-{compute}-{device}-{ARITHMETIC_VERSION}")
}
