//! The launch of `attention.cu`.

use super::{Floats, Gpu, MOST_BLOCKS_Y, define, failed, grid, rope::Heads, rope::Places};
use crate::{
    Result,
    kernels::{AttentionShape, simd::LANES},
};
use cudarc::driver::PushKernelArg as _;

const THREADS: u32 = define("ATTENTION_THREADS");
/// Scores of a row that need no memory of the device.
const SCORES_HELD: usize = define("SCORES_HELD") as usize;
/// Floats of scores that one launch may need: 4 MiB, which stay in the second-level cache.
const MOST_SCORES: usize = 1 << 20;

/// Attention of a step's rows in one layer.
pub(crate) struct Attention<'a> {
    pub(crate) places: Places,
    pub(crate) shape: &'a AttentionShape,
    /// Keys of the row that has most.
    pub(crate) most_keys: usize,
    pub(crate) rows: usize,
}

impl Gpu {
    /// `queries` and `out`: `[rows, heads, head_dim]`; `scores` is scratch.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Safety
    /// As of [`Gpu::rotate_and_append`]; every row's keys and values up to its position are in `cache`.
    pub(crate) unsafe fn attend(
        &self,
        attention: &Attention<'_>,
        queries: &Floats,
        cache: &Floats,
        scores: &mut Floats,
        out: &mut Floats,
    ) -> Result<()> {
        let Attention {
            places,
            shape,
            most_keys,
            rows,
        } = *attention;
        let features = shape.heads * shape.head_dim;
        assert!(
            queries.len() >= rows * features && out.len() >= rows * features,
            "short buffers"
        );
        let most_keys = most_keys.next_multiple_of(LANES);
        let a_row = match most_keys > SCORES_HELD {
            true => shape.heads * most_keys,
            false => 0,
        };
        let at_once = MOST_SCORES.checked_div(a_row).unwrap_or(MOST_BLOCKS_Y);
        let at_once = at_once.clamp(1, MOST_BLOCKS_Y).min(rows);
        self.reserve(scores, at_once * a_row)?;
        let function = self.kernel("attend")?;
        let (heads, keys) = (Heads::new(shape, 0), most_keys as u32);
        let [cache, scores] = [cache, &*scores].map(|buffer| self.address(buffer));
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            let words = (first * size_of::<u32>()) as u64;
            let places = Places {
                positions: places.positions + words,
                sequences: places.sequences + words,
                ..places
            };
            let skipped = (first * features * size_of::<f32>()) as u64;
            let [queries, out] = [queries, &*out].map(|buffer| self.address(buffer) + skipped);
            let mut launch = self.launch(function);
            launch.arg(&queries).arg(&places).arg(&heads).arg(&cache);
            launch.arg(&scores).arg(&keys).arg(&shape.scale).arg(&out);
            // SAFETY: the arguments are those of `attend`, in order. Block (h, r) uses the scores, queries and
            // output of head h of row r, which the buffers hold; the caller vouches for the rest.
            unsafe { launch.launch(grid((shape.heads, count), THREADS)?) }.map_err(failed)?;
        }
        Ok(())
    }
}
