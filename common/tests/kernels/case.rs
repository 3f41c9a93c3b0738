//! Random inputs, and one run of every kernel on them.

use dssd_common::{
    bytes::SharedBytes,
    kernels::{Activation, AttentionRow, AttentionShape, Kernels, Matrix, Rope, WeightType},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) const ACTIVATIONS: [Activation; 4] = [
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::Relu,
];
pub(crate) const TYPES: [WeightType; 3] = [WeightType::F32, WeightType::F16, WeightType::Bf16];

pub(crate) fn floats(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-3.0..3.0)).collect()
}

pub(crate) fn matrix(seed: u64, n: usize, k: usize, dtype: WeightType) -> Matrix {
    let bytes = floats(seed, n * k)
        .iter()
        .flat_map(|x| x.to_ne_bytes())
        .collect();
    let exact = Matrix::new(SharedBytes::from_vec(bytes), WeightType::F32, n, k).unwrap();
    exact.convert(dtype).unwrap()
}

pub(crate) fn matmul(kernels: &Kernels, x: &[f32], w: &Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / w.k() * w.n()];
    kernels.matmul(x, w, bias, &mut out);
    out
}

/// Attention inputs of several sequences whose blocks lie scattered in one storage.
#[derive(Clone, Debug)]
pub(crate) struct AttentionCase {
    pub(crate) shape: AttentionShape,
    pub(crate) q: Vec<f32>,
    pub(crate) storage: Vec<f32>,
    pub(crate) rows: Vec<(Vec<u32>, usize)>,
}

impl AttentionCase {
    pub(crate) fn new(seed: u64, shape: AttentionShape, keys: &[usize]) -> Self {
        let mut next = 0;
        let mut rows: Vec<(Vec<u32>, usize)> = keys
            .iter()
            .map(|&keys| {
                let blocks = keys.div_ceil(shape.block_positions) as u32;
                next += blocks;
                ((next - blocks..next).rev().collect(), keys)
            })
            .collect();
        rows.reverse();
        Self {
            shape,
            q: floats(seed, keys.len() * shape.heads * shape.head_dim),
            storage: floats(seed + 1, next as usize * shape.block_floats()),
            rows,
        }
    }

    pub(crate) fn run(&self, kernels: &Kernels) -> Vec<f32> {
        self.run_rows(kernels, 0, self.rows.len())
    }

    pub(crate) fn run_rows(&self, kernels: &Kernels, first: usize, last: usize) -> Vec<f32> {
        let width = self.shape.heads * self.shape.head_dim;
        let rows: Vec<_> = self.rows[first..last]
            .iter()
            .map(|(blocks, keys)| AttentionRow {
                blocks,
                keys: *keys,
            })
            .collect();
        let mut out = vec![f32::NAN; rows.len() * width];
        let q = &self.q[first * width..last * width];
        kernels.attention(q, &rows, &self.storage, &self.shape, &mut out);
        out
    }
}

/// Outputs of the row-wise kernels on `rows` rows of `width` features, one after the other.
pub(crate) fn row_kernels(kernels: &Kernels, seed: u64, rows: usize, width: usize) -> Vec<f32> {
    let x = floats(seed, rows * width);
    let (weight, bias) = (floats(seed + 1, width), floats(seed + 2, width));
    let mut all = Vec::new();
    let mut out = vec![f32::NAN; x.len()];
    kernels.layer_norm(&x, &weight, Some(&bias), 1e-5, &mut out);
    all.extend_from_slice(&out);
    kernels.layer_norm(&x, &weight, None, 1e-5, &mut out);
    all.extend_from_slice(&out);
    kernels.rms_norm(&x, &weight, 1e-6, &mut out);
    all.extend_from_slice(&out);
    for kind in ACTIVATIONS {
        out.copy_from_slice(&x);
        kernels.activation(kind, &mut out);
        all.extend_from_slice(&out);
        kernels.gated(kind, &mut out, &x);
        all.extend_from_slice(&out);
    }
    kernels.add(&mut out, &x);
    all.extend_from_slice(&out);
    let half = width / 3;
    let positions: Vec<usize> = (0..rows).map(|r| r * 7 % 5).collect();
    let (cos, sin) = (floats(seed + 3, 5 * half), floats(seed + 4, 5 * half));
    let rope = Rope {
        row_stride: width,
        offset: width - 2 * half,
        heads: 1,
        head_dim: 2 * half,
        half,
        positions: &positions,
        cos: &cos,
        sin: &sin,
    };
    if half > 0 {
        kernels.rope(&mut out, rope);
    }
    all.extend_from_slice(&out);
    all
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}
