//! Blocks, and how many of them a sequence needs.

use super::shared::SharedGroups;
use crate::checkpoint::ModelConfig;

/// Positions in one block.
pub const BLOCK_POSITIONS: usize = 16;

/// Floats of the smallest page of memory that a system gives.
const PAGE_FLOATS: usize = 4096 / size_of::<f32>();

/// The shape of a cache: what one position needs in each layer, and the bands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key and value heads of a layer.
    pub kv_heads: usize,
    /// Features of one head.
    pub head_dim: usize,
    /// Features of one hidden state.
    pub hidden: usize,
    /// The layer after the last one of each band, in rising order; the last is the layer count.
    pub band_ends: Vec<usize>,
}

impl KvLayout {
    /// The shape of a cache for a model that is cut into bands at `band_ends`.
    pub fn new(config: &ModelConfig, band_ends: Vec<usize>) -> Self {
        Self {
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            hidden: config.hidden,
            band_ends,
        }
    }

    /// Layers in all bands.
    pub fn layers(&self) -> usize {
        self.band_ends.last().copied().unwrap_or(0)
    }

    /// The layers of a band.
    pub fn band(&self, band: usize) -> std::ops::Range<usize> {
        let start = if band == 0 {
            0
        } else {
            self.band_ends[band - 1]
        };
        start..self.band_ends[band]
    }

    /// Floats in one block: keys `[kv_heads, BLOCK_POSITIONS, head_dim]`, then values likewise.
    pub fn block_floats(&self) -> usize {
        2 * self.kv_heads * BLOCK_POSITIONS * self.head_dim
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        self.block_floats() * size_of::<f32>()
    }

    /// Blocks that a sequence of `capacity` positions needs at most: one for every started
    /// group of positions in each layer, and the equivalent of its pending hidden states.
    pub fn blocks_for(&self, capacity: usize) -> usize {
        let keys_and_values = capacity.div_ceil(BLOCK_POSITIONS) * self.layers();
        let may_wait = self.band_ends.len() > 1;
        let pending = if may_wait {
            (capacity * self.hidden).div_ceil(self.block_floats())
        } else {
            0
        };
        keys_and_values + pending
    }
}

/// The memory of all blocks and the list of free ones.
pub(super) struct BlockPool {
    /// `[total, block_floats]`, or empty; the system gives its pages when they are touched first.
    storage: Vec<f32>,
    free: Vec<u32>,
    /// Blocks below this number were handed out before; those above were never touched.
    untouched: u32,
    total: u32,
    block_floats: usize,
    /// Prefixes that sequences share.
    pub(super) shared: SharedGroups,
}

impl BlockPool {
    pub(super) fn new(blocks: usize, block_floats: usize) -> Self {
        let pool = Self::elsewhere(blocks, block_floats);
        Self {
            storage: vec![0.0; pool.total() * block_floats],
            ..pool
        }
    }

    /// Blocks whose memory is not here.
    pub(super) fn elsewhere(blocks: usize, block_floats: usize) -> Self {
        let total = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self {
            storage: Vec::new(),
            free: Vec::new(),
            untouched: 0,
            total,
            block_floats,
            shared: SharedGroups::default(),
        }
    }

    pub(super) fn total(&self) -> usize {
        self.total as usize
    }

    /// Blocks that sequences hold, shared ones counted once.
    pub(super) fn used(&self) -> usize {
        self.untouched as usize - self.free.len() - self.shared.idle_blocks()
    }

    /// A block, or `None` if sequences hold all. Touched ones first: memory grows only as needed.
    /// Shared blocks that no sequence holds are the last to go.
    ///
    /// Sequences together never take more than they reserved: each holds at most the blocks of its
    /// own capacity, shared ones among them. So as long as the reservations fit, there is a block.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.free.is_empty() && self.untouched == self.total {
            self.free.extend(self.shared.evict()?);
        }
        self.free.pop().or_else(|| {
            let block = self.untouched;
            (block < self.total)
                .then(|| self.untouched += 1)
                .map(|()| block)
        })
    }

    /// Writes to every page of the storage, whose content stays as it is.
    pub(super) fn touch(&mut self) {
        for page in self.storage.chunks_mut(PAGE_FLOATS) {
            // Left to the optimizer, writing back what was there is writing nothing.
            page[0] = std::hint::black_box(page[0]);
        }
    }

    pub(super) fn give(&mut self, block: u32) {
        self.free.push(block);
    }

    pub(super) fn storage(&self) -> &[f32] {
        &self.storage
    }

    pub(super) fn block_mut(&mut self, block: u32) -> &mut [f32] {
        let start = block as usize * self.block_floats;
        &mut self.storage[start..start + self.block_floats]
    }
}
