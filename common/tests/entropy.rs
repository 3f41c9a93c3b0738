//! The laws of the entropy operation, and its equality with the f64 reference.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use candle_core::{DType, Device, Tensor};
use dssd_common::{
    entropy::{SUMMARY_COLUMNS, Summary, row_summary, summarize_exactly},
    kernels::{Isa, Kernels},
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn normal_like(seed: u64, vocabulary: usize, spread: f32, shift: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || (0..6).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>();
    (0..vocabulary).map(|_| spread * draw() + shift).collect()
}

fn summary(logits: &[f32]) -> Summary {
    let mut out = Vec::new();
    Kernels::new(1).summarize(logits, logits.len(), &mut out);
    out[0]
}

fn assert_close(found: Summary, expected: Summary) {
    assert_eq!(
        (found.argmax, found.valid),
        (expected.argmax, expected.valid)
    );
    assert_eq!(found.margin_logit, expected.margin_logit);
    let near = |found: f32, expected: f32, tolerance: f32| {
        assert!(
            (found - expected).abs() <= tolerance,
            "{found}, expected {expected}"
        );
    };
    near(
        found.max_probability,
        expected.max_probability,
        4e-6 * expected.max_probability,
    );
    near(
        found.margin_probability,
        expected.margin_probability,
        4e-6 * expected.max_probability,
    );
    near(
        found.log_sum_exp,
        expected.log_sum_exp,
        4e-6 + expected.log_sum_exp.abs() * 1.2e-7,
    );
    near(found.entropy, expected.entropy, 2e-5);
}

#[test]
fn agrees_with_the_reference_at_any_scale() {
    for (seed, vocabulary) in [1, 2, 15, 16, 17, 2047, 2048, 2049, 4100, 50_304]
        .into_iter()
        .enumerate()
    {
        for (spread, shift) in [
            (0.0, 0.0),
            (1.0, 0.0),
            (4.0, 1000.0),
            (30.0, -1000.0),
            (1e4, 0.0),
        ] {
            let logits = normal_like(seed as u64, vocabulary, spread, shift);
            assert_close(summary(&logits), summarize_exactly(&logits));
        }
    }
}

#[test]
fn uniform_rows_have_the_logarithm_of_the_vocabulary() {
    for vocabulary in [1usize, 2, 100, 5000, 50_304] {
        for level in [-1000.0, 0.0, 1000.0] {
            let found = summary(&vec![level; vocabulary]);
            assert!((found.entropy - (vocabulary as f64).ln() as f32).abs() < 2e-6);
            assert!((found.max_probability * vocabulary as f32 - 1.0).abs() < 1e-6);
            assert_eq!(found.argmax, 0, "ties go to the lowest id");
        }
    }
}

#[test]
fn a_certain_row_has_no_entropy() {
    let mut logits = vec![0.0; 5000];
    logits[4321] = 500.0;
    let found = summary(&logits);
    assert_eq!(
        (found.argmax, found.max_probability, found.entropy),
        (4321, 1.0, 0.0)
    );
    assert_eq!((found.margin_probability, found.margin_logit), (1.0, 500.0));
}

#[test]
fn impossible_ids_do_not_count() {
    for other in [1.0f32, -3.0] {
        let mut logits = vec![f32::NEG_INFINITY; 6000];
        logits[7] = other;
        assert_close(summary(&logits), summarize_exactly(&logits));
        assert_eq!(summary(&logits).margin_logit, f32::INFINITY);
        logits[5999] = other;
        let found = summary(&logits);
        assert!((found.entropy - std::f32::consts::LN_2).abs() < 1e-6);
        assert_eq!((found.argmax, found.margin_probability), (7, 0.0));
    }
}

#[test]
fn rows_that_are_no_distribution_are_flagged_and_never_confident() {
    for (bad, everywhere) in [
        (f32::NAN, false),
        (f32::INFINITY, false),
        (f32::NAN, true),
        (f32::NEG_INFINITY, true),
    ] {
        for place in [0, 9, 2100, 4999] {
            let mut logits = if everywhere {
                vec![f32::NEG_INFINITY; 5000]
            } else {
                vec![0.5; 5000]
            };
            logits[place] = bad;
            let found = summary(&logits);
            assert!(
                !found.valid && found.log_sum_exp.is_nan(),
                "{bad} at {place}"
            );
            assert_eq!(
                (found.max_probability, found.margin_probability),
                (0.0, 0.0)
            );
            assert_eq!((found.margin_logit, found.entropy), (0.0, f32::INFINITY));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn bits_depend_on_the_row_alone(
        seed in any::<u32>(), rows in 1usize..5, vocabulary in 1usize..9000, threads in 1usize..5,
    ) {
        let logits = normal_like(seed.into(), rows * vocabulary, 3.0, 10.0);
        let expected: Vec<Summary> = logits.chunks(vocabulary).map(summary).collect();
        for isa in Isa::available() {
            let mut found = Vec::new();
            Kernels::with_isa(isa, threads).unwrap().summarize(&logits, vocabulary, &mut found);
            prop_assert_eq!(&found, &expected);
        }
    }

    #[test]
    fn a_common_shift_changes_only_the_log_sum(
        seed in any::<u32>(), vocabulary in 2usize..5000, shift in -500i32..500,
    ) {
        // Multiples of 1/64 below 2^10 are exact in f32, shifted or not.
        let logits: Vec<f32> = normal_like(seed.into(), vocabulary, 3.0, 0.0)
            .iter().map(|x| (x * 64.0).round() / 64.0).collect();
        let shifted: Vec<f32> = logits.iter().map(|x| x + shift as f32).collect();
        let (a, b) = (summary(&logits), summary(&shifted));
        prop_assert_eq!(Summary { log_sum_exp: 0.0, ..a }, Summary { log_sum_exp: 0.0, ..b });
        prop_assert!((a.log_sum_exp + shift as f32 - b.log_sum_exp).abs() < 1e-4);
        prop_assert!(a.entropy >= 0.0 && a.entropy <= (vocabulary as f64).ln() as f32 + 1e-6);
    }
}

fn columns(tensor: &Tensor) -> Vec<Vec<f32>> {
    row_summary(tensor).unwrap().to_vec2().unwrap()
}

#[test]
fn the_candle_operation_gives_the_fields_in_order() {
    let logits = normal_like(1, 3 * 3000, 3.0, 0.0);
    let tensor = Tensor::from_slice(&logits, (3, 3000), &Device::Cpu).unwrap();
    for (row, found) in logits.chunks(3000).zip(columns(&tensor)) {
        let s = summary(row);
        let fields = [
            s.argmax as f32,
            s.max_probability,
            s.margin_probability,
            s.margin_logit,
            s.log_sum_exp,
            s.entropy,
            1.0,
        ];
        assert_eq!(found, fields);
        assert_eq!(found.len(), SUMMARY_COLUMNS);
    }
    let bad = Tensor::full(f32::NAN, (1, 4), &Device::Cpu).unwrap();
    assert_eq!(columns(&bad)[0][6], 0.0);
}

#[test]
fn the_candle_operation_reads_every_type_and_row_stride() {
    let logits =
        Tensor::from_vec(normal_like(1, 4 * 2100, 3.0, 0.0), (4, 2100), &Device::Cpu).unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let stored = logits.to_dtype(dtype).unwrap();
        let widened = stored.to_dtype(DType::F32).unwrap();
        assert_eq!(columns(&stored), columns(&widened), "{dtype:?}");
        let part = stored.narrow(1, 5, 2070).unwrap().narrow(0, 1, 2).unwrap();
        assert_eq!(
            columns(&part),
            columns(&part.contiguous().unwrap()),
            "{dtype:?}"
        );
    }
    assert!(row_summary(&logits.t().unwrap()).is_err());
    assert!(row_summary(&logits.to_dtype(DType::F64).unwrap()).is_err());
    assert!(row_summary(&Tensor::zeros((2, 0), DType::F32, &Device::Cpu).unwrap()).is_err());
}
