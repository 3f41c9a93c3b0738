//! The lanes as an array: the definition that every instruction set must match bit for bit.

use half::{bf16, f16};

use super::simd::{LANES, Simd};

/// The token of plain Rust, which every CPU has.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type V = [f32; LANES];

#[inline(always)]
fn map(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|l| f(a[l], b[l]))
}

impl Simd for Portable {
    type V = V;
    const ACCUMULATORS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> V {
        *x
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> V {
        x.map(f16::to_f32)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> V {
        x.map(bf16::to_f32)
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; LANES], v: V) {
        *out = v;
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        map(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        map(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        map(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        map(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        map(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        map(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn if_less(self, a: V, b: V, yes: V, no: V) -> V {
        std::array::from_fn(|l| if a[l] < b[l] { yes[l] } else { no[l] })
    }
    #[inline(always)]
    fn pow2(self, n: V) -> V {
        n.map(|n| f32::from_bits((n as i32).wrapping_add(127).cast_unsigned() << 23))
    }
    #[inline(always)]
    fn sum(self, mut v: V) -> f32 {
        for width in [8, 4, 2, 1] {
            for l in 0..width {
                v[l] += v[l + width];
            }
        }
        v[0]
    }
    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
}
