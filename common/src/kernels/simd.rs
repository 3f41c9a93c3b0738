//! Sixteen virtual lanes of f32: the one vocabulary in which every kernel is written.

use half::{bf16, f16};

/// Number of virtual lanes. Lane `l` of a sum takes the elements whose index is `l` mod 16.
pub(crate) const LANES: usize = 16;

/// A token that proves that the CPU has an instruction set, and the operations on 16 lanes in it.
///
/// Every operation is one correctly rounded IEEE operation per lane, so all sets give the same
/// bits. (Only the payload of a NaN may differ.) Generic code over `Simd` must be
/// `#[inline(always)]` down from [`Task::run`] and keep lanes out of closures (those are compiled
/// without the instruction set), or its operations become calls.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Sixteen lanes.
    type V: Copy;
    /// How many accumulators of 16 lanes fit in the registers beside the operands.
    const ACCUMULATORS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn load_f16(self, x: &[f16; LANES]) -> Self::V;
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::V;
    fn store(self, out: &mut [f32; LANES], v: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`: `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`: `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? yes : no`.
    fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// `2^n` of integral lanes in −127 ..= 127, where −127 gives 0.
    fn pow2(self, n: Self::V) -> Self::V;
    /// The fixed tree: lanes l+8, then l+4, l+2, l+1.
    fn sum(self, v: Self::V) -> f32;
    /// Asks for the cache line at `p`, which need not be a valid address.
    fn prefetch<T>(self, p: *const T);

    /// Up to 16 elements; missing lanes are zero.
    #[inline(always)]
    fn read<W: Weight>(self, x: &[W]) -> Self::V {
        match x.first_chunk() {
            Some(full) => W::load(self, full),
            None => {
                let mut padded = [W::ZERO; LANES];
                padded[..x.len()].copy_from_slice(x);
                W::load(self, &padded)
            }
        }
    }

    /// Writes as many lanes as `out` has room for, at most 16.
    #[inline(always)]
    fn write(self, out: &mut [f32], v: Self::V) {
        match out.first_chunk_mut() {
            Some(full) => self.store(full, v),
            None => {
                let lanes = self.lanes(v);
                out.copy_from_slice(&lanes[..out.len()]);
            }
        }
    }

    /// The lanes as an array.
    #[inline(always)]
    fn lanes(self, v: Self::V) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, v);
        lanes
    }

    /// The nearest integer (ties to even) of lanes below 2^22 in magnitude.
    #[inline(always)]
    fn round(self, v: Self::V) -> Self::V {
        // At 1.5·2^23 the spacing of f32 is 1, so the sum rounds to an integer.
        let shift = self.splat(12_582_912.0);
        self.sub(self.add(v, shift), shift)
    }
}

/// Work that is generic over the instruction set; see `Isa::run`.
pub(crate) trait Task {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// A storage type of weights (or logits), widened to f32 lanes on loading.
pub(crate) trait Weight: Copy + Send + Sync + 'static {
    const ZERO: Self;
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::V;
    fn widen(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn narrow(x: f32) -> Self;
}

macro_rules! weight {
    ($type:ty, $zero:expr, $load:ident, $widen:expr, $narrow:expr) => {
        impl Weight for $type {
            const ZERO: Self = $zero;
            #[inline(always)]
            fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::V {
                s.$load(x)
            }
            #[inline(always)]
            fn widen(self) -> f32 {
                $widen(self)
            }
            #[inline(always)]
            fn narrow(x: f32) -> Self {
                $narrow(x)
            }
        }
    };
}

weight!(
    f32,
    0.0,
    load,
    std::convert::identity,
    std::convert::identity
);
weight!(f16, f16::ZERO, load_f16, f16::to_f32, f16::from_f32);
weight!(bf16, bf16::ZERO, load_bf16, bf16::to_f32, bf16::from_f32);

#[cfg(test)]
mod tests;
