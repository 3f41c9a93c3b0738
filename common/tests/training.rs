//! What heads need to learn on a GPU, against slow references in f64 and against the CPU. It runs on the stand-in
//! for the driver.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use candle_core::{Device, Tensor, Var};
use dssd_common::{
    entropy::Summary,
    kernels::{AdamWStep, Gpu, GpuProduct as Product, GpuRows, Kernels, Write},
    math::exp,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[path = "cuda/stand_in.rs"]
mod stand_in;

fn floats(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-3.0..3.0)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(
            error <= tolerance,
            "{what}: element {i}: {found}, expected {expected}"
        );
    }
}

/// Element (i, k) of a factor that lies as it is, or transposed.
fn element(x: &[f32], (i, k): (usize, usize), (count, inner): (usize, usize), turned: bool) -> f64 {
    f64::from(x[if turned { k * count + i } else { i * inner + k }])
}

/// One product on the GPU, onto `before` or over it.
fn product(
    gpu: &Gpu,
    kind: Product,
    (a, b): (&[f32], &[f32]),
    [rows, columns, inner]: [usize; 3],
    before: Option<&[f32]>,
) -> Vec<f32> {
    let (a_columns, b_columns) = match kind {
        Product::Nt => (inner, inner),
        Product::Nn => (inner, columns),
        Product::Tn => (rows, columns),
    };
    let a = gpu.rows(a, a_columns).unwrap();
    let b = gpu.rows(b, b_columns).unwrap();
    // What is replaced must not matter.
    let nothing = vec![f32::NAN; rows * columns];
    let mut out = gpu.rows(before.unwrap_or(&nothing), columns).unwrap();
    let write = before.map_or(Write::Over, |_| Write::Onto);
    let count = if kind == Product::Tn { inner } else { rows };
    gpu.multiply(kind, (&a, &b), count, &mut out, write)
        .unwrap();
    gpu.values(&out).unwrap()
}

#[test]
fn products_are_those_of_a_loop_in_any_shape() {
    let Some(gpu) = stand_in::gpu() else { return };
    // Within a tile, at its ends, just beyond them, and over several.
    let shapes = [
        [1, 1, 1],
        [3, 5, 7],
        [128, 128, 8],
        [129, 127, 9],
        [1, 300, 40],
        [260, 2, 131],
    ];
    for (seed, shape) in shapes.into_iter().enumerate() {
        let [rows, columns, inner] = shape;
        let a = floats(seed as u64, rows * inner);
        let b = floats(seed as u64 + 50, columns * inner);
        let before = floats(seed as u64 + 99, rows * columns);
        for kind in [Product::Nt, Product::Nn, Product::Tn] {
            let (a_turned, b_turned) = (kind == Product::Tn, kind != Product::Nt);
            let exact: Vec<f64> = (0..rows * columns)
                .map(|at| {
                    let (i, j) = (at / columns, at % columns);
                    let terms = (0..inner).map(|k| {
                        element(&a, (i, k), (rows, inner), a_turned)
                            * element(&b, (j, k), (columns, inner), b_turned)
                    });
                    terms.sum()
                })
                .collect();
            // Each of `inner` roundings is at most half a unit of a partial sum of at most 9 · inner.
            let tolerance = f64::from(f32::EPSILON) * 4.5 * (inner * inner + inner) as f64;
            let over = product(gpu, kind, (&a, &b), shape, None);
            assert_close(&over, &exact, tolerance, &format!("{kind:?} {shape:?}"));
            let sums = over.iter().zip(&before).map(|(sum, before)| before + sum);
            let onto = product(gpu, kind, (&a, &b), shape, Some(&before));
            assert_eq!(
                bits(&onto),
                bits(&sums.collect::<Vec<_>>()),
                "{kind:?} {shape:?}"
            );
        }
    }
}

#[test]
fn a_product_takes_the_first_rows_alone() {
    let Some(gpu) = stand_in::gpu() else { return };
    let (x, w) = (floats(1, 5 * 9), floats(2, 4 * 9));
    let (x, w) = (gpu.rows(&x, 9).unwrap(), gpu.rows(&w, 9).unwrap());
    let mut out = gpu.rows(&[7.0; 20], 4).unwrap();
    gpu.multiply(Product::Nt, (&x, &w), 3, &mut out, Write::Over)
        .unwrap();
    let values = gpu.values(&out).unwrap();
    assert!(values[..12].iter().all(|&x| x != 7.0), "{values:?}");
    assert_eq!(values[12..], [7.0; 8]);
    let mut gradient = gpu.zeros(4, 9).unwrap();
    gpu.multiply(Product::Tn, (&out, &x), 3, &mut gradient, Write::Onto)
        .unwrap();
    let all = gpu.values(&x).unwrap();
    let exact: Vec<f64> = (0..36)
        .map(|at| {
            let terms = (0..3)
                .map(|row| f64::from(values[row * 4 + at / 9]) * f64::from(all[row * 9 + at % 9]));
            terms.sum()
        })
        .collect();
    assert_close(&gpu.values(&gradient).unwrap(), &exact, 1e-4, "three rows");
}

#[test]
fn norms_gain_and_bias_go_forward_and_back() {
    let Some(gpu) = stand_in::gpu() else { return };
    for (rows, width) in [(1, 1), (5, 33), (19, 64), (9, 300)] {
        let (x, gain, bias) = (floats(1, rows * width), floats(2, width), floats(3, width));
        let g = floats(4, rows * width);
        let on = |values: &[f32]| gpu.rows(values, width).unwrap();
        let mut out = gpu.zeros(rows, width).unwrap();
        let exact = |with_bias: bool| -> Vec<f64> {
            let both = x.iter().enumerate();
            both.map(|(i, &x)| {
                let bias = if with_bias {
                    f64::from(bias[i % width])
                } else {
                    0.0
                };
                f64::from(x) * f64::from(gain[i % width]) + bias
            })
            .collect()
        };
        gpu.scale(&on(&x), (&on(&gain), Some(&on(&bias))), rows, &mut out)
            .unwrap();
        assert_close(&gpu.values(&out).unwrap(), &exact(true), 1e-6, "with bias");
        gpu.scale(&on(&x), (&on(&gain), None), rows, &mut out)
            .unwrap();
        assert_close(
            &gpu.values(&out).unwrap(),
            &exact(false),
            1e-6,
            "without bias",
        );

        let column = |value: &dyn Fn(usize) -> f64, start: &[f32]| -> Vec<f64> {
            (0..width)
                .map(|i| {
                    f64::from(start[i]) + (0..rows).map(|row| value(row * width + i)).sum::<f64>()
                })
                .collect()
        };
        let mut sums = on(&gain);
        gpu.sum_columns(&on(&g), Some(&on(&x)), rows, &mut sums)
            .unwrap();
        let exact = column(&|i| f64::from(g[i]) * f64::from(x[i]), &gain);
        assert_close(&gpu.values(&sums).unwrap(), &exact, 1e-4, "of a gain");
        let mut sums = on(&bias);
        gpu.sum_columns(&on(&g), None, rows, &mut sums).unwrap();
        let exact = column(&|i| f64::from(g[i]), &bias);
        assert_close(&gpu.values(&sums).unwrap(), &exact, 1e-4, "of a bias");
    }
}

#[test]
fn silu_goes_forward_and_back_at_any_scale() {
    let Some(gpu) = stand_in::gpu() else { return };
    let mut x = floats(1, 700);
    x.extend([0.0, -0.0, 20.0, -20.0, 88.0, -88.0, 1e4, -1e4]);
    let g = floats(2, x.len());
    let logistic = |x: f64| 1.0 / (1.0 + exp(-x));
    let on = gpu.rows(&x, 59).unwrap();
    let mut out = gpu.zeros(12, 59).unwrap();
    gpu.silu(&on, 12, &mut out).unwrap();
    let mut back = gpu.rows(&g, 59).unwrap();
    gpu.silu_back(&on, 12, &mut back).unwrap();
    let (out, back) = (gpu.values(&out).unwrap(), gpu.values(&back).unwrap());
    for (i, &x) in x.iter().enumerate() {
        let (x, g) = (f64::from(x), f64::from(g[i]));
        let s = logistic(x);
        let near = |found: f32, exact: f64| {
            let error = (f64::from(found) - exact).abs();
            assert!(
                error <= 1e-6 * exact.abs() + 1e-6,
                "at {x}: {found}, expected {exact}"
            );
        };
        near(out[i], x * s);
        near(back[i], g * s * (1.0 + x * (1.0 - s)));
    }
}

/// What the CPU makes of the same rows: summaries, cross-entropies and the gradient.
fn on_cpu(
    teacher: &[f32],
    logits: &[f32],
    vocabulary: usize,
) -> (Vec<Summary>, Vec<f32>, Vec<f32>) {
    let kernels = Kernels::new(1);
    let (mut summaries, mut gradient) = (Vec::new(), logits.to_vec());
    kernels.summarize(logits, vocabulary, &mut summaries);
    let lse: Vec<f32> = summaries.iter().map(|row| row.log_sum_exp).collect();
    let mut cross = vec![0.0; lse.len()];
    kernels.cross_entropy(teacher, &mut gradient, &lse, &mut cross);
    (summaries, cross, gradient)
}

#[test]
fn the_loss_and_its_gradient_are_those_of_the_cpu() {
    let Some(gpu) = stand_in::gpu() else { return };
    for (rows, vocabulary) in [(1, 2), (5, 17), (3, 4096), (2, 8193), (1, 50_304)] {
        let mut teacher = floats(1, rows * vocabulary);
        let logits: Vec<f32> = floats(2, rows * vocabulary)
            .iter()
            .map(|x| 4.0 * x + 30.0)
            .collect();
        let (of_teacher, ..) = on_cpu(&teacher.clone(), &teacher, vocabulary);
        let lse: Vec<f32> = of_teacher.iter().map(|row| row.log_sum_exp).collect();
        Kernels::new(1).probabilities(&mut teacher, &lse);
        let (summaries, cross, gradient) = on_cpu(&teacher, &logits, vocabulary);

        // A row more than is in use.
        let with_room = |values: &[f32]| -> GpuRows {
            let mut rows = gpu.zeros(rows + 1, vocabulary).unwrap();
            gpu.replace(&mut rows, values).unwrap();
            rows
        };
        let mut on = with_room(&logits);
        let found = gpu
            .cross_entropy(&with_room(&teacher), &mut on, rows)
            .unwrap();
        let found_gradient = gpu.values(&on).unwrap();
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        assert_close(&found.1, &wide(&cross), 1e-5 * f64::from(cross[0]), "loss");
        assert_close(
            &found_gradient[..rows * vocabulary],
            &wide(&gradient),
            1e-6,
            "gradient",
        );
        assert!(
            found_gradient[rows * vocabulary..]
                .iter()
                .all(|&x| x == 0.0)
        );
        let tops = |summaries: &[Summary]| -> Vec<(u32, bool)> {
            summaries
                .iter()
                .map(|row| (row.argmax, row.valid))
                .collect()
        };
        assert_eq!(tops(&found.0), tops(&summaries));
    }
}

#[test]
fn squares_of_any_number_of_numbers_are_summed() {
    let Some(gpu) = stand_in::gpu() else { return };
    for count in [1, 255, 16_384, 16_385, 100_003] {
        let x = floats(count as u64, count);
        let exact: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let found = gpu.sum_squares(&gpu.rows(&x, 1).unwrap()).unwrap();
        assert!(
            (found - exact).abs() <= 1e-6 * exact,
            "{count}: {found} {exact}"
        );
    }
}

/// One step of AdamW by candle's arithmetic, in f32.
fn step_by_candle(value: &Var, moments: &mut [Tensor; 2], sum: &Tensor, step: AdamWStep) {
    let times = |x: &Tensor, factor: f32| (x * f64::from(factor)).unwrap();
    let gradient = times(&times(sum, step.mean), step.clip);
    let [first, second] = moments;
    *first = (times(first, step.decay1) + times(&gradient, step.rest1)).unwrap();
    *second = (times(second, step.decay2) + times(&gradient.sqr().unwrap(), step.rest2)).unwrap();
    let root = times(second, step.correction2).sqrt().unwrap();
    let scale = (root + f64::from(step.epsilon)).unwrap();
    let direction = (times(first, step.correction1) / scale).unwrap();
    let kept = times(value.as_tensor(), step.kept);
    value
        .set(&(kept - times(&direction, step.rate)).unwrap())
        .unwrap();
}

#[test]
fn steps_of_the_optimizer_have_the_bits_of_the_cpu() {
    let Some(gpu) = stand_in::gpu() else { return };
    let (rows, columns) = (7, 111);
    let start = floats(1, rows * columns);
    let tensor =
        |values: Vec<f32>| Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap();
    let value = Var::from_tensor(&tensor(start.clone())).unwrap();
    let zeros = tensor(vec![0.0; rows * columns]);
    let mut moments = [zeros.clone(), zeros];
    let mut parameter = gpu.parameter(&start, columns).unwrap();
    for number in 1..=5 {
        let sum = floats(10 + number, rows * columns);
        gpu.replace(&mut parameter.gradient, &sum).unwrap();
        let step = AdamWStep {
            mean: 1.0 / 48.0,
            clip: 0.7,
            decay1: 0.9,
            rest1: 0.1,
            decay2: 0.999,
            rest2: 0.001,
            correction1: 1.0 / (1.0 - 0.9f32.powi(number as i32)),
            correction2: 1.0 / (1.0 - 0.999f32.powi(number as i32)),
            epsilon: 1e-8,
            kept: 1.0 - 1e-5,
            rate: 1e-3,
        };
        gpu.adamw(&mut parameter, step).unwrap();
        step_by_candle(&value, &mut moments, &tensor(sum), step);
        let [first, second] = &moments;
        for (rows, tensor) in [
            (&parameter.value, value.as_tensor()),
            (&parameter.first, first),
            (&parameter.second, second),
        ] {
            let expected = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(
                bits(&gpu.values(rows).unwrap()),
                bits(&expected),
                "step {number}"
            );
        }
        let left = gpu.values(&parameter.gradient).unwrap();
        assert!(left.iter().all(|&x| x == 0.0), "the gradient begins anew");
    }
    let moved = value.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(
        moved
            .iter()
            .zip(&start)
            .all(|(moved, start)| moved != start)
    );
}
