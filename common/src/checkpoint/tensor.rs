//! One stored tensor.

use crate::{
    bytes::SharedBytes,
    error::{Error, Result},
    kernels::WeightType,
};

/// A tensor as it is stored: little-endian, row-major, not necessarily aligned.
#[derive(Clone, Debug)]
pub struct TensorData {
    /// Number format.
    pub dtype: WeightType,
    /// Sizes, outermost first; a projection is `[outputs, inputs]`.
    pub shape: Vec<usize>,
    /// The numbers: as many as the product of `shape`.
    pub bytes: SharedBytes,
}

impl TensorData {
    /// Refuses bytes that are not as many as dtype and shape ask for; `name` is for the error.
    pub fn new(
        name: &str,
        dtype: WeightType,
        shape: Vec<usize>,
        bytes: SharedBytes,
    ) -> Result<Self> {
        let weights = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size));
        let needed = weights.and_then(|weights| weights.checked_mul(dtype.bytes_per_weight()));
        let found = bytes.as_ref().len();
        if needed != Some(found) {
            let reason = format!(
                "{found} bytes do not hold {} of shape {shape:?}",
                dtype_name(dtype)
            );
            return Err(Error::Tensor {
                tensor: name.into(),
                reason,
            });
        }
        Ok(Self {
            dtype,
            shape,
            bytes,
        })
    }

    /// Size in bytes.
    pub fn byte_len(&self) -> usize {
        self.bytes.as_ref().len()
    }
}

/// The name that safetensors headers give to a number format.
pub(crate) fn dtype_name(dtype: WeightType) -> &'static str {
    match dtype {
        WeightType::F32 => "F32",
        WeightType::F16 => "F16",
        WeightType::Bf16 => "BF16",
    }
}

/// The format of a safetensors header, if weights may have it.
pub(crate) fn weight_type(dtype: safetensors::Dtype) -> Option<WeightType> {
    match dtype {
        safetensors::Dtype::F32 => Some(WeightType::F32),
        safetensors::Dtype::F16 => Some(WeightType::F16),
        safetensors::Dtype::BF16 => Some(WeightType::Bf16),
        _ => None,
    }
}

impl safetensors::View for &TensorData {
    fn dtype(&self) -> safetensors::Dtype {
        match self.dtype {
            WeightType::F32 => safetensors::Dtype::F32,
            WeightType::F16 => safetensors::Dtype::F16,
            WeightType::Bf16 => safetensors::Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.bytes.as_ref().into()
    }

    fn data_len(&self) -> usize {
        self.byte_len()
    }
}
