//! The launches of `activation.cu`.

use super::{Address, Floats, Gpu, define, failed, grid};
use crate::{Result, kernels::Activation};
use cudarc::driver::PushKernelArg as _;

/// Threads of a block where each has one element.
pub(super) const THREADS: u32 = 256;

/// Blocks for so many elements.
pub(super) fn blocks(elements: usize) -> (usize, usize) {
    (elements.div_ceil(THREADS as usize), 1)
}

impl Gpu {
    /// `x = act(x)`, or `act(x) · up`, of the first `count` elements.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If a buffer is too short.
    pub(crate) fn activate(
        &self,
        kind: Activation,
        x: &mut Floats,
        up: Option<&Floats>,
        count: usize,
    ) -> Result<()> {
        assert!(
            x.len() >= count && up.is_none_or(|up| up.len() >= count),
            "short buffers"
        );
        let kind = match kind {
            Activation::Gelu => const { define("GELU") },
            Activation::GeluTanh => const { define("GELU_TANH") },
            Activation::Silu => const { define("SILU") },
            Activation::Relu => const { define("RELU") },
        };
        let function = self.kernel("activate")?;
        let x = self.address(x);
        let up: Address = up.map_or(0, |up| self.address(up));
        let elements = count as u64;
        let mut launch = self.launch(function);
        launch.arg(&x).arg(&up).arg(&kind).arg(&elements);
        // SAFETY: the arguments are those of `activate`, in order; it stays below `elements`.
        unsafe { launch.launch(grid(blocks(count), THREADS)?) }.map_err(failed)?;
        Ok(())
    }

    /// `sum = sum + x` of the first `count` elements.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If a buffer is too short.
    pub(crate) fn add(&self, sum: &mut Floats, x: &Floats, count: usize) -> Result<()> {
        assert!(sum.len() >= count && x.len() >= count, "short buffers");
        let function = self.kernel("add")?;
        let (sum, x, elements) = (self.address(sum), self.address(x), count as u64);
        let mut launch = self.launch(function);
        launch.arg(&sum).arg(&x).arg(&elements);
        // SAFETY: the arguments are those of `add`, in order; it stays below `elements`.
        unsafe { launch.launch(grid(blocks(count), THREADS)?) }.map_err(failed)?;
        Ok(())
    }
}
