//! Rotary position embedding: rotates pairs of features by an angle that grows with position.

use super::simd::{LANES, Simd, Task};

/// Which features of the rows are rotated, and by which angles.
///
/// In each head, feature `i` and feature `i + half` (for `i < half`) are one pair (the
/// "half-split" layout of GPT-NeoX and Llama); features from `2·half` on stay as they are.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    /// Floats from one row to the next.
    pub row_stride: usize,
    /// Floats from the start of a row to its first head.
    pub offset: usize,
    /// Heads to rotate, one after the other.
    pub heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Pairs in a head.
    pub half: usize,
    /// Absolute position of each row.
    pub positions: &'a [usize],
    /// Cosines of the angles, `[positions, half]`.
    pub cos: &'a [f32],
    /// Sines of the angles, `[positions, half]`.
    pub sin: &'a [f32],
}

/// Rotates the rows of `x`; `args.positions` are theirs.
pub(crate) struct RopeRows<'a> {
    pub(crate) args: Rope<'a>,
    pub(crate) x: &'a mut [f32],
}

impl Task for RopeRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rope {
            row_stride,
            offset,
            heads,
            head_dim,
            half,
            positions,
            cos,
            sin,
        } = self.args;
        for (row, &position) in self.x.chunks_mut(row_stride).zip(positions) {
            let cos = &cos[position * half..][..half];
            let sin = &sin[position * half..][..half];
            for head in row[offset..][..heads * head_dim].chunks_exact_mut(head_dim) {
                rotate(s, &mut head[..2 * half], cos, sin);
            }
        }
    }
}

#[inline(always)]
fn rotate<S: Simd>(s: S, pairs: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = pairs.split_at_mut(cos.len());
    for (start, (a, b)) in (0..)
        .step_by(LANES)
        .zip(first.chunks_mut(LANES).zip(second.chunks_mut(LANES)))
    {
        let (c, d) = (s.read(&cos[start..]), s.read(&sin[start..]));
        let (x, y) = (s.read(a), s.read(b));
        s.write(a, s.sub(s.mul(x, c), s.mul(y, d)));
        s.write(b, s.add(s.mul(y, c), s.mul(x, d)));
    }
}
