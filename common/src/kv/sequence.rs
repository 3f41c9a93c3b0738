//! One sequence's block tables, lengths and pending states.

use super::{
    block::{BLOCK_POSITIONS, BlockPool, KvLayout},
    shared::PrefixKey,
};

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
    /// What it shares, if anything.
    prefix: Option<Prefix>,
}

/// The shared groups that a sequence begins with.
struct Prefix {
    root: PrefixKey,
    /// Their keys; the first blocks of every table are theirs.
    chain: Vec<PrefixKey>,
}

impl Sequence {
    /// An empty sequence, which shares prefixes of `root`, if there is one.
    pub(super) fn new(
        layout: &KvLayout,
        capacity: usize,
        generation: u32,
        root: Option<PrefixKey>,
    ) -> Self {
        let chain = Vec::new();
        Self {
            generation,
            capacity,
            hidden: layout.hidden,
            tables: vec![Vec::new(); layout.layers()],
            lens: vec![0; layout.band_ends.len()],
            pending: Vec::new(),
            prefix: root.map(|root| Prefix { root, chain }),
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
        let len = self.unshare(layout, len, pool);
        for band in 0..self.lens.len() {
            self.lens[band] = self.lens[band].min(len);
            self.shrink(layout.band(band), self.lens[band], pool);
        }
        let waiting = self.lens[0] - self.filled();
        self.pending.truncate(waiting * self.hidden);
    }

    /// Gives shared groups back that reach beyond `len`, whole ones: nobody else's positions may
    /// be overwritten. Returns how many positions up to `len` remain.
    fn unshare(&mut self, layout: &KvLayout, len: usize, pool: &mut BlockPool) -> usize {
        let shared = self.chain().len();
        let keep = len / BLOCK_POSITIONS;
        if keep >= shared {
            return len;
        }
        // Blocks of its own go to the pool, those of the groups do not.
        self.shrink(0..layout.layers(), shared * BLOCK_POSITIONS, pool);
        self.tables
            .iter_mut()
            .for_each(|table| table.truncate(keep));
        if let Some(prefix) = &mut self.prefix {
            pool.shared.release(&prefix.chain.split_off(keep));
        }
        keep * BLOCK_POSITIONS
    }

    /// Takes cached groups that follow what it holds, for these tokens; returns the positions gained.
    pub(super) fn reuse(&mut self, tokens: &[u32], pool: &mut BlockPool) -> usize {
        let held = self.chain().len();
        // Only at a boundary, where it has nothing of its own.
        if self.lens.iter().any(|&len| len != held * BLOCK_POSITIONS) {
            return 0;
        }
        let Some(prefix) = &mut self.prefix else {
            return 0;
        };
        let most = tokens.len().min(self.capacity);
        for group in tokens[..most].chunks_exact(BLOCK_POSITIONS).skip(held) {
            let key = prefix.end().then(group);
            let Some(blocks) = pool.shared.hold(&key) else {
                break;
            };
            for (table, &block) in self.tables.iter_mut().zip(blocks) {
                table.push(block);
            }
            prefix.chain.push(key);
        }
        let gained = (prefix.chain.len() - held) * BLOCK_POSITIONS;
        self.lens.iter_mut().for_each(|len| *len += gained);
        gained
    }

    /// Shares the groups of these tokens that are filled in every band. What another sequence
    /// shared meanwhile takes the place of its own blocks: it has the same bits.
    pub(super) fn publish(&mut self, tokens: &[u32], pool: &mut BlockPool) {
        let filled = self.filled().min(tokens.len());
        let Some(prefix) = &mut self.prefix else {
            return;
        };
        let held = prefix.chain.len();
        let groups = tokens[..filled].chunks_exact(BLOCK_POSITIONS);
        for (at, group) in groups.enumerate().skip(held) {
            let key = prefix.end().then(group);
            let own: Vec<u32> = self.tables.iter().map(|table| table[at]).collect();
            if let Some(blocks) = pool.shared.hold(&key) {
                for (table, &block) in self.tables.iter_mut().zip(blocks) {
                    table[at] = block;
                }
                own.into_iter().for_each(|block| pool.give(block));
            } else {
                pool.shared.insert(key, own);
            }
            prefix.chain.push(key);
        }
    }

    /// The key of the group behind those that it shares, if `tokens` fill it.
    pub(super) fn next_key(&self, tokens: &[u32]) -> Option<PrefixKey> {
        let prefix = self.prefix.as_ref()?;
        let mut groups = tokens.chunks_exact(BLOCK_POSITIONS);
        Some(prefix.end().then(groups.nth(prefix.chain.len())?))
    }

    fn chain(&self) -> &[PrefixKey] {
        self.prefix.as_ref().map_or(&[], |prefix| &prefix.chain)
    }

    /// Gives everything back.
    pub(super) fn close(mut self, layout: &KvLayout, pool: &mut BlockPool) {
        self.shrink(
            0..layout.layers(),
            self.chain().len() * BLOCK_POSITIONS,
            pool,
        );
        pool.shared.release(self.chain());
    }
}

impl Prefix {
    fn end(&self) -> &PrefixKey {
        self.chain.last().unwrap_or(&self.root)
    }
}
