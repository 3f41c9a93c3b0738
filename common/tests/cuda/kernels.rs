//! Products, norms and activations: the CPU's bits, whatever the shape.

use crate::{rows::rng, stand_in::gpu};
use dssd_common::{
    bytes::SharedBytes,
    kernels::{Activation, Gpu, Isa, Kernels, Matrix, WeightType},
};
use half::{bf16, f16};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

fn cpu() -> Kernels {
    Kernels::with_isa(Isa::Portable, 1).unwrap()
}

fn numbers(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-2.0f32..2.0)).collect()
}

/// Comparable bits; all NaN are alike.
fn bits(x: &[f32]) -> Vec<u32> {
    let bits = |x: &f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
    x.iter().map(bits).collect()
}

fn matrix(rng: &mut ChaCha8Rng, dtype: WeightType, n: usize, k: usize) -> Matrix {
    let values = numbers(rng, n * k);
    let bytes: Vec<u8> = match dtype {
        WeightType::F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        WeightType::F16 => values
            .iter()
            .flat_map(|x| f16::from_f32(*x).to_ne_bytes())
            .collect(),
        WeightType::Bf16 => values
            .iter()
            .flat_map(|x| bf16::from_f32(*x).to_ne_bytes())
            .collect(),
    };
    let len = bytes.len();
    let bytes = SharedBytes::new(Arc::new(bytes), 0..len).unwrap();
    Matrix::new(bytes, dtype, n, k).unwrap()
}

fn check_product(
    gpu: &Gpu,
    rng: &mut ChaCha8Rng,
    dtype: WeightType,
    (m, n, k): (usize, usize, usize),
) {
    let (x, w) = (numbers(rng, m * k), matrix(rng, dtype, n, k));
    let bias = rng.random_bool(0.5).then(|| numbers(rng, n));
    let mut expected = vec![0.0; m * n];
    cpu().matmul(&x, &w, bias.as_deref(), &mut expected);
    let found = gpu.matmul(&x, &w, bias.as_deref()).unwrap();
    let name = dtype.name();
    assert_eq!(bits(&found), bits(&expected), "{name}, {m} x {k} by {n}");
}

#[test]
fn products_have_the_bits_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng(31);
    for dtype in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
        for k in [1, 3, 4, 12, 15, 16, 17, 20, 31, 32, 64, 100, 256] {
            for m in [1, 2, 3, 4, 5, 8, 9, 17] {
                let n = rng.random_range(1..80);
                check_product(gpu, &mut rng, dtype, (m, n, k));
            }
        }
    }
}

#[test]
fn norms_have_the_bits_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng(32);
    for width in [1, 2, 5, 15, 16, 17, 40, 64, 255, 300, 1024] {
        let rows = rng.random_range(1..4);
        let (x, weight) = (numbers(&mut rng, rows * width), numbers(&mut rng, width));
        let bias = rng.random_bool(0.5).then(|| numbers(&mut rng, width));
        let mut expected = vec![0.0; x.len()];
        cpu().layer_norm(&x, &weight, bias.as_deref(), 1e-5, &mut expected);
        let found = gpu
            .normalized(&x, &weight, bias.as_deref(), 1e-5, true)
            .unwrap();
        assert_eq!(bits(&found), bits(&expected), "layer norm of {width}");
        cpu().rms_norm(&x, &weight, 1e-6, &mut expected);
        let found = gpu.normalized(&x, &weight, None, 1e-6, false).unwrap();
        assert_eq!(bits(&found), bits(&expected), "rms norm of {width}");
    }
}

#[test]
fn activations_have_the_bits_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng(33);
    let mut x: Vec<f32> = (0..20_000)
        .map(|_| rng.random_range(-1.0f32..1.0))
        .collect();
    let scales = [1e-3, 1.0, 10.0, 100.0, 1e10];
    x.iter_mut()
        .zip(scales.iter().cycle())
        .for_each(|(x, scale)| *x *= scale);
    let edges = [
        0.0,
        -0.0,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        1e-45,
    ];
    x.extend(edges);
    let up = numbers(&mut rng, x.len());
    for kind in [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::Relu,
    ] {
        let mut expected = x.clone();
        cpu().activation(kind, &mut expected);
        let found = gpu.activated(kind, &x, None).unwrap();
        assert_eq!(bits(&found), bits(&expected), "{kind:?}");
        let mut expected = x.clone();
        cpu().gated(kind, &mut expected, &up);
        let found = gpu.activated(kind, &x, Some(&up)).unwrap();
        assert_eq!(bits(&found), bits(&expected), "gated {kind:?}");
    }
}
