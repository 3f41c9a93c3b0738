//! The skinny product as a candle operation.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor, bail};

use super::{Kernels, matmul::Product, matrix::Weights};

/// `x · wᵀ` with the bits of [`Kernels::matmul`], for candle tensors on the CPU.
/// Shapes: `x` `[m, k]` f32, `w` `[n, k]` f32, f16 or bf16, both contiguous; gives `[m, n]` f32.
///
/// # Errors
/// If a shape, type, layout or device is another.
pub fn skinny_product(kernels: &Kernels, x: &Tensor, w: &Tensor) -> candle_core::Result<Tensor> {
    x.apply_op2_no_bwd(w, &SkinnyProduct(kernels))
}

struct SkinnyProduct<'a>(&'a Kernels);

impl CustomOp2 for SkinnyProduct<'_> {
    fn name(&self) -> &'static str {
        "skinny-product"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let ((m, k), (n, w_k)) = (x_layout.shape().dims2()?, w_layout.shape().dims2()?);
        if k != w_k || k == 0 {
            bail!("skinny-product: x is [{m}, {k}] but w is [{n}, {w_k}]");
        }
        let CpuStorage::F32(x) = x else {
            bail!("skinny-product: x must be f32")
        };
        let x = contiguous(x, x_layout)?;
        let weights = match w {
            CpuStorage::F32(w) => Weights::F32(contiguous(w, w_layout)?),
            CpuStorage::F16(w) => Weights::F16(contiguous(w, w_layout)?),
            CpuStorage::BF16(w) => Weights::Bf16(contiguous(w, w_layout)?),
            _ => bail!("skinny-product: w must be f32, f16 or bf16"),
        };
        let mut out = vec![0.0; m * n];
        let product = Product {
            x,
            k,
            n,
            bias: None,
            out: &mut out,
        };
        product.run(weights, self.0.isa, &self.0.pool);
        Ok((CpuStorage::F32(out), (m, n).into()))
    }
}

fn contiguous<'a, T>(data: &'a [T], layout: &Layout) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("skinny-product: tensors must be contiguous"),
    }
}
