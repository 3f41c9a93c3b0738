//! The launch of `norm.cu`.

use super::{Address, Floats, Gpu, define, failed, grid};
use crate::Result;
use cudarc::driver::{CudaSlice, DeviceRepr, PushKernelArg as _};

const THREADS: u32 = define("NORM_THREADS");

/// A norm whose vectors are on the device.
pub(crate) struct GpuNorm {
    pub(crate) weight: Floats,
    pub(crate) bias: Option<Floats>,
    pub(crate) eps: f32,
    /// A layer norm, which takes the mean away; else an RMS norm.
    pub(crate) centred: bool,
}

/// `Scaled` of the source.
#[repr(C)]
#[derive(Default)]
struct Scaled {
    weight: Address,
    bias: Address,
    out: Address,
}

// SAFETY: a `repr(C)` struct of plain numbers, as the source has it.
unsafe impl DeviceRepr for Scaled {}

impl Gpu {
    /// Normalises rows of the weight's length. Shapes: `x` and `out` `[rows, width]`. With `beside`, another norm of the
    /// same rows comes of the same launch, which must be of the same kind and eps.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If a buffer is too short, or the two norms are not alike.
    pub(crate) fn norm(
        &self,
        norm: &GpuNorm,
        x: &Floats,
        out: &mut Floats,
        beside: Option<(&GpuNorm, &mut Floats)>,
        rows: usize,
    ) -> Result<()> {
        assert!(x.len() >= rows * norm.weight.len(), "short buffers");
        // SAFETY: there are so many rows.
        unsafe { self.norm_of(norm, (x, None), out, beside, rows) }
    }

    /// The same of chosen rows: row r of the outputs comes of row `chosen[r]` of `x`.
    ///
    /// # Errors
    /// As of [`Gpu::norm`].
    ///
    /// # Safety
    /// All that is in `chosen` is below the rows of `x`.
    pub(crate) unsafe fn norm_of(
        &self,
        norm: &GpuNorm,
        (x, chosen): (&Floats, Option<&CudaSlice<u32>>),
        out: &mut Floats,
        beside: Option<(&GpuNorm, &mut Floats)>,
        rows: usize,
    ) -> Result<()> {
        let width = norm.weight.len();
        assert!(
            chosen.is_none_or(|chosen| chosen.len() >= rows),
            "short buffers"
        );
        let chosen: Address = chosen.map_or(0, |chosen| self.address(chosen));
        let scaled = |norm: &GpuNorm, out: &mut Floats| {
            assert!(out.len() >= rows * width, "short buffers");
            Scaled {
                weight: self.address(&norm.weight),
                bias: norm.bias.as_ref().map_or(0, |bias| self.address(bias)),
                out: self.address(out),
            }
        };
        let first = scaled(norm, out);
        let second = beside.map_or_else(Scaled::default, |(other, out)| {
            assert!(norm.is_like(other), "norms of different kinds");
            scaled(other, out)
        });
        let function = self.kernel("norm_rows")?;
        let (x, width, centred) = (self.address(x), width as u32, u32::from(norm.centred));
        let mut launch = self.launch(function);
        launch.arg(&x).arg(&chosen).arg(&first).arg(&second);
        launch.arg(&width).arg(&norm.eps).arg(&centred);
        // SAFETY: the arguments are those of `norm_rows`, in order. Block r writes row r of buffers that have so many,
        // and reads vectors of the row's length; the caller vouches for the row of x.
        unsafe { launch.launch(grid((rows, 1), THREADS)?) }.map_err(failed)?;
        Ok(())
    }
}

impl GpuNorm {
    /// Whether what both do to a row differs by their vectors alone.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        (self.weight.len(), self.centred) == (other.weight.len(), other.centred)
            && self.eps.to_bits() == other.eps.to_bits()
    }
}
