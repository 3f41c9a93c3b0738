//! Single kernels on numbers that are in memory, so that they can be compared with the CPU's.

use super::{Gpu, GpuMatrix, GpuNorm};
use crate::{
    Result,
    kernels::{Activation, Matrix},
};

impl Gpu {
    /// As [`Kernels::matmul`](crate::kernels::Kernels::matmul), with its bits.
    ///
    /// # Errors
    /// If the device fails.
    pub fn matmul(&self, x: &[f32], w: &Matrix, bias: Option<&[f32]>) -> Result<Vec<f32>> {
        let rows = x.len() / w.k();
        let mut out = vec![0.0; rows * w.n()];
        let w = GpuMatrix::upload(self, w)?;
        let bias = bias.map(|bias| self.upload(bias)).transpose()?;
        let mut product = self.room(out.len())?;
        self.product(&self.upload(x)?, &w, bias.as_ref(), &mut product, rows)?;
        self.read(&product, &mut out)?;
        Ok(out)
    }

    /// As [`Kernels::layer_norm`](crate::kernels::Kernels::layer_norm) if `centred`, else as
    /// [`Kernels::rms_norm`](crate::kernels::Kernels::rms_norm), with their bits.
    ///
    /// # Errors
    /// If the device fails.
    pub fn normalized(
        &self,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        eps: f32,
        centred: bool,
    ) -> Result<Vec<f32>> {
        let norm = GpuNorm {
            weight: self.upload(weight)?,
            bias: bias.map(|bias| self.upload(bias)).transpose()?,
            eps,
            centred,
        };
        let (mut out, mut normal) = (vec![0.0; x.len()], self.room(x.len())?);
        let rows = x.len() / weight.len();
        self.norm(&norm, &self.upload(x)?, &mut normal, rows)?;
        self.read(&normal, &mut out)?;
        Ok(out)
    }

    /// As [`Kernels::activation`](crate::kernels::Kernels::activation), or
    /// [`Kernels::gated`](crate::kernels::Kernels::gated) where there is an `up`, with their bits.
    ///
    /// # Errors
    /// If the device fails.
    pub fn activated(&self, kind: Activation, x: &[f32], up: Option<&[f32]>) -> Result<Vec<f32>> {
        let up = up.map(|up| self.upload(up)).transpose()?;
        let (mut out, mut buffer) = (vec![0.0; x.len()], self.upload(x)?);
        self.activate(kind, &mut buffer, up.as_ref(), x.len())?;
        self.read(&buffer, &mut out)?;
        Ok(out)
    }
}
