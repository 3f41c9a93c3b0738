//! The launch of `matmul.cu`.

use super::{Address, Floats, Gpu, GpuMatrix, MOST_BLOCKS_Y, define, failed, grid};
use crate::{Result, kernels::Activation};
use cudarc::driver::{DeviceRepr, PushKernelArg as _};

const WARP: u32 = define("WARP");
const FEW: u32 = define("PRODUCT_FEW");
const MANY: u32 = define("PRODUCT_MANY");

/// Rows of a tile, and the warps of its block.
const TILES: [(usize, u32); 5] = [(1, FEW), (2, FEW), (4, MANY), (8, MANY), (16, MANY)];

/// What becomes of the sums of a product: `bias` is added, `activation` applied, then the result is multiplied by
/// `factor`, `[rows, n]`, and added to what the output holds if `onto`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Finish<'a> {
    pub(crate) bias: Option<&'a Floats>,
    pub(crate) activation: Option<Activation>,
    pub(crate) factor: Option<&'a Floats>,
    pub(crate) onto: bool,
}

/// `Finish` of the source.
#[repr(C)]
struct Addresses {
    bias: Address,
    factor: Address,
    residual: Address,
    activation: u32,
}

// SAFETY: a `repr(C)` struct of plain numbers, as the source has it.
unsafe impl DeviceRepr for Addresses {}

impl Gpu {
    /// `out = finish(x · wᵀ)`. Shapes: `x` `[rows, k]`, `out` `[rows, n]`.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If a buffer is too short.
    pub(crate) fn product(
        &self,
        x: &Floats,
        w: &GpuMatrix,
        finish: Finish<'_>,
        out: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        let (n, k) = (w.n(), w.k());
        assert!(
            x.len() >= rows * k && out.len() >= rows * n,
            "short buffers"
        );
        let Finish { bias, factor, .. } = finish;
        assert!(
            bias.is_none_or(|bias| bias.len() >= n)
                && factor.is_none_or(|factor| factor.len() >= rows * n),
            "short buffers"
        );
        let (tile, warps) = tile(rows);
        let outputs = (warps * define("WARP_OUTPUTS")) as usize;
        let blocks = (rows.div_ceil(tile), n.div_ceil(outputs));
        assert!(blocks.1 <= MOST_BLOCKS_Y, "too many outputs");
        let function = self.kernel(&format!("product_{}_{tile}", w.dtype().name()))?;
        let (x, w, out) = (self.address(x), w.address(self), self.address(out));
        let finish = self.addresses(finish, out);
        let (m, n, k) = (rows as u32, n as u32, k as u32);
        let mut launch = self.launch(function);
        launch.arg(&x).arg(&w).arg(&finish).arg(&out);
        launch.arg(&m).arg(&n).arg(&k);
        // SAFETY: the arguments are those of `PRODUCT`, in order. It reads rows below m of x and w below n,
        // and reads and writes elements of [m, n], which the buffers hold, as checked above.
        unsafe { launch.launch(grid(blocks, warps * WARP)?) }.map_err(failed)?;
        Ok(())
    }

    fn addresses(&self, finish: Finish<'_>, out: Address) -> Addresses {
        let address = |buffer: Option<&Floats>| buffer.map_or(0, |buffer| self.address(buffer));
        Addresses {
            bias: address(finish.bias),
            factor: address(finish.factor),
            residual: if finish.onto { out } else { 0 },
            activation: match finish.activation {
                Some(Activation::Gelu) => const { define("GELU") },
                Some(Activation::GeluTanh) => const { define("GELU_TANH") },
                Some(Activation::Silu) => const { define("SILU") },
                Some(Activation::Relu) => const { define("RELU") },
                None => const { define("NO_ACTIVATION") },
            },
        }
    }
}

/// The lowest tile that holds all rows, or the highest.
fn tile(rows: usize) -> (usize, u32) {
    let fits = TILES.iter().find(|(tile, _)| *tile >= rows);
    *fits.unwrap_or(&TILES[TILES.len() - 1])
}
