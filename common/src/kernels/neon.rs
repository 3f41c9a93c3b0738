//! The lanes in four 128-bit registers: lanes 0–3, 4–7, 8–11 and 12–15.

use std::arch::{aarch64::*, asm, is_aarch64_feature_detected};

use half::{bf16, f16};

use super::simd::{LANES, Simd, Task};

/// The token of NEON. Its field is private: only [`Neon::detect`] makes one.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

type V = [float32x4_t; 4];

impl Neon {
    /// A token if this CPU has the instructions.
    #[inline(always)]
    pub(crate) fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    /// Runs `task` in code compiled for these instructions.
    pub(crate) fn vectorize<T: Task>(self, task: T) -> T::Output {
        #[target_feature(enable = "neon")]
        fn inner<T: Task>(s: Neon, task: T) -> T::Output {
            task.run(s)
        }
        // SAFETY: the token proves that this CPU has the feature.
        unsafe { inner(self, task) }
    }
}

macro_rules! intrinsics {
    ($body:expr) => {
        // SAFETY: a token exists only where the CPU has the instructions; pointers come from
        // references to arrays of exactly the accessed size, and accesses are unaligned.
        unsafe { $body }
    };
}

/// The four registers that `$register` gives for `$i` in 0 ..= 3.
macro_rules! four {
    ($i:ident, $register:expr) => {
        intrinsics!([
            {
                const $i: usize = 0;
                $register
            },
            {
                const $i: usize = 1;
                $register
            },
            {
                const $i: usize = 2;
                $register
            },
            {
                const $i: usize = 3;
                $register
            },
        ])
    };
}

impl Simd for Neon {
    type V = V;
    // Four take half of the 32 registers; with six, the weights of a tile no longer fit beside them.
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        intrinsics!([vdupq_n_f32(x); 4])
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> V {
        four!(I, vld1q_f32(x.as_ptr().add(4 * I)))
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> V {
        let p = x.as_ptr().cast::<u16>();
        four!(
            I,
            vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p.add(4 * I))))
        )
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> V {
        let p = x.as_ptr().cast::<u16>();
        four!(
            I,
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.add(4 * I))))
        )
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; LANES], v: V) {
        let p = out.as_mut_ptr();
        four!(I, vst1q_f32(p.add(4 * I), v[I]));
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        four!(I, vaddq_f32(a[I], b[I]))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        four!(I, vsubq_f32(a[I], b[I]))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        four!(I, vmulq_f32(a[I], b[I]))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        four!(I, vdivq_f32(a[I], b[I]))
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        four!(I, vfmaq_f32(c[I], a[I], b[I]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        // Not vmaxq: it gives NaN if either is, and orders the zeros.
        four!(I, vbslq_f32(vcgtq_f32(a[I], b[I]), a[I], b[I]))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        self.if_less(a, b, a, b)
    }
    #[inline(always)]
    fn if_less(self, a: V, b: V, yes: V, no: V) -> V {
        four!(I, vbslq_f32(vcltq_f32(a[I], b[I]), yes[I], no[I]))
    }
    #[inline(always)]
    fn pow2(self, n: V) -> V {
        four!(I, {
            let biased = vaddq_s32(vcvtq_s32_f32(n[I]), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        })
    }
    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        intrinsics!({
            let four = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vpadds_f32(two)
        })
    }
    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        // SAFETY: a hint; it reads nothing that the program sees and faults for no address.
        unsafe {
            asm!("prfm pldl2keep, [{}]", in(reg) p, options(readonly, nostack, preserves_flags));
        }
    }
}
