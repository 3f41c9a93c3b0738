//! Products, norms and activations: the CPU's bits, whatever the shape.

use super::{
    Checked,
    numbers::{bits, matrix, numbers, rng},
};
use anyhow::{Result, ensure};
use dssd_common::kernels::{Activation, Gpu, Kernels, WeightType};
use rand::Rng;

/// Inputs of the products: whole lanes, parts of them, and what four at once do not divide.
const INPUTS: [usize; 13] = [1, 3, 4, 12, 15, 16, 17, 20, 31, 32, 64, 100, 256];
/// Inputs and outputs of the size that models have, or a part of their outputs.
const LARGE: [(usize, usize); 3] = [(2560, 300), (10_240, 40), (1001, 777)];
/// Rows, around every height of a tile.
const ROWS: [usize; 9] = [1, 2, 3, 4, 5, 8, 9, 16, 17];
const WIDTHS: [usize; 14] = [
    1, 2, 5, 15, 16, 17, 40, 64, 255, 300, 1024, 2560, 8192, 8203,
];
const ACTIVATIONS: [Activation; 4] = [
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::Relu,
];

/// `x · wᵀ + bias` of every type of weights.
///
/// # Errors
/// If a bit differs, or the device fails.
pub(super) fn products(gpu: &Gpu, cpu: &Kernels) -> Result<Checked> {
    let mut rng = rng(31);
    let mut checked = Checked::new("products");
    for dtype in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
        let small = INPUTS.iter().flat_map(|&k| ROWS.map(|m| (m, k, 0)));
        let large = LARGE
            .iter()
            .flat_map(|&(k, n)| [1, 8, 33].map(|m| (m, k, n)));
        for (m, k, n) in small.chain(large) {
            let n = if n == 0 { rng.random_range(1..80) } else { n };
            let (x, w) = (numbers(&mut rng, m * k), matrix(&mut rng, dtype, n, k)?);
            let bias = rng.random_bool(0.5).then(|| numbers(&mut rng, n));
            let mut expected = vec![0.0; m * n];
            cpu.matmul(&x, &w, bias.as_deref(), &mut expected);
            let found = gpu.matmul(&x, &w, bias.as_deref())?;
            let same = bits(&found) == bits(&expected);
            ensure!(
                same,
                "product {m} x {k} by {n}, {}: other bits than the CPU's",
                dtype.name()
            );
            checked.add(m * n);
        }
    }
    Ok(checked)
}

/// Layer norm and RMS norm.
///
/// # Errors
/// As of [`products`].
pub(super) fn norms(gpu: &Gpu, cpu: &Kernels) -> Result<Checked> {
    let mut rng = rng(32);
    let mut checked = Checked::new("norms");
    for width in WIDTHS {
        let rows = rng.random_range(1..4);
        let (x, weight) = (numbers(&mut rng, rows * width), numbers(&mut rng, width));
        let bias = rng.random_bool(0.5).then(|| numbers(&mut rng, width));
        let mut expected = vec![0.0; x.len()];
        cpu.layer_norm(&x, &weight, bias.as_deref(), 1e-5, &mut expected);
        let found = gpu.normalized(&x, &weight, bias.as_deref(), 1e-5, true)?;
        ensure!(
            bits(&found) == bits(&expected),
            "layer norm of {width}: other bits than the CPU's"
        );
        cpu.rms_norm(&x, &weight, 1e-6, &mut expected);
        let found = gpu.normalized(&x, &weight, None, 1e-6, false)?;
        ensure!(
            bits(&found) == bits(&expected),
            "RMS norm of {width}: other bits than the CPU's"
        );
        checked.add(2 * x.len());
    }
    Ok(checked)
}

/// Every activation, alone and as a gate.
///
/// # Errors
/// As of [`products`].
pub(super) fn activations(gpu: &Gpu, cpu: &Kernels) -> Result<Checked> {
    let mut rng = rng(33);
    let scales = [1e-3, 1.0, 10.0, 100.0, 1e10];
    let mut x = numbers(&mut rng, 20_000);
    x.iter_mut()
        .zip(scales.iter().cycle())
        .for_each(|(x, scale)| *x *= scale);
    let limits = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
    ];
    x.extend(limits.into_iter().chain([0.0, 1e-45, -1e-45]));
    let up = numbers(&mut rng, x.len());
    let mut checked = Checked::new("activations");
    for kind in ACTIVATIONS {
        let mut expected = x.clone();
        cpu.activation(kind, &mut expected);
        let found = gpu.activated(kind, &x, None)?;
        ensure!(
            bits(&found) == bits(&expected),
            "{kind:?}: other bits than the CPU's"
        );
        let mut expected = x.clone();
        cpu.gated(kind, &mut expected, &up);
        let found = gpu.activated(kind, &x, Some(&up))?;
        ensure!(
            bits(&found) == bits(&expected),
            "gated {kind:?}: other bits than the CPU's"
        );
        checked.add(2 * x.len());
    }
    Ok(checked)
}
