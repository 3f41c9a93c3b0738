//! The skinny matrix product: a few rows times all weights, which stream from memory once.
//!
//! `out[r, j] = Σ_i x[r, i] · w[j, i]`, lane `i mod 16`, in order of `i`, one tree at the end. A
//! tile of rows × outputs keeps all its sums in registers; tiles of any size give the same bits.

use std::array;

use super::{
    isa::Isa,
    matrix::Weights,
    pool::{Disjoint, Pool},
    simd::{LANES, Simd, Task, Weight},
};

/// Weights that a thread claims at a time: they stay in its second-level cache while all rows of
/// `x` pass over them.
const CHUNK_BYTES: usize = 256 << 10;
/// Claims of each thread in one product: the more, the shorter the wait for the slowest at its end.
const PIECES_PER_THREAD: usize = 16;
/// A multiple of every tile height, so that only a matrix's last chunk has left-over outputs.
const CHUNK_MULTIPLE: usize = 24;

/// One product: `x` `[m, k]`, weights `[n, k]`, `out` `[m, n]`, all dense.
pub(crate) struct Product<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) out: &'a mut [f32],
}

impl Product<'_> {
    /// Computes the product on all threads of `pool`.
    ///
    /// # Panics
    /// If the lengths do not fit together.
    pub(crate) fn run(self, weights: Weights<'_>, isa: Isa, pool: &Pool) {
        match weights {
            Weights::F32(w) => self.run_typed(w, isa, pool),
            Weights::F16(w) => self.run_typed(w, isa, pool),
            Weights::Bf16(w) => self.run_typed(w, isa, pool),
        }
    }

    fn run_typed<W: Weight>(self, weights: &[W], isa: Isa, pool: &Pool) {
        let Self { x, k, n, bias, out } = self;
        let m = x.len() / k;
        assert_eq!(x.len(), m * k, "x must be whole rows of {k}");
        assert_eq!(weights.len(), n * k, "weights must be [{n}, {k}]");
        assert_eq!(out.len(), m * n, "out must be [{m}, {n}]");
        assert!(
            bias.is_none_or(|b| b.len() == n),
            "bias must have {n} elements"
        );
        let out = Disjoint::new(out);
        let chunk = Chunk {
            x,
            weights,
            bias,
            out: &out,
            m,
            n,
            k,
            first: 0,
            last: n,
        };
        let size = (CHUNK_BYTES / (k * size_of::<W>())).max(1);
        let size = size.next_multiple_of(CHUNK_MULTIPLE);
        let share = n.div_ceil(PIECES_PER_THREAD * pool.threads());
        let size = size.min(share.next_multiple_of(CHUNK_MULTIPLE));
        pool.run(n.div_ceil(size), &|index| {
            let first = index * size;
            isa.run(Chunk {
                first,
                last: n.min(first + size),
                ..chunk
            });
        });
    }
}

/// Outputs `first..last` of a product, for all rows.
struct Chunk<'a, W> {
    x: &'a [f32],
    weights: &'a [W],
    bias: Option<&'a [f32]>,
    out: &'a Disjoint<f32>,
    m: usize,
    n: usize,
    k: usize,
    first: usize,
    last: usize,
}

impl<W> Clone for Chunk<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Chunk<'_, W> {}

impl<W: Weight> Task for Chunk<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut row = 0;
        while row < self.m {
            row += self.rows(s, row);
        }
    }
}

impl<W: Weight> Chunk<'_, W> {
    /// Runs the rows from `row` on that fit one tile, and returns how many they are. Tiles are
    /// rows × outputs with at most [`Simd::ACCUMULATORS`] sums.
    #[inline(always)]
    fn rows<S: Simd>(&self, s: S, row: usize) -> usize {
        let left = self.m - row;
        if S::ACCUMULATORS >= 24 {
            match left {
                1 => self.tiles::<S, 1, 4>(s, row),
                2 => self.tiles::<S, 2, 6>(s, row),
                3 => self.tiles::<S, 3, 6>(s, row),
                4 => self.tiles::<S, 4, 6>(s, row),
                5 => self.tiles::<S, 5, 4>(s, row),
                6 => self.tiles::<S, 6, 4>(s, row),
                7 => self.paired_tiles::<S, 4, 3, 6>(s, row),
                8 => self.paired_tiles::<S, 4, 4, 6>(s, row),
                // Many rows run from the caches: a squarer tile reads less.
                _ => self.tiles::<S, 4, 6>(s, row),
            }
        } else {
            match left {
                1 => self.tiles::<S, 1, 4>(s, row),
                2 => self.tiles::<S, 2, 2>(s, row),
                3 => self.tiles::<S, 3, 1>(s, row),
                _ => self.tiles::<S, 4, 1>(s, row),
            }
        }
    }

    /// All outputs of the chunk for rows `row..row + M`, by tiles of N outputs.
    #[inline(always)]
    fn tiles<S: Simd, const M: usize, const N: usize>(&self, s: S, row: usize) -> usize {
        let mut output = self.first;
        while output + N <= self.last {
            self.tile::<S, M, N>(s, row, output);
            output += N;
        }
        while output < self.last {
            self.tile::<S, M, 1>(s, row, output);
            output += 1;
        }
        M
    }

    /// As [`Chunk::tiles`] for A + B rows, in two tiles that share each N outputs: the second finds
    /// the weights in the cache, and neither needs more inputs than the first-level cache holds.
    #[inline(always)]
    fn paired_tiles<S: Simd, const A: usize, const B: usize, const N: usize>(
        &self,
        s: S,
        row: usize,
    ) -> usize {
        let mut output = self.first;
        while output + N <= self.last {
            self.tile::<S, A, N>(s, row, output);
            self.tile::<S, B, N>(s, row + A, output);
            output += N;
        }
        while output < self.last {
            self.tile::<S, A, 1>(s, row, output);
            self.tile::<S, B, 1>(s, row + A, output);
            output += 1;
        }
        A + B
    }

    /// Rows `row..row + M` times outputs `output..output + N`.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&self, s: S, row: usize, output: usize) {
        let k = self.k;
        let x: [&[f32]; M] = array::from_fn(|r| &self.x[(row + r) * k..][..k]);
        let w: [&[W]; N] = array::from_fn(|j| &self.weights[(output + j) * k..][..k]);
        let mut sums = [[s.splat(0.0); N]; M];
        let whole = k - k % LANES;
        let mut i = 0;
        while i < whole {
            // SAFETY: i + 16 ≤ k, the length of all these rows.
            let x = x.map(|row| unsafe { &*row.as_ptr().add(i).cast() });
            // SAFETY: as above.
            let w = w.map(|row| unsafe { &*row.as_ptr().add(i).cast::<[W; LANES]>() });
            for w in w {
                // The same place of the next tile: hardware prefetch stops at page borders.
                s.prefetch(w.as_ptr().wrapping_add(N * k));
            }
            step(s, x, w, &mut sums);
            i += LANES;
        }
        if whole < k {
            let (x, w) = (
                x.map(|row| pad(&row[whole..])),
                w.map(|row| pad(&row[whole..])),
            );
            step(s, x.each_ref(), w.each_ref(), &mut sums);
        }
        let mut totals = [[0.0; N]; M];
        for r in 0..M {
            for j in 0..N {
                totals[r][j] = s.sum(sums[r][j]);
            }
        }
        for (r, totals) in totals.iter().enumerate() {
            let start = (row + r) * self.n + output;
            // SAFETY: in bounds of [m, n], and only this chunk writes these outputs.
            unsafe { self.out.slice(start..start + N) }.copy_from_slice(totals);
        }
        if let Some(bias) = self.bias {
            self.add_bias::<M, N>(&bias[output..][..N], (row, output));
        }
    }

    fn add_bias<const M: usize, const N: usize>(
        &self,
        bias: &[f32],
        (row, output): (usize, usize),
    ) {
        for r in row..row + M {
            let start = r * self.n + output;
            // SAFETY: in bounds of [m, n], and only this chunk writes these outputs.
            let out = unsafe { self.out.slice(start..start + N) };
            for (out, bias) in out.iter_mut().zip(bias) {
                *out += bias;
            }
        }
    }
}

/// Sixteen inputs of M rows times those of N outputs.
#[inline(always)]
fn step<S: Simd, W: Weight, const M: usize, const N: usize>(
    s: S,
    x: [&[f32; LANES]; M],
    w: [&[W; LANES]; N],
    sums: &mut [[S::V; N]; M],
) {
    let mut weights = [s.splat(0.0); N];
    for j in 0..N {
        weights[j] = W::load(s, w[j]);
    }
    for r in 0..M {
        let x = s.load(x[r]);
        for j in 0..N {
            sums[r][j] = s.fma(x, weights[j], sums[r][j]);
        }
    }
}

/// Fewer than 16 inputs, filled up with zeros.
fn pad<W: Weight>(tail: &[W]) -> [W; LANES] {
    let mut padded = [W::ZERO; LANES];
    padded[..tail.len()].copy_from_slice(tail);
    padded
}
