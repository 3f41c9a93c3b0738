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
        Ok(Self {
            bytes: gpu.upload(matrix.bytes())?,
            dtype: matrix.dtype(),
            n: matrix.n(),
            k: matrix.k(),
        })
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
