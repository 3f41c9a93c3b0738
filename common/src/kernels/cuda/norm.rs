//! The launch of `norm.cu`.

use super::{Address, Floats, Gpu, define, failed, grid};
use crate::Result;
use cudarc::driver::PushKernelArg as _;

const THREADS: u32 = define("NORM_THREADS");

/// A norm whose vectors are on the device.
pub(crate) struct GpuNorm {
    pub(crate) weight: Floats,
    pub(crate) bias: Option<Floats>,
    pub(crate) eps: f32,
    /// A layer norm, which takes the mean away; else an RMS norm.
    pub(crate) centred: bool,
}

impl Gpu {
    /// Normalises rows of the weight's length. Shapes: `x` and `out` `[rows, width]`.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If a buffer is too short.
    pub(crate) fn norm(
        &self,
        norm: &GpuNorm,
        x: &Floats,
        out: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        let width = norm.weight.len();
        assert!(
            x.len() >= rows * width && out.len() >= rows * width,
            "short buffers"
        );
        let function = self.kernel("norm_rows")?;
        let [x, weight, out] = [x, &norm.weight, &*out].map(|buffer| self.address(buffer));
        let bias: Address = norm.bias.as_ref().map_or(0, |bias| self.address(bias));
        let (width, centred) = (width as u32, u32::from(norm.centred));
        let mut launch = self.launch(function);
        launch.arg(&x).arg(&weight).arg(&bias).arg(&out);
        launch.arg(&width).arg(&norm.eps).arg(&centred);
        // SAFETY: the arguments are those of `norm_rows`, in order. Block r reads and writes row r.
        unsafe { launch.launch(grid((rows, 1), THREADS)?) }.map_err(failed)?;
        Ok(())
    }
}
