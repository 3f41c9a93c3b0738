//! The launch of `matmul.cu`.

use super::{Address, Floats, Gpu, GpuMatrix, MOST_BLOCKS_Y, define, failed, grid};
use crate::Result;
use cudarc::driver::PushKernelArg as _;

const THREADS: u32 = define("PRODUCT_THREADS");
const QUADS: usize = (THREADS / define("QUAD")) as usize;

/// Rows of a tile, and the outputs that a quad computes for them.
const TILES: [(usize, usize); 4] = [(1, 1), (2, 1), (4, 2), (8, 2)];

impl Gpu {
    /// `out = x · wᵀ + bias`. Shapes: `x` `[rows, k]`, `out` `[rows, n]`.
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
        bias: Option<&Floats>,
        out: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        let (n, k) = (w.n(), w.k());
        assert!(
            x.len() >= rows * k && out.len() >= rows * n,
            "short buffers"
        );
        assert!(bias.is_none_or(|bias| bias.len() >= n), "a short bias");
        assert!(rows <= MOST_BLOCKS_Y, "too many rows");
        let tile = TILES.iter().find(|(tile, _)| *tile >= rows);
        let (tile, outputs) = *tile.unwrap_or(&TILES[TILES.len() - 1]);
        let dtype = w.dtype().name();
        let function = self.kernel(&format!("product_{dtype}_{tile}"))?;
        let blocks = (n.div_ceil(QUADS * outputs), rows.div_ceil(tile));
        let (x, w, out) = (self.address(x), w.address(self), self.address(out));
        let bias: Address = bias.map_or(0, |bias| self.address(bias));
        let (m, n, k) = (rows as u32, n as u32, k as u32);
        let mut launch = self.launch(function);
        launch.arg(&x).arg(&w).arg(&bias).arg(&out);
        launch.arg(&m).arg(&n).arg(&k);
        // SAFETY: the arguments are those of `PRODUCT`, in order. It reads rows below m of x and w below n,
        // and writes elements of [m, n], which the buffers hold, as checked above.
        unsafe { launch.launch(grid(blocks, THREADS)?) }.map_err(failed)?;
        Ok(())
    }
}
