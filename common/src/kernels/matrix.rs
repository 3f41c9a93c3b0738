//! Weights as they lie in a file: row-major bytes, often a memory map.

use std::sync::Arc;

use half::{bf16, f16};

use super::simd::Weight;
use crate::{Error, Result, bytes::SharedBytes};

/// The type in which weights are stored. All are widened, exactly, to f32 in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl WeightType {
    /// Size of one weight in bytes.
    pub fn bytes_per_weight(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// What it is called: `f32`, `f16` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// Row-major weights `[n outputs, k inputs]`, borrowed in their type.
#[derive(Clone, Copy)]
pub(crate) enum Weights<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

/// A row-major weight matrix `[n outputs, k inputs]` over shared bytes (native endianness).
#[derive(Clone, Debug)]
pub struct Matrix {
    bytes: SharedBytes,
    dtype: WeightType,
    n: usize,
    k: usize,
}

impl Matrix {
    /// A matrix over `bytes`. Bytes that are not aligned for their type are copied once.
    ///
    /// # Errors
    /// If `n` or `k` is 0, or the number of bytes is not `n · k ·` [`WeightType::bytes_per_weight`].
    pub fn new(bytes: SharedBytes, dtype: WeightType, n: usize, k: usize) -> Result<Self> {
        let expected = n
            .checked_mul(k)
            .and_then(|e| e.checked_mul(dtype.bytes_per_weight()));
        let found = bytes.as_ref().len();
        if found == 0 || expected != Some(found) {
            return Err(Error::Mismatch {
                what: "size of a weight matrix",
                expected: format!("{n} x {k} weights of {dtype:?}, at least one"),
                found: format!("{found} bytes"),
            });
        }
        let aligned = bytes
            .as_ref()
            .as_ptr()
            .addr()
            .is_multiple_of(dtype.bytes_per_weight());
        let bytes = if aligned {
            bytes
        } else {
            AlignedBytes::copy(bytes.as_ref()).share()
        };
        Ok(Self { bytes, dtype, n, k })
    }

    /// Outputs: rows of the matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs: columns of the matrix.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The type in which the weights are stored.
    pub fn dtype(&self) -> WeightType {
        self.dtype
    }

    /// Bytes that one product reads.
    pub fn byte_len(&self) -> usize {
        self.bytes.as_ref().len()
    }

    /// The same weights in another type, rounded to nearest, ties to even.
    ///
    /// # Errors
    /// None at present; the signature leaves room for a type that can refuse a value.
    pub fn convert(&self, to: WeightType) -> Result<Self> {
        if to == self.dtype {
            return Ok(self.clone());
        }
        let bytes = match self.weights() {
            Weights::F32(w) => convert(w, to),
            Weights::F16(w) => convert(w, to),
            Weights::Bf16(w) => convert(w, to),
        };
        Self::new(bytes.share(), to, self.n, self.k)
    }

    /// Row `row`, widened into `out[..k]`: an embedding look-up.
    ///
    /// # Panics
    /// If `row ≥ n` or `out` is not `k` long.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        match self.weights() {
            Weights::F32(w) => widen_row(w, row, out),
            Weights::F16(w) => widen_row(w, row, out),
            Weights::Bf16(w) => widen_row(w, row, out),
        }
    }

    /// The weights as they lie in memory.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    pub(crate) fn weights(&self) -> Weights<'_> {
        let bytes = self.bytes.as_ref();
        let (p, len) = (bytes.as_ptr(), self.n * self.k);
        // SAFETY: `new` checked that there are `len` elements and that they are aligned; every
        // bit pattern is a value of these types.
        unsafe {
            match self.dtype {
                WeightType::F32 => Weights::F32(std::slice::from_raw_parts(p.cast(), len)),
                WeightType::F16 => Weights::F16(std::slice::from_raw_parts(p.cast(), len)),
                WeightType::Bf16 => Weights::Bf16(std::slice::from_raw_parts(p.cast(), len)),
            }
        }
    }
}

fn widen_row<W: Weight>(weights: &[W], row: usize, out: &mut [f32]) {
    let k = out.len();
    for (o, w) in out.iter_mut().zip(&weights[row * k..][..k]) {
        *o = w.widen();
    }
}

fn convert<W: Weight>(weights: &[W], to: WeightType) -> AlignedBytes {
    match to {
        WeightType::F32 => AlignedBytes::collect(weights, |w| f32::narrow(w.widen()).to_ne_bytes()),
        WeightType::F16 => AlignedBytes::collect(weights, |w| f16::narrow(w.widen()).to_ne_bytes()),
        WeightType::Bf16 => {
            AlignedBytes::collect(weights, |w| bf16::narrow(w.widen()).to_ne_bytes())
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([u8; 64]);

/// Bytes that start on a cache line.
struct AlignedBytes {
    lines: Vec<CacheLine>,
    len: usize,
}

impl AlignedBytes {
    fn zeroed(len: usize) -> Self {
        Self {
            lines: vec![CacheLine([0; 64]); len.div_ceil(64)],
            len,
        }
    }

    fn copy(bytes: &[u8]) -> Self {
        let mut aligned = Self::zeroed(bytes.len());
        aligned.as_mut().copy_from_slice(bytes);
        aligned
    }

    fn collect<W: Copy, const B: usize>(items: &[W], bytes: impl Fn(W) -> [u8; B]) -> Self {
        let mut aligned = Self::zeroed(items.len() * B);
        for (out, &item) in aligned
            .as_mut()
            .as_chunks_mut::<B>()
            .0
            .iter_mut()
            .zip(items)
        {
            *out = bytes(item);
        }
        aligned
    }

    fn share(self) -> SharedBytes {
        let range = 0..self.len;
        #[expect(clippy::expect_used, reason = "the range is the whole buffer")]
        SharedBytes::new(Arc::new(self), range).expect("in bounds")
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the lines are contiguous, initialised bytes, at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_ref`, and mutably borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
