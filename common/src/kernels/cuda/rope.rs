//! The launch of `rope.cu`.

use super::{Address, ELEMENT_THREADS, Floats, Gpu, MOST_BLOCKS_Y, element_blocks, failed, grid};
use crate::{Result, kernels::AttentionShape};
use cudarc::driver::{DeviceRepr, PushKernelArg as _};

/// Where a layer's projections lie: `Projected` of the source.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Projected {
    pub(crate) query: Address,
    pub(crate) key: Address,
    pub(crate) value: Address,
    /// Floats from one row to the next.
    pub(crate) row: u64,
    /// Floats from one head to the next.
    pub(crate) head: u32,
}

// SAFETY: a `repr(C)` struct of plain numbers, as the source has it.
unsafe impl DeviceRepr for Projected {}

/// The rows of a step in one layer: `Places` of the source.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// The position of each row.
    pub(crate) positions: Address,
    /// Each row's place among the sequences in `tables`.
    pub(crate) sequences: Address,
    /// Blocks of each sequence in this layer, `[sequences, most_blocks]`.
    pub(crate) tables: Address,
    pub(crate) most_blocks: u32,
}

// SAFETY: as above.
unsafe impl DeviceRepr for Places {}

/// `Heads` of the source.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    queries: u32,
    pairs: u32,
    dim: u32,
    half: u32,
}

// SAFETY: as above.
unsafe impl DeviceRepr for Heads {}

impl Heads {
    /// `half`: rotated pairs of features in a head.
    pub(super) fn new(shape: &AttentionShape, half: usize) -> Self {
        Self {
            queries: shape.heads as u32,
            pairs: shape.kv_heads as u32,
            dim: shape.head_dim as u32,
            half: half as u32,
        }
    }
}

impl Gpu {
    /// Rotates queries, `[rows, heads, head_dim]` then, and appends keys and values to `cache`.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Safety
    /// All addresses must be of live buffers that hold what the shapes say: `rows` rows of projections,
    /// positions and sequences, positions below those of `angles` (cosines and sines, `[positions, half]`), and
    /// tables with blocks of `cache` up to each row's position.
    pub(crate) unsafe fn rotate_and_append(
        &self,
        from: &Projected,
        places: &Places,
        (shape, half): (&AttentionShape, usize),
        (cos, sin): (&Floats, &Floats),
        (queries, cache): (&mut Floats, &mut Floats),
        rows: usize,
    ) -> Result<()> {
        let function = self.kernel("rotate_and_append")?;
        let features = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
        let heads = Heads::new(shape, half);
        let [cos, sin, queries, cache] =
            [cos, sin, &*queries, &*cache].map(|buffer| self.address(buffer));
        let mut launch = self.launch(function);
        launch.arg(from).arg(places).arg(&heads).arg(&cos).arg(&sin);
        launch.arg(&queries).arg(&cache);
        let (blocks, _) = element_blocks(features);
        assert!(rows <= MOST_BLOCKS_Y, "too many rows");
        // SAFETY: the arguments are those of `rotate_and_append`, in order; the caller vouches for the rest.
        unsafe { launch.launch(grid((blocks, rows), ELEMENT_THREADS)?) }.map_err(failed)?;
        Ok(())
    }
}
