//! Weights on the device.

use super::{Address, Gpu};
use crate::{
    Result,
    kernels::{Matrix, WeightType},
};
use cudarc::driver::CudaSlice;

/// Row-major weights `[n outputs, k inputs]` on the device.
pub(crate) struct GpuMatrix {
    bytes: CudaSlice<u8>,
    dtype: WeightType,
    n: usize,
    k: usize,
}

impl GpuMatrix {
    /// Uploads a matrix.
    ///
    /// # Errors
    /// If the device has no room for it, or fails.
    pub(crate) fn upload(gpu: &Gpu, matrix: &Matrix) -> Result<Self> {
        Self::stack(gpu, &[matrix])
    }

    /// Uploads matrices of the same inputs, one below the other.
    ///
    /// # Errors
    /// As [`GpuMatrix::upload`].
    pub(crate) fn stack(gpu: &Gpu, parts: &[&Matrix]) -> Result<Self> {
        let (k, dtype) = parts.first().map_or((0, WeightType::F32), |first| {
            let alike = parts.iter().all(|part| part.dtype() == first.dtype());
            // Every type is exact in f32.
            let dtype = if alike {
                first.dtype()
            } else {
                WeightType::F32
            };
            (first.k(), dtype)
        });
        let bytes = match parts {
            [one] => gpu.upload(one.bytes())?,
            _ => {
                let converted = parts.iter().map(|part| part.convert(dtype));
                let converted = converted.collect::<Result<Vec<_>>>()?;
                let bytes: Vec<&[u8]> = converted.iter().map(Matrix::bytes).collect();
                gpu.upload(&bytes.concat())?
            }
        };
        Ok(Self {
            bytes,
            dtype,
            n: parts.iter().map(|part| part.n()).sum(),
            k,
        })
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn n(&self) -> usize {
        self.n
    }

    pub(super) fn k(&self) -> usize {
        self.k
    }

    pub(super) fn dtype(&self) -> WeightType {
        self.dtype
    }

    pub(super) fn address(&self, gpu: &Gpu) -> Address {
        gpu.address(&self.bytes)
    }
}
