//! Rows of logits, and what the kernels say of them.

use dssd_common::{
    entropy::Summary,
    kernels::{Choice, Gpu, LogitRows, WeightType},
};
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A type of logits.
pub(crate) trait Logit: Copy {
    const DTYPE: WeightType;
    fn of(x: f32) -> Self;
    fn bytes(self) -> Vec<u8>;
    fn widen(self) -> f32;
}

macro_rules! logit {
    ($type:ty, $dtype:ident, $of:expr, $widen:expr) => {
        impl Logit for $type {
            const DTYPE: WeightType = WeightType::$dtype;
            fn of(x: f32) -> Self {
                $of(x)
            }
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn widen(self) -> f32 {
                $widen(self)
            }
        }
    };
}
logit!(f32, F32, std::convert::identity, std::convert::identity);
logit!(f16, F16, f16::from_f32, f16::to_f32);
logit!(bf16, Bf16, bf16::from_f32, bf16::to_f32);

/// Rows of logits as they lie in memory, neighbours and gaps included.
#[derive(Clone)]
pub(crate) struct Rows<T> {
    pub(crate) rows: usize,
    pub(crate) vocabulary: usize,
    pub(crate) stride: usize,
    pub(crate) offset: usize,
    pub(crate) logits: Vec<T>,
}

impl<T: Logit> Rows<T> {
    /// Rows one behind the other.
    pub(crate) fn dense(rows: &[Vec<f32>]) -> Self {
        let vocabulary = rows.first().map_or(1, Vec::len);
        Self::strided(rows, vocabulary, 0)
    }

    /// Rows that begin `stride` logits apart behind `offset` others; what is between is large.
    pub(crate) fn strided(rows: &[Vec<f32>], stride: usize, offset: usize) -> Self {
        let vocabulary = rows.first().map_or(1, Vec::len);
        let mut logits = vec![T::of(60_000.0); offset + rows.len() * stride];
        for (index, row) in rows.iter().enumerate() {
            let first = offset + index * stride;
            for (place, &x) in logits[first..].iter_mut().zip(row) {
                *place = T::of(x);
            }
        }
        Self {
            rows: rows.len(),
            vocabulary,
            stride,
            offset,
            logits,
        }
    }

    /// A row as the kernel sees it.
    pub(crate) fn row(&self, index: usize) -> Vec<f32> {
        let first = self.offset + index * self.stride;
        let row = &self.logits[first..first + self.vocabulary];
        row.iter().map(|x| x.widen()).collect()
    }
}

/// What the kernels say of rows.
pub(crate) struct Answer {
    pub(crate) summaries: Vec<Summary>,
    /// Empty if nothing was to be chosen; `None` for a row that is no distribution.
    pub(crate) ids: Vec<Option<u32>>,
}

impl Answer {
    /// For comparisons bit by bit.
    pub(crate) fn bits(&self) -> Vec<[u32; 7]> {
        let bits = |s: &Summary| {
            let floats = [
                s.max_probability,
                s.margin_probability,
                s.margin_logit,
                s.log_sum_exp,
                s.entropy,
            ];
            let [p, q, m, l, h] = floats.map(f32::to_bits);
            [s.argmax, p, q, m, l, h, u32::from(s.valid)]
        };
        self.summaries.iter().map(bits).collect()
    }
}

/// What the kernels say of rows, and which ids the choices give.
pub(crate) fn run<T: Logit>(gpu: &Gpu, rows: &Rows<T>, choices: &[Choice]) -> Answer {
    let bytes: Vec<u8> = rows.logits.iter().flat_map(|x| x.bytes()).collect();
    let places = LogitRows {
        count: rows.rows,
        vocabulary: rows.vocabulary,
        offset: rows.offset,
        stride: rows.stride,
    };
    let logits = gpu.logits(&bytes, T::DTYPE, places).unwrap();
    let summaries = gpu.summarize(&logits).unwrap();
    let ids = match choices {
        [] => Vec::new(),
        choices => gpu.pick(&logits, &summaries, choices).unwrap(),
    };
    Answer {
        summaries: gpu.read_summaries(&summaries).unwrap(),
        ids,
    }
}

/// Logits that look like those of a model, around `shift`.
pub(crate) fn row(rng: &mut ChaCha8Rng, vocabulary: usize, spread: f32, shift: f32) -> Vec<f32> {
    let mut draw = || (0..6).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>();
    (0..vocabulary).map(|_| spread * draw() + shift).collect()
}

pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}
