//! The guard under which keys and values are appended.

use super::{KvCache, SequenceId, block::BLOCK_POSITIONS};
use crate::{Error, Result};

/// Appends to any number of sequences; counts only once [committed](Step::commit).
/// Dropping it takes everything back, and no block leaks either way.
pub struct Step<'a> {
    cache: &'a mut KvCache,
    extensions: Vec<Extension>,
}

struct Extension {
    id: SequenceId,
    band: usize,
    end: usize,
    states: Vec<f32>,
}

impl<'a> Step<'a> {
    pub(super) fn new(cache: &'a mut KvCache) -> Self {
        Self {
            cache,
            extensions: Vec::new(),
        }
    }

    /// Makes room for positions `len(band)..end` in the layers of a band.
    ///
    /// # Errors
    /// If `end` is beyond the capacity of the sequence, or beyond what the band before holds.
    pub fn extend(&mut self, id: SequenceId, band: usize, end: usize) -> Result<()> {
        let KvCache {
            layout,
            pool,
            sequences,
            ..
        } = &mut *self.cache;
        let sequence = KvCache::find(sequences, id);
        let limit = if band == 0 {
            sequence.capacity()
        } else {
            sequence.len(band - 1)
        };
        if end > limit {
            let reason = format!(
                "position {end} is beyond the {limit} that band {band} of this sequence may hold"
            );
            return Err(Error::InvalidParameter {
                field: "position",
                reason,
            });
        }
        self.extensions.push(Extension {
            id,
            band,
            end,
            states: Vec::new(),
        });
        if sequence.grow(layout.band(band), end, pool) {
            return Ok(());
        }
        // Opening a sequence reserved its blocks, so the pool can only be empty if it is used up by a fault of ours.
        Err(Error::OutOfKvBlocks {
            needed: 1,
            free: 0,
            total: pool.total(),
        })
    }

    /// Writes one position's keys and values, both `[kv_heads, head_dim]`, in one layer.
    pub fn write(
        &mut self,
        id: SequenceId,
        layer: usize,
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let KvCache {
            layout,
            pool,
            sequences,
            ..
        } = &mut *self.cache;
        let table = KvCache::find(sequences, id).table(layer);
        let block = pool.block_mut(table[position / BLOCK_POSITIONS]);
        let (key_half, value_half) = block.split_at_mut(layout.block_floats() / 2);
        let dim = layout.head_dim;
        for head in 0..layout.kv_heads {
            let at = (head * BLOCK_POSITIONS + position % BLOCK_POSITIONS) * dim;
            key_half[at..at + dim].copy_from_slice(&keys[head * dim..(head + 1) * dim]);
            value_half[at..at + dim].copy_from_slice(&values[head * dim..(head + 1) * dim]);
        }
    }

    /// The blocks of a sequence in one layer, in order of position.
    pub fn table(&self, id: SequenceId, layer: usize) -> &[u32] {
        self.cache.sequence(id).table(layer)
    }

    /// Floats of all blocks together.
    pub fn floats(&self) -> usize {
        self.cache.floats()
    }

    /// All blocks: `[blocks, block_floats]`.
    pub fn storage(&self) -> &[f32] {
        self.cache.pool.storage()
    }

    /// The hidden states with which the positions of the `i`-th extension leave their band,
    /// `[end - len(band), hidden]`; without them the extension must be of the last band.
    pub fn set_states(&mut self, i: usize, states: &[f32]) {
        self.extensions[i].states = states.to_vec();
    }

    /// Makes all that was appended count.
    pub fn commit(mut self) {
        for Extension {
            id,
            band,
            end,
            states,
        } in std::mem::take(&mut self.extensions)
        {
            KvCache::find(&mut self.cache.sequences, id).extend(band, end, &states);
        }
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let KvCache {
            layout,
            pool,
            sequences,
            ..
        } = &mut *self.cache;
        for Extension { id, band, .. } in &self.extensions {
            let sequence = KvCache::find(sequences, *id);
            sequence.shrink(layout.band(*band), sequence.len(*band), pool);
        }
    }
}
