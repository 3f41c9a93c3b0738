//! Which instructions the kernels use: chosen at run time, without any effect on the bits.

#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};
use super::{portable::Portable, simd::Task};

/// An instruction set that holds the 16 virtual lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust: an array of 16.
    Portable,
    /// NEON of AArch64: four registers.
    Neon,
    /// AVX2 with FMA and F16C: two registers.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: one register.
    Avx512,
}

impl Isa {
    /// The fastest that this CPU has.
    pub fn detect() -> Self {
        Self::available().last().copied().unwrap_or(Self::Portable)
    }

    /// All that this CPU has, slowest first; always with [`Isa::Portable`].
    pub fn available() -> Vec<Isa> {
        [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512]
            .into_iter()
            .filter(|isa| match isa {
                Self::Portable => true,
                #[cfg(target_arch = "aarch64")]
                Self::Neon => Neon::detect().is_some(),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => Avx2::detect().is_some(),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => Avx512::detect().is_some(),
                // Those of other machines.
                _ => false,
            })
            .collect()
    }

    /// The name in reports and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Runs a kernel with these instructions, or portably (to the same bits) on a CPU without them.
    #[inline]
    pub(crate) fn run<T: Task>(self, task: T) -> T::Output {
        match self {
            #[cfg(target_arch = "aarch64")]
            Self::Neon if let Some(token) = Neon::detect() => token.vectorize(task),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 if let Some(token) = Avx512::detect() => token.vectorize(task),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if let Some(token) = Avx2::detect() => token.vectorize(task),
            _ => task.run(Portable),
        }
    }
}
