//! The key-value cache: fixed-size blocks out of one budget.
//!
//! A *block* holds the keys and values of [`BLOCK_POSITIONS`] positions in one layer. Every
//! sequence has one table of blocks for each layer, so the layers of a later [band] may hold
//! fewer positions than those of an earlier one: the cache is *jagged*.
//!
//! A position that has not been through every band keeps one hidden state, at the deepest
//! boundary that it reached. Those *pending* states are counted in the budget as blocks.
//!
//! Room is reserved when a sequence is opened, so a running sequence never meets a full cache.
//!
//! Sequences may share the blocks of equal prefixes, see [`KvCache::open_shared`].
//!
//! [band]: crate::model

mod block;
mod sequence;
mod shared;
mod step;

pub use block::{BLOCK_POSITIONS, KvLayout};
pub use sequence::SequenceId;
pub use shared::PrefixKey;
pub use step::Step;

use crate::{Error, Result};
use block::BlockPool;
use sequence::Sequence;

/// What of the budget is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvUsage {
    /// Blocks in the budget.
    pub total_blocks: usize,
    /// Blocks that open sequences may still fill or have filled.
    pub reserved_blocks: usize,
    /// Blocks that hold keys and values of open sequences now; shared ones count once.
    pub used_blocks: usize,
    /// Blocks that hold prefixes which no open sequence uses. They are given up when others need
    /// them, so they count as free.
    pub cached_blocks: usize,
    /// Open sequences.
    pub sequences: usize,
}

impl KvUsage {
    /// Blocks that a new sequence may reserve.
    pub fn free_blocks(&self) -> usize {
        self.total_blocks - self.reserved_blocks
    }
}

/// Keys, values and pending hidden states of many sequences.
pub struct KvCache {
    layout: KvLayout,
    pool: BlockPool,
    reserved_blocks: usize,
    sequences: Vec<Option<Sequence>>,
    /// Grows with every opened sequence, so that a stale [`SequenceId`] is noticed.
    generation: u32,
    reused: u64,
}

impl KvCache {
    /// A cache of at most `budget_bytes`.
    ///
    /// # Errors
    /// If the budget does not hold a single block in every layer.
    pub fn new(layout: KvLayout, budget_bytes: usize) -> Result<Self> {
        Self::with(BlockPool::new, layout, budget_bytes)
    }

    /// The account of a cache whose blocks are on a device: it has no storage of its own.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn elsewhere(layout: KvLayout, budget_bytes: usize) -> Result<Self> {
        Self::with(BlockPool::elsewhere, layout, budget_bytes)
    }

    fn with(
        pool: fn(usize, usize) -> BlockPool,
        layout: KvLayout,
        budget_bytes: usize,
    ) -> Result<Self> {
        let blocks = budget_bytes / layout.block_bytes();
        let needed = layout.blocks_for(1);
        if blocks < needed {
            return Err(Error::InvalidParameter {
                field: "--kv-memory",
                reason: format!(
                    "{budget_bytes} bytes hold {blocks} blocks of {} bytes, one sequence needs {needed}",
                    layout.block_bytes()
                ),
            });
        }
        let pool = pool(blocks, layout.block_floats());
        Ok(Self {
            layout,
            pool,
            reserved_blocks: 0,
            sequences: Vec::new(),
            generation: 0,
            reused: 0,
        })
    }

    /// Has the system give all memory of the cache now. A machine that promised more than it has is found
    /// out at the start then, not under load, and no request pays for pages that are touched first.
    pub fn touch(&mut self) {
        self.pool.touch();
    }

    /// Floats of all blocks together.
    pub fn floats(&self) -> usize {
        self.pool.total() * self.layout.block_floats()
    }

    /// The shape of the cache.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// What is in use.
    pub fn usage(&self) -> KvUsage {
        KvUsage {
            total_blocks: self.pool.total(),
            reserved_blocks: self.reserved_blocks,
            used_blocks: self.pool.used(),
            cached_blocks: self.pool.shared.idle_blocks(),
            sequences: self.sequences.iter().flatten().count(),
        }
    }

    /// Opens a sequence of at most `capacity` positions and reserves room for all of them.
    ///
    /// # Errors
    /// [`Error::OutOfKvBlocks`] if that room is not there now.
    pub fn open(&mut self, capacity: usize) -> Result<SequenceId> {
        self.open_with(capacity, None)
    }

    /// The same for a sequence that shares prefixes with all others of this `root`, once they
    /// [publish](Self::publish) and [reuse](Self::reuse) them. It reserves as much as any other.
    ///
    /// # Errors
    /// As [`KvCache::open`].
    pub fn open_shared(&mut self, capacity: usize, root: PrefixKey) -> Result<SequenceId> {
        self.open_with(capacity, Some(root))
    }

    fn open_with(&mut self, capacity: usize, root: Option<PrefixKey>) -> Result<SequenceId> {
        let needed = self.layout.blocks_for(capacity);
        let usage = self.usage();
        if needed > usage.free_blocks() {
            return Err(Error::OutOfKvBlocks {
                needed,
                free: usage.free_blocks(),
                total: usage.total_blocks,
            });
        }
        self.reserved_blocks += needed;
        self.generation = self.generation.wrapping_add(1);
        let slot = self
            .sequences
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.sequences.len());
        if slot == self.sequences.len() {
            self.sequences.push(None);
        }
        let sequence = Sequence::new(&self.layout, capacity, self.generation, root);
        self.sequences[slot] = Some(sequence);
        Ok(SequenceId {
            slot,
            generation: self.generation,
        })
    }

    /// Frees everything that a sequence holds; closing one twice is harmless.
    pub fn close(&mut self, id: SequenceId) {
        let slot = &mut self.sequences[id.slot];
        let Some(sequence) = slot.take_if(|s| s.generation() == id.generation) else {
            return;
        };
        self.reserved_blocks -= self.layout.blocks_for(sequence.capacity());
        sequence.close(&self.layout, &mut self.pool);
    }

    /// Gives a sequence the keys and values of the cached prefix that goes on where it ends, for its
    /// `tokens` from the first on; returns the positions gained. Nothing if it shares nothing.
    pub fn reuse(&mut self, id: SequenceId, tokens: &[u32]) -> usize {
        let Self { pool, .. } = self;
        let gained = Self::find(&mut self.sequences, id).reuse(tokens, pool);
        self.reused += gained as u64;
        gained
    }

    /// Shares what a sequence holds with all others of its root: whole blocks of `tokens`, its own
    /// from the first on, that are filled in every band. They must be final: a roll-back beyond
    /// them is possible, but takes back whole blocks.
    pub fn publish(&mut self, id: SequenceId, tokens: &[u32]) {
        let Self { pool, .. } = self;
        Self::find(&mut self.sequences, id).publish(tokens, pool);
    }

    /// The key of the first block of `tokens` that a sequence has not published yet: two sequences
    /// with the same one compute the same. `None` if it shares nothing, or they end before that.
    pub fn next_key(&self, id: SequenceId, tokens: &[u32]) -> Option<PrefixKey> {
        self.sequence(id).next_key(tokens)
    }

    /// Positions that sequences have reused so far.
    pub fn reused_tokens(&self) -> u64 {
        self.reused
    }

    /// Positions that a sequence holds in a band.
    pub fn len(&self, id: SequenceId, band: usize) -> usize {
        self.sequence(id).len(band)
    }

    /// The number of positions that a sequence may hold.
    pub fn capacity(&self, id: SequenceId) -> usize {
        self.sequence(id).capacity()
    }

    /// Takes every band of a sequence back to at most `len` positions. Shared blocks are given back
    /// whole: within one, it ends at its start.
    pub fn truncate(&mut self, id: SequenceId, len: usize) {
        let Self { layout, pool, .. } = self;
        let sequence = Self::find(&mut self.sequences, id);
        sequence.truncate(layout, len, pool);
    }

    /// Begins a step. Whatever is appended in it counts only once the step is committed;
    /// a step that is dropped leaves the cache as it was.
    pub fn begin(&mut self) -> Step<'_> {
        Step::new(self)
    }

    /// The hidden states of positions `from..to`, which must all be pending: `[to - from, hidden]`.
    pub fn pending(&self, id: SequenceId, from: usize, to: usize) -> &[f32] {
        self.sequence(id).pending(from, to)
    }

    fn sequence(&self, id: SequenceId) -> &Sequence {
        let found = self.sequences.get(id.slot).and_then(Option::as_ref);
        Self::alive(found.filter(|s| s.generation() == id.generation))
    }

    fn find(sequences: &mut [Option<Sequence>], id: SequenceId) -> &mut Sequence {
        let found = sequences.get_mut(id.slot).and_then(Option::as_mut);
        Self::alive(found.filter(|s| s.generation() == id.generation))
    }

    #[expect(
        clippy::expect_used,
        reason = "an id is used after `close` only by a fault of the caller, never by input"
    )]
    fn alive<T>(found: Option<T>) -> T {
        found.expect("the sequence is open")
    }
}

#[cfg(test)]
mod tests;
