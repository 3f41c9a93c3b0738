//! Attention of single query rows over the blocks of a KV cache.
//!
//! Keys are taken in order of position and never split among threads: a row's result depends on
//! its query and its keys alone.

use super::{
    elementary::exp,
    simd::{LANES, Simd, Task},
};

/// The keys that one query row sees.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRow<'a> {
    /// Ids of the KV blocks of the row's sequence, in order of position.
    pub blocks: &'a [u32],
    /// How many positions the row sees, from the first on: its own position + 1.
    pub keys: usize,
}

/// Sizes of an attention layer and of its KV blocks.
///
/// Block `b` of the storage starts at float `b ·` [`AttentionShape::block_floats`]: keys
/// `[kv_heads, block_positions, head_dim]`, then values of the same shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; query head `h` reads head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Positions that a block holds.
    pub block_positions: usize,
    /// Factor of the scores, usually `1/√head_dim`.
    pub scale: f32,
}

impl AttentionShape {
    /// Floats of one block of one layer.
    pub fn block_floats(&self) -> usize {
        2 * self.kv_heads * self.head_floats()
    }

    fn head_floats(&self) -> usize {
        self.block_positions * self.head_dim
    }
}

/// Attention of consecutive (row, head) items, the first of which is `first_item`.
pub(crate) struct Attend<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) rows: &'a [AttentionRow<'a>],
    pub(crate) storage: &'a [f32],
    pub(crate) shape: &'a AttentionShape,
    pub(crate) first_item: usize,
    pub(crate) out: &'a mut [f32],
}

impl Task for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self.shape;
        let mut weights = Vec::new();
        for (item, out) in (self.first_item..).zip(self.out.chunks_exact_mut(head_dim)) {
            let head = Head {
                row: self.rows[item / heads],
                kv_head: item % heads / (heads / kv_heads),
                storage: self.storage,
                shape: self.shape,
            };
            let q = &self.q[item * head_dim..][..head_dim];
            head.scores(s, q, &mut weights);
            let sum = exponentials(s, &mut weights);
            head.weighted_values(s, &weights[..head.row.keys], sum, out);
        }
    }
}

/// One (row, head) item.
struct Head<'a> {
    row: AttentionRow<'a>,
    kv_head: usize,
    storage: &'a [f32],
    shape: &'a AttentionShape,
}

impl<'a> Head<'a> {
    /// The keys (`part` 0) or values (`part` 1) of each block in turn, `[positions, head_dim]`.
    #[inline(always)]
    fn blocks(&self, part: usize) -> impl Iterator<Item = &'a [f32]> {
        let shape = *self.shape;
        let (row, storage, kv_head) = (self.row, self.storage, self.kv_head);
        row.blocks
            .iter()
            .enumerate()
            .map_while(move |(index, &block)| {
                let left = row
                    .keys
                    .checked_sub(index * shape.block_positions)
                    .filter(|&n| n > 0)?;
                let start = block as usize * shape.block_floats()
                    + (part * shape.kv_heads + kv_head) * shape.head_floats();
                Some(&storage[start..][..left.min(shape.block_positions) * shape.head_dim])
            })
    }

    /// Scaled scores of all keys, padded with −∞ to whole lanes.
    #[inline(always)]
    fn scores<S: Simd>(&self, s: S, q: &[f32], scores: &mut Vec<f32>) {
        scores.clear();
        for keys in self.blocks(0) {
            for key in keys.chunks_exact(self.shape.head_dim) {
                scores.push(dot(s, q, key) * self.shape.scale);
            }
        }
        scores.resize(scores.len().next_multiple_of(LANES), f32::NEG_INFINITY);
    }

    /// `out[d] = Σ_t weights[t] · v[t, d] / sum`, in order of t.
    #[inline(always)]
    fn weighted_values<S: Simd>(&self, s: S, weights: &[f32], sum: f32, out: &mut [f32]) {
        const WIDE: usize = 4 * LANES;
        let (wide, rest) = out.as_chunks_mut::<WIDE>();
        let rest_start = wide.len() * WIDE;
        for (start, out) in (0..).step_by(WIDE).zip(wide) {
            self.weighted_part::<S, 4>(s, weights, sum, (start, out));
        }
        for (start, out) in (rest_start..).step_by(LANES).zip(rest.chunks_mut(LANES)) {
            self.weighted_part::<S, 1>(s, weights, sum, (start, out));
        }
    }

    /// The features from `start` on, N registers of them.
    #[inline(always)]
    fn weighted_part<S: Simd, const N: usize>(
        &self,
        s: S,
        weights: &[f32],
        sum: f32,
        (start, out): (usize, &mut [f32]),
    ) {
        let mut acc = [s.splat(0.0); N];
        let mut weights = weights.iter();
        for values in self.blocks(1) {
            for (value, &weight) in values
                .chunks_exact(self.shape.head_dim)
                .zip(weights.by_ref())
            {
                let value = &value[start..][..out.len()];
                for (acc, part) in acc.iter_mut().zip(value.chunks(LANES)) {
                    *acc = s.fma(s.splat(weight), s.read(part), *acc);
                }
            }
        }
        for (acc, part) in acc.into_iter().zip(out.chunks_mut(LANES)) {
            s.write(part, s.div(acc, s.splat(sum)));
        }
    }
}

#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = s.splat(0.0);
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        lanes = s.fma(s.read(a), s.read(b), lanes);
    }
    s.sum(lanes)
}

/// Replaces scores (whole lanes) by e^(score − maximum) and returns their sum.
#[inline(always)]
fn exponentials<S: Simd>(s: S, scores: &mut [f32]) -> f32 {
    let mut top = s.splat(f32::NEG_INFINITY);
    for part in scores.chunks(LANES) {
        top = s.max(s.read(part), top);
    }
    let top = s.lanes(top).into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = s.splat(0.0);
    for part in scores.chunks_mut(LANES) {
        let e = exp(s, s.sub(s.read(part), s.splat(top)));
        s.write(part, e);
        sums = s.add(sums, e);
    }
    s.sum(sums)
}
