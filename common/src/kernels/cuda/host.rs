//! Single kernels on numbers that are in memory, so that they can be compared with the CPU's.

use super::{Finish, Gpu, GpuMatrix, GpuNorm};
use crate::{
    Result,
    bytes::SharedBytes,
    kernels::{Activation, Matrix, WeightType},
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
        let finish = Finish {
            bias: bias.as_ref(),
            ..Finish::default()
        };
        self.product(&self.upload(x)?, &w, finish, &mut product, rows)?;
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
        self.norm(&norm, &self.upload(x)?, &mut normal, None, rows)?;
        self.read(&normal, &mut out)?;
        Ok(out)
    }

    /// As [`Kernels::activation`](crate::kernels::Kernels::activation), or
    /// [`Kernels::gated`](crate::kernels::Kernels::gated) where there is an `up`, with their bits but for those of -0:
    /// it is what a product by 1 makes of `x`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn activated(&self, kind: Activation, x: &[f32], up: Option<&[f32]>) -> Result<Vec<f32>> {
        let one = SharedBytes::from_vec(1f32.to_le_bytes().to_vec());
        let one = GpuMatrix::upload(self, &Matrix::new(one, WeightType::F32, 1, 1)?)?;
        let up = up.map(|up| self.upload(up)).transpose()?;
        let (mut out, mut product) = (vec![0.0; x.len()], self.room(x.len())?);
        let finish = Finish {
            activation: Some(kind),
            factor: up.as_ref(),
            ..Finish::default()
        };
        self.product(&self.upload(x)?, &one, finish, &mut product, x.len())?;
        self.read(&product, &mut out)?;
        Ok(out)
    }
}
