//! The fused entropy kernel: within tolerance of the definitions, and the bits of a row depend on
//! that row alone.

use crate::{
    rows::{Logit, Rows, rng, row, run},
    stand_in::gpu,
};
use dssd_common::{
    entropy::{Summary, summarize_exactly},
    kernels::Gpu,
};
use half::{bf16, f16};

const VOCABULARIES: [usize; 14] = [
    1, 2, 7, 8, 9, 31, 255, 2048, 8191, 8192, 8193, 50_304, 128_256, 262_144,
];

/// Not NaN where it must be NaN, not off by more than f32 sums over the vocabulary may be.
fn assert_close(found: Summary, row: &[f32], what: &str) {
    let expected = summarize_exactly(row);
    let told = |s: Summary| (s.argmax, s.valid, s.margin_logit.to_bits());
    assert_eq!(told(found), told(expected), "{what}");
    if !expected.valid {
        assert!(found.log_sum_exp.is_nan(), "{what}");
        let never = (
            found.max_probability,
            found.margin_probability,
            found.entropy,
        );
        assert_eq!(never, (0.0, 0.0, f32::INFINITY), "{what}");
        return;
    }
    let near = |found: f32, expected: f32, tolerance: f32| {
        let apart = (found - expected).abs();
        assert!(apart <= tolerance, "{what}: {found}, expected {expected}");
    };
    let scale = expected.max_probability;
    near(found.max_probability, scale, 4e-6 * scale);
    near(
        found.margin_probability,
        expected.margin_probability,
        4e-6 * scale,
    );
    let log_sum = expected.log_sum_exp;
    near(found.log_sum_exp, log_sum, 4e-6 + log_sum.abs() * 1.2e-7);
    near(found.entropy, expected.entropy, 2e-5);
}

fn check<T: Logit>(gpu: &Gpu, rows: &[Vec<f32>], what: &str) {
    let rows = Rows::<T>::dense(rows);
    let answer = run(gpu, &rows, &[]);
    for index in 0..rows.rows {
        let name = format!("{what}, row {index}, dtype {}", T::DTYPE.name());
        assert_close(answer.summaries[index], &rows.row(index), &name);
    }
}

fn check_all(gpu: &Gpu, rows: &[Vec<f32>], what: &str) {
    check::<f32>(gpu, rows, what);
    check::<f16>(gpu, rows, what);
    check::<bf16>(gpu, rows, what);
}

#[test]
fn agrees_with_the_definitions_at_any_size_and_scale() {
    let Some(gpu) = gpu() else { return };
    for (seed, vocabulary) in VOCABULARIES.into_iter().enumerate() {
        let mut rng = rng(seed as u64);
        let scales = [
            (0.0, 0.0),
            (1.0, 0.0),
            (4.0, 1000.0),
            (30.0, -1000.0),
            (1e4, 0.0),
        ];
        let rows: Vec<_> = scales
            .into_iter()
            .map(|(spread, shift)| row(&mut rng, vocabulary, spread, shift))
            .collect();
        check_all(gpu, &rows, &format!("vocabulary {vocabulary}"));
    }
    check::<f32>(gpu, &[vec![3e38, -3e38, 3e38, 1e38]], "huge");
}

#[test]
fn rows_that_are_no_distribution_are_flagged_wherever_the_fault_lies() {
    let Some(gpu) = gpu() else { return };
    let faults = [f32::NAN, f32::INFINITY];
    for vocabulary in [1, 9, 8193, 50_304] {
        let places = [0, 8, 8191, 8192, vocabulary - 1];
        let places: Vec<usize> = places.into_iter().filter(|&p| p < vocabulary).collect();
        let mut rows = vec![vec![f32::NEG_INFINITY; vocabulary]];
        for (&place, fault) in places.iter().flat_map(|p| faults.map(|fault| (p, fault))) {
            for rest in [0.5, f32::NEG_INFINITY] {
                let mut row = vec![rest; vocabulary];
                row[place] = fault;
                rows.push(row);
            }
        }
        check_all(gpu, &rows, &format!("faults in {vocabulary}"));
    }
}

#[test]
fn impossible_certain_and_tied_ids() {
    let Some(gpu) = gpu() else { return };
    let base = |x| vec![x; 20_000];
    let with = |rest, ids: &[usize], x| {
        let mut row = base(rest);
        ids.iter().for_each(|&id| row[id] = x);
        row
    };
    let never = f32::NEG_INFINITY;
    let rows = [
        with(never, &[7], 1.0),
        with(never, &[7, 19_999], -3.0),
        with(never, &[8192], -2000.0),
        with(0.0, &[12_345], 500.0),
        with(0.0, &[19_999, 9_000, 8_999], 4.5),
        base(-1000.0),
    ];
    check_all(gpu, &rows, "few ids");
}

/// At any place, any distance, any alignment, beside any others: the same bits.
fn check_alone<T: Logit>(gpu: &Gpu, vocabulary: usize) {
    let mut rng = rng(vocabulary as u64);
    let rows: Vec<_> = (0..9)
        .map(|_| row(&mut rng, vocabulary, 3.0, 0.0))
        .collect();
    let expected = run(gpu, &Rows::<T>::dense(&rows), &[]).bits();
    let alone = rows
        .chunks(1)
        .map(|one| run(gpu, &Rows::<T>::dense(one), &[]).bits()[0]);
    assert_eq!(alone.collect::<Vec<_>>(), expected);
    for (gap, offset) in [(1, 0), (3, 5), (8, 8), (13, 1)] {
        let moved = Rows::<T>::strided(&rows, vocabulary + gap, offset);
        let found = run(gpu, &moved, &[]).bits();
        assert_eq!(
            found,
            expected,
            "dtype {}, +{gap} at {offset}",
            T::DTYPE.name()
        );
    }
    let mut reversed = rows;
    reversed.reverse();
    let mut found = run(gpu, &Rows::<T>::dense(&reversed), &[]).bits();
    found.reverse();
    assert_eq!(found, expected);
}

#[test]
fn the_bits_of_a_row_depend_on_that_row_alone() {
    let Some(gpu) = gpu() else { return };
    for vocabulary in [5, 1000, 8200, 20_480] {
        check_alone::<f32>(gpu, vocabulary);
        check_alone::<f16>(gpu, vocabulary);
        check_alone::<bf16>(gpu, vocabulary);
    }
}
