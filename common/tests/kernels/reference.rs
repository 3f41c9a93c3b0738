//! Closeness to slow f64 references.

use dssd_common::{
    bytes::SharedBytes,
    kernels::{AttentionShape, Isa, Kernels, Matrix, Rope, WeightType},
};
use statrs::function::erf::erfc;

use crate::case::{ACTIVATIONS, AttentionCase, TYPES, floats, matmul, matrix};
use dssd_common::kernels::Activation;

const EPSILON: f64 = f32::EPSILON as f64;

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(
            error <= tolerance,
            "element {i}: {found}, expected {expected}"
        );
    }
}

#[test]
fn product() {
    let kernels = Kernels::with_isa(Isa::Portable, 1).unwrap();
    for (dtype, k) in [(TYPES[0], 1), (TYPES[1], 77), (TYPES[2], 1000)] {
        let (x, w, bias) = (floats(1, 3 * k), matrix(2, 5, k, dtype), floats(3, 5));
        let mut row = vec![0.0; k];
        let expected: Vec<f64> = (0..15)
            .map(|i| {
                w.row_f32(i % 5, &mut row);
                let terms = wide(&x[i / 5 * k..][..k]).into_iter().zip(wide(&row));
                terms.map(|(x, w)| x * w).sum::<f64>() + f64::from(bias[i % 5])
            })
            .collect();
        // Each of k/16 + 6 roundings is at most half a unit of a partial sum ≤ 9·k.
        let tolerance = EPSILON * (k as f64 / 16.0 + 6.0) * 9.0 * k as f64 / 2.0;
        assert_close(
            &matmul(&kernels, &x, &w, Some(&bias)),
            &expected,
            tolerance.min(2e-3),
        );
    }
}

#[test]
fn norms() {
    let (width, kernels) = (333, Kernels::with_isa(Isa::Portable, 1).unwrap());
    let (x, weight, bias) = (floats(1, 2 * width), floats(2, width), floats(3, width));
    // A large common offset is where a one-pass variance loses its digits.
    let x: Vec<f32> = x.iter().map(|x| x + 50.0).collect();
    let (mut layer, mut rms) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    kernels.layer_norm(&x, &weight, Some(&bias), 1e-5, &mut layer);
    kernels.rms_norm(&x, &weight, 1e-5, &mut rms);
    for (row, (layer, rms)) in x
        .chunks(width)
        .zip(layer.chunks(width).zip(rms.chunks(width)))
    {
        let row = wide(row);
        let count = width as f64;
        let mean = row.iter().sum::<f64>() / count;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let square = row.iter().map(|x| x * x).sum::<f64>() / count;
        let scaled = |divisor: f64, shift: f64, with_bias: f64| -> Vec<f64> {
            let pairs = row.iter().zip(wide(&weight).into_iter().zip(wide(&bias)));
            pairs
                .map(|(x, (w, b))| (x - shift) / divisor * w + with_bias * b)
                .collect()
        };
        assert_close(layer, &scaled((variance + 1e-5).sqrt(), mean, 1.0), 3e-5);
        assert_close(rms, &scaled((square + 1e-5).sqrt(), 0.0, 0.0), 2e-6);
    }
}

#[test]
fn activations() {
    let x: Vec<f32> = (-3000..=3000).map(|i| i as f32 / 150.0).collect();
    for kind in ACTIVATIONS {
        let mut found = x.clone();
        Kernels::with_isa(Isa::Portable, 1)
            .unwrap()
            .activation(kind, &mut found);
        for (&x, &found) in x.iter().zip(&found) {
            let wide = f64::from(x);
            let expected = match kind {
                Activation::Gelu => wide * 0.5 * erfc(-wide / 2f64.sqrt()),
                Activation::GeluTanh => {
                    let inner =
                        (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3));
                    wide / (1.0 + (-2.0 * inner).exp())
                }
                Activation::Silu => wide / (1.0 + (-wide).exp()),
                Activation::Relu => wide.max(0.0),
            };
            // Relative to the value, the tails included: GeluTanh's argument grows as x³.
            let relative = EPSILON
                * if kind == Activation::GeluTanh {
                    4.0 + wide.abs().powi(3)
                } else {
                    6.0
                };
            let error = (f64::from(found) - expected).abs();
            assert!(
                error <= relative * expected.abs() + 1e-36,
                "{kind:?}({x}) = {found}, not {expected}"
            );
        }
    }
}

#[test]
fn gate_multiplies_the_activation() {
    let (gate, up) = (floats(1, 100), floats(2, 100));
    let kernels = Kernels::new(1);
    let (mut activated, mut gated) = (gate.clone(), gate);
    kernels.activation(Activation::Silu, &mut activated);
    kernels.gated(Activation::Silu, &mut gated, &up);
    let expected: Vec<f32> = activated.iter().zip(&up).map(|(a, b)| a * b).collect();
    assert_eq!(gated, expected);
}

#[test]
fn rope_rotates_pairs_of_the_named_heads_only() {
    let (heads, head_dim, half, stride, offset) = (2, 10, 4, 27, 3);
    let positions = [3usize, 0];
    let angles: Vec<f64> = (0..4 * half).map(|i| i as f64 * 0.37).collect();
    let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
    let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
    let x = floats(1, 2 * stride);
    let mut expected = wide(&x);
    for (row, &position) in positions.iter().enumerate() {
        for head in 0..heads {
            for i in 0..half {
                let a = row * stride + offset + head * head_dim + i;
                let (first, second) = (f64::from(x[a]), f64::from(x[a + half]));
                let angle = angles[position * half + i];
                expected[a] = first * angle.cos() - second * angle.sin();
                expected[a + half] = second * angle.cos() + first * angle.sin();
            }
        }
    }
    let mut found = x.clone();
    let args = Rope {
        row_stride: stride,
        offset,
        heads,
        head_dim,
        half,
        positions: &positions,
        cos: &cos,
        sin: &sin,
    };
    Kernels::new(1).rope(&mut found, args);
    assert_close(&found, &expected, 1e-6);
}

#[test]
fn attention() {
    let shape = AttentionShape {
        heads: 6,
        kv_heads: 2,
        head_dim: 24,
        block_positions: 7,
        scale: 0.2,
    };
    let case = AttentionCase::new(1, shape, &[1, 50, 200]);
    let found = case.run(&Kernels::with_isa(Isa::Portable, 1).unwrap());
    let storage = wide(&case.storage);
    let mut expected = Vec::new();
    for (row, (blocks, keys)) in case.rows.iter().enumerate() {
        for head in 0..6 {
            let at = |part: usize, t: usize| {
                let base = blocks[t / 7] as usize * shape.block_floats();
                &storage[base + ((part * 2 + head / 3) * 7 + t % 7) * 24..][..24]
            };
            let q = wide(&case.q[(row * 6 + head) * 24..][..24]);
            let score = |t| 0.2 * at(0, t).iter().zip(&q).map(|(k, q)| k * q).sum::<f64>();
            let weights: Vec<f64> = (0..*keys).map(|t| score(t).exp()).collect();
            let total: f64 = weights.iter().sum();
            let value =
                |d: usize| (0..*keys).map(|t| weights[t] * at(1, t)[d]).sum::<f64>() / total;
            expected.extend((0..24).map(value));
        }
    }
    assert_close(&found, &expected, 1e-5);
}

#[test]
fn very_unequal_scores_leave_one_key() {
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        block_positions: 4,
        scale: 1.0,
    };
    let mut case = AttentionCase::new(1, shape, &[3]);
    case.q = vec![1000.0; 8];
    case.storage[..24].fill(-1.0);
    case.storage[8..16].fill(1.0);
    let found = case.run(&Kernels::new(1));
    assert_eq!(found, case.storage[32 + 8..][..8]);
}

#[test]
fn conversion_rounds_to_nearest_even_and_widens_exactly() {
    // 1 + 2^-8 lies half-way between two bf16, 1 + 3·2^-8 too; ties go to the even one.
    let values = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 65504.0, 1e-7];
    let bytes = values.iter().flat_map(|x: &f32| x.to_ne_bytes()).collect();
    let exact = Matrix::new(SharedBytes::from_vec(bytes), WeightType::F32, 1, 4).unwrap();
    let row = |dtype| {
        let mut row = [0.0; 4];
        exact.convert(dtype).unwrap().row_f32(0, &mut row);
        row
    };
    assert_eq!(row(WeightType::F32), values);
    assert_eq!(
        row(WeightType::Bf16)[..3],
        [1.0, 1.0 + 4.0 / 256.0, 65536.0]
    );
    let subnormal = 2f32.powi(-23);
    assert_eq!(
        row(WeightType::F16),
        [values[0], values[1], 65504.0, subnormal]
    );
}

#[test]
fn misaligned_bytes_and_wrong_sizes() {
    let mut bytes = vec![0u8; 1];
    bytes.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_ne_bytes()));
    let shared = SharedBytes::new(std::sync::Arc::new(bytes), 1..9).unwrap();
    let matrix = Matrix::new(shared.clone(), WeightType::F32, 2, 1).unwrap();
    assert_eq!(matmul(&Kernels::new(1), &[2.0], &matrix, None), [3.0, -4.0]);
    for (n, k) in [(2, 2), (0, 1), (1, 0), (usize::MAX, 8)] {
        assert!(
            Matrix::new(shared.clone(), WeightType::F32, n, k).is_err(),
            "[{n}, {k}]"
        );
    }
}

#[test]
fn an_instruction_set_of_another_machine_is_refused() {
    for isa in [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512] {
        assert_eq!(
            Kernels::with_isa(isa, 1).is_ok(),
            Isa::available().contains(&isa)
        );
    }
    assert!(Isa::available().contains(&Isa::detect()));
    // The baseline of AArch64 has NEON, and nothing else does.
    let neon = Isa::available().contains(&Isa::Neon);
    assert_eq!(neon, cfg!(target_arch = "aarch64"));
}
