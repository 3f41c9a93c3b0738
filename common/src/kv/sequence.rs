//! One sequence's block tables, lengths and pending states.

use super::block::{BLOCK_POSITIONS, BlockPool, KvLayout};

/// Names an open sequence of one cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId {
    pub(super) slot: usize,
    pub(super) generation: u32,
}

pub(super) struct Sequence {
    generation: u32,
    capacity: usize,
    hidden: usize,
    /// For each layer the blocks of its positions, in order.
    tables: Vec<Vec<u32>>,
    /// Positions held in each band; never rising from band to band.
    lens: Vec<usize>,
    /// Hidden states of positions `lens[last]..lens[0]`, `[positions, hidden]`.
    pending: Vec<f32>,
}

impl Sequence {
    pub(super) fn new(layout: &KvLayout, capacity: usize, generation: u32) -> Self {
        Self {
            generation,
            capacity,
            hidden: layout.hidden,
            tables: vec![Vec::new(); layout.layers()],
            lens: vec![0; layout.band_ends.len()],
            pending: Vec::new(),
        }
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn len(&self, band: usize) -> usize {
        self.lens[band]
    }

    pub(super) fn table(&self, layer: usize) -> &[u32] {
        &self.tables[layer]
    }

    fn filled(&self) -> usize {
        self.lens.last().copied().unwrap_or(0)
    }

    pub(super) fn pending(&self, from: usize, to: usize) -> &[f32] {
        let base = self.filled();
        &self.pending[(from - base) * self.hidden..(to - base) * self.hidden]
    }

    /// Makes room for positions up to `end` in a band's layers; false if the pool is empty.
    pub(super) fn grow(
        &mut self,
        layers: std::ops::Range<usize>,
        end: usize,
        pool: &mut BlockPool,
    ) -> bool {
        self.tables[layers].iter_mut().all(|table| {
            (table.len()..end.div_ceil(BLOCK_POSITIONS))
                .all(|_| pool.take().map(|block| table.push(block)).is_some())
        })
    }

    /// Returns the blocks of positions from `len` on in these layers.
    pub(super) fn shrink(
        &mut self,
        layers: std::ops::Range<usize>,
        len: usize,
        pool: &mut BlockPool,
    ) {
        let keep = len.div_ceil(BLOCK_POSITIONS);
        for table in &mut self.tables[layers] {
            table
                .drain(keep.min(table.len())..)
                .for_each(|block| pool.give(block));
        }
    }

    /// A band now holds positions up to `end`; `states` are theirs at its end, `[end - len(band), hidden]`.
    pub(super) fn extend(&mut self, band: usize, end: usize, states: &[f32]) {
        let base = self.filled();
        let start = self.lens[band];
        self.lens[band] = end;
        if band + 1 == self.lens.len() {
            self.pending.drain(
                ..(self.filled() - base).min(self.pending.len() / self.hidden) * self.hidden,
            );
            return;
        }
        let (from, to) = ((start - base) * self.hidden, (end - base) * self.hidden);
        if self.pending.len() < to {
            self.pending.resize(to, 0.0);
        }
        self.pending[from..to].copy_from_slice(states);
    }

    pub(super) fn truncate(&mut self, layout: &KvLayout, len: usize, pool: &mut BlockPool) {
        for band in 0..self.lens.len() {
            self.lens[band] = self.lens[band].min(len);
            self.shrink(layout.band(band), self.lens[band], pool);
        }
        let waiting = self.lens[0] - self.filled();
        self.pending.truncate(waiting * self.hidden);
    }

    pub(super) fn into_blocks(self) -> impl Iterator<Item = u32> {
        self.tables.into_iter().flatten()
    }
}
