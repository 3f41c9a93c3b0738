//! What heads need to learn: the bits of the same steps in a loop where the order of a sum is that of a loop, else
//! within tolerance of the definition.

use super::{
    Checked,
    numbers::{bits, logits, numbers, rng},
};
use anyhow::{Result, ensure};
use dssd_common::{
    entropy::Summary,
    kernels::{Activation, AdamWStep, Gpu, GpuProduct as Product, GpuRows, Kernels, Store},
    math::exp,
};

/// Rows, columns and inner sizes of products: within a tile, at its ends, just beyond them, and over several.
const SHAPES: [[usize; 3]; 7] = [
    [1, 1, 1],
    [3, 5, 7],
    [128, 128, 8],
    [129, 127, 9],
    [1, 300, 40],
    [260, 2, 131],
    [33, 40, 4096],
];
/// Rows and columns of what goes element by element.
const ROWS: [(usize, usize); 4] = [(1, 1), (5, 33), (19, 64), (9, 300)];
const VOCABULARIES: [usize; 5] = [2, 17, 4096, 8193, 50_304];

/// Every kernel of training.
///
/// # Errors
/// If a number is another than it should be, or the device fails.
pub(super) fn learning(gpu: &Gpu, cpu: &Kernels) -> Result<Checked> {
    let mut checked = Checked::new("learning");
    for shape in SHAPES {
        for product in [Product::Nt, Product::Nn, Product::Tn] {
            checked.add(check_product(gpu, product, shape)?);
        }
    }
    for (rows, width) in ROWS {
        checked.add(check_norm(gpu, rows, width)?);
    }
    checked.add(check_silu(gpu, cpu)?);
    for vocabulary in VOCABULARIES {
        checked.add(check_loss(gpu, cpu, vocabulary)?);
    }
    for count in [1, 255, 16_384, 16_385, 100_003] {
        checked.add(check_squares(gpu, count)?);
    }
    checked.add(check_steps(gpu)?);
    Ok(checked)
}

fn ensure_close(found: &[f32], exact: &[f64], tolerance: f64, what: &str) -> Result<usize> {
    for (index, (&found, &exact)) in found.iter().zip(exact).enumerate() {
        let close = (f64::from(found) - exact).abs() <= tolerance * (1.0 + exact.abs());
        ensure!(close, "{what}: number {index} is {found}, not {exact}");
    }
    ensure!(found.len() == exact.len(), "{what}: not all numbers");
    Ok(found.len())
}

/// A product over what was there, and onto it, with a row more than is in use.
fn check_product(gpu: &Gpu, product: Product, shape: [usize; 3]) -> Result<usize> {
    let mut rng = rng(71);
    let [rows, columns, inner] = shape;
    let (a_shape, b_shape) = match product {
        Product::Nt => ([rows, inner], [columns, inner]),
        Product::Nn => ([rows, inner], [inner, columns]),
        Product::Tn => ([inner, rows], [inner, columns]),
    };
    let a = numbers(&mut rng, (a_shape[0] + 1) * a_shape[1]);
    let b = numbers(&mut rng, b_shape[0] * b_shape[1]);
    let a_place = |i: usize, k: usize| match product {
        Product::Tn => k * rows + i,
        _ => i * inner + k,
    };
    let b_place = |k: usize, j: usize| match product {
        Product::Nt => j * inner + k,
        _ => k * columns + j,
    };
    let mut expected = Vec::with_capacity((rows + 1) * columns);
    for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
        let terms = (0..inner).map(|k| (a[a_place(i, k)], b[b_place(k, j)]));
        expected.push(terms.fold(0f32, |sum, (a, b)| a.mul_add(b, sum)));
    }
    let before = numbers(&mut rng, (rows + 1) * columns);
    expected.extend(&before[rows * columns..]);
    let (a, b) = (gpu.rows(&a, a_shape[1])?, gpu.rows(&b, b_shape[1])?);
    let mut out = gpu.rows(&before, columns)?;
    gpu.multiply(product, (&a, &b), a_shape[0], &mut out, Store::Over)?;
    let over = gpu.values(&out)?;
    let same = bits(&over) == bits(&expected);
    ensure!(same, "product {product:?} of {shape:?}: other bits");
    gpu.replace(&mut out, &before)?;
    gpu.multiply(product, (&a, &b), a_shape[0], &mut out, Store::Onto)?;
    let (used, _) = expected.split_at_mut(rows * columns);
    for (sum, before) in used.iter_mut().zip(&before) {
        *sum += before;
    }
    let same = bits(&gpu.values(&out)?) == bits(&expected);
    ensure!(same, "product {product:?} onto {shape:?}: other bits");
    Ok(2 * expected.len())
}

/// Gain and bias, and their gradients.
fn check_norm(gpu: &Gpu, rows: usize, width: usize) -> Result<usize> {
    let mut rng = rng(72);
    let (x, g) = (
        numbers(&mut rng, rows * width),
        numbers(&mut rng, rows * width),
    );
    let (gain, bias) = (numbers(&mut rng, width), numbers(&mut rng, width));
    let on = |values: &[f32]| gpu.rows(values, width);
    let mut out = gpu.zeros(rows, width)?;
    gpu.scale(&on(&x)?, (&on(&gain)?, Some(&on(&bias)?)), rows, &mut out)?;
    let all = x.iter().enumerate();
    let expected = all.map(|(i, x)| x.mul_add(gain[i % width], bias[i % width]));
    let same = bits(&gpu.values(&out)?) == bits(&expected.collect::<Vec<_>>());
    ensure!(same, "gain and bias of {rows} x {width}: other bits");
    gpu.scale(&on(&x)?, (&on(&gain)?, None), rows, &mut out)?;
    let all = x.iter().enumerate();
    let expected = all.map(|(i, x)| x * gain[i % width]);
    let same = bits(&gpu.values(&out)?) == bits(&expected.collect::<Vec<_>>());
    ensure!(same, "gain of {rows} x {width}: other bits");

    let column = |start: &[f32], value: &dyn Fn(usize) -> f64| -> Vec<f64> {
        let sum = |i| (0..rows).map(|row| value(row * width + i)).sum::<f64>();
        let all = start.iter().enumerate();
        all.map(|(i, &start)| f64::from(start) + sum(i)).collect()
    };
    let mut sums = on(&gain)?;
    gpu.sum_columns(&on(&g)?, Some(&on(&x)?), rows, &mut sums)?;
    let exact = column(&gain, &|i| f64::from(g[i]) * f64::from(x[i]));
    ensure_close(&gpu.values(&sums)?, &exact, 1e-5, "gradient of a gain")?;
    let mut sums = on(&bias)?;
    gpu.sum_columns(&on(&g)?, None, rows, &mut sums)?;
    let exact = column(&bias, &|i| f64::from(g[i]));
    ensure_close(&gpu.values(&sums)?, &exact, 1e-5, "gradient of a bias")?;
    Ok(2 * x.len() + 2 * width)
}

fn check_silu(gpu: &Gpu, cpu: &Kernels) -> Result<usize> {
    let mut rng = rng(73);
    let mut x = numbers(&mut rng, 700);
    x.extend([0.0, -0.0, 20.0, -20.0, 88.0, -88.0, 1e4, -1e4]);
    let (g, columns) = (numbers(&mut rng, x.len()), 59);
    let (on, rows) = (gpu.rows(&x, columns)?, x.len() / columns);
    let mut out = gpu.zeros(rows, columns)?;
    gpu.silu(&on, rows, &mut out)?;
    let mut expected = x.clone();
    cpu.activation(Activation::Silu, &mut expected);
    let same = bits(&gpu.values(&out)?) == bits(&expected);
    ensure!(same, "SiLU of a head: other bits than the CPU's");
    let mut back = gpu.rows(&g, columns)?;
    gpu.silu_back(&on, rows, &mut back)?;
    let exact = x.iter().zip(&g).map(|(&x, &g)| {
        let (x, g) = (f64::from(x), f64::from(g));
        let s = 1.0 / (1.0 + exp(-x));
        g * s * (1.0 + x * (1.0 - s))
    });
    let exact: Vec<f64> = exact.collect();
    ensure_close(&gpu.values(&back)?, &exact, 1e-6, "SiLU back")?;
    Ok(2 * x.len())
}

/// The divergence from a teacher, and its gradient, with a row more than is in use.
fn check_loss(gpu: &Gpu, cpu: &Kernels, vocabulary: usize) -> Result<usize> {
    const ROWS: usize = 3;
    let mut rng = rng(74);
    let mut teacher = logits(&mut rng, ROWS * vocabulary, 2.0, 0.0);
    let mut gradient = logits(&mut rng, ROWS * vocabulary, 4.0, 30.0);
    let with_room = |values: &[f32]| -> Result<GpuRows> {
        let mut rows = gpu.zeros(ROWS + 1, vocabulary)?;
        gpu.replace(&mut rows, values)?;
        Ok(rows)
    };
    let (mut of_teacher, mut of_head) = (Vec::new(), Vec::new());
    cpu.summarize(&teacher, vocabulary, &mut of_teacher);
    cpu.summarize(&gradient, vocabulary, &mut of_head);
    let lse = |rows: &[Summary]| rows.iter().map(|row| row.log_sum_exp).collect::<Vec<_>>();
    cpu.probabilities(&mut teacher, &lse(&of_teacher));
    let mut on = with_room(&gradient)?;
    let (summaries, losses) = gpu.cross_entropy(&with_room(&teacher)?, &mut on, ROWS)?;
    let mut exact = [0.0; ROWS];
    cpu.cross_entropy(&teacher, &mut gradient, &lse(&of_head), &mut exact);

    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    ensure_close(&losses, &wide(&exact), 1e-5, "cross-entropy")?;
    gradient.extend(vec![0.0; vocabulary]);
    ensure_close(&gpu.values(&on)?, &wide(&gradient), 2e-6, "its gradient")?;
    let tops = |rows: &[Summary]| rows.iter().map(|row| row.argmax).collect::<Vec<_>>();
    ensure!(
        tops(&summaries) == tops(&of_head),
        "cross-entropy over {vocabulary}: another arg-max than on the CPU"
    );
    Ok(gradient.len())
}

fn check_squares(gpu: &Gpu, count: usize) -> Result<usize> {
    let x = numbers(&mut rng(75), count);
    let exact: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let found = gpu.sum_squares(&gpu.rows(&x, 1)?)?;
    ensure!(
        (found - exact).abs() <= 1e-6 * exact,
        "sum of {count} squares: {found}, not {exact}"
    );
    Ok(count)
}

/// Some steps of AdamW.
fn check_steps(gpu: &Gpu) -> Result<usize> {
    const COLUMNS: usize = 111;
    let mut rng = rng(76);
    let mut value = numbers(&mut rng, 7 * COLUMNS);
    let mut moments = vec![(0f32, 0f32); value.len()];
    let mut parameter = gpu.parameter(&value, COLUMNS)?;
    for number in 1..=5 {
        let step = AdamWStep {
            mean: 1.0 / 48.0,
            clip: 0.7,
            decay1: 0.9,
            rest1: 0.1,
            decay2: 0.999,
            rest2: 0.001,
            correction1: 1.0 / (1.0 - 0.9f32.powi(number)),
            correction2: 1.0 / (1.0 - 0.999f32.powi(number)),
            epsilon: 1e-8,
            kept: 1.0 - 1e-5,
            rate: 1e-3,
        };
        let sums = numbers(&mut rng, value.len());
        gpu.replace(&mut parameter.gradient, &sums)?;
        gpu.adamw(&mut parameter, step)?;
        for ((value, moments), sum) in value.iter_mut().zip(&mut moments).zip(&sums) {
            *value = stepped(*value, moments, *sum, step);
        }
        let (first, second): (Vec<_>, Vec<_>) = moments.iter().copied().unzip();
        let all = [
            (&parameter.value, &value),
            (&parameter.first, &first),
            (&parameter.second, &second),
            (&parameter.gradient, &vec![0.0; value.len()]),
        ];
        for (found, expected) in all {
            let same = bits(&gpu.values(found)?) == bits(expected);
            ensure!(same, "step {number} of AdamW: other bits");
        }
    }
    Ok(5 * 4 * value.len())
}

/// One number after a step, by the optimizer's definition.
fn stepped(value: f32, moments: &mut (f32, f32), sum: f32, step: AdamWStep) -> f32 {
    let (first, second) = moments;
    let gradient = sum * step.mean * step.clip;
    *first = *first * step.decay1 + gradient * step.rest1;
    *second = *second * step.decay2 + gradient * gradient * step.rest2;
    let scale = (*second * step.correction2).sqrt() + step.epsilon;
    value * step.kept - *first * step.correction1 / scale * step.rate
}
