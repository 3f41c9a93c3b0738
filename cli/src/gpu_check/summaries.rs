//! The fused entropy kernel: within tolerance of the definitions, and the bits of a row depend on that row alone.

use super::{
    Checked,
    numbers::{bits, logits, rng},
    rows::Rows,
};
use anyhow::{Result, ensure};
use dssd_common::{
    entropy::{Summary, summarize_exactly},
    kernels::{Gpu, WeightType},
};

const DTYPES: [WeightType; 3] = [WeightType::F32, WeightType::F16, WeightType::Bf16];
const VOCABULARIES: [usize; 14] = [
    1, 2, 7, 8, 9, 31, 255, 2048, 8191, 8192, 8193, 50_304, 128_256, 262_144,
];
/// Spread and centre of logits.
const SCALES: [(f32, f32); 5] = [
    (0.0, 0.0),
    (1.0, 0.0),
    (4.0, 1000.0),
    (30.0, -1000.0),
    (1e4, 0.0),
];

/// Every case.
///
/// # Errors
/// If a summary is off by more than f32 sums may be, or depends on what is beside its row.
pub(super) fn summaries(gpu: &Gpu) -> Result<Checked> {
    let mut checked = Checked::new("summaries");
    for (seed, vocabulary) in VOCABULARIES.into_iter().enumerate() {
        let mut rng = rng(seed as u64);
        let rows = SCALES.map(|(spread, shift)| logits(&mut rng, vocabulary, spread, shift));
        check(gpu, &rows, &mut checked)?;
    }
    check(gpu, &[vec![3e38, -3e38, 3e38, 1e38]], &mut checked)?;
    for vocabulary in [1, 9, 8193, 50_304] {
        check(gpu, &broken(vocabulary), &mut checked)?;
    }
    check(gpu, &few_ids(), &mut checked)?;
    for vocabulary in [5, 1000, 8200, 20_480] {
        for dtype in DTYPES {
            check_alone(gpu, dtype, vocabulary, &mut checked)?;
        }
    }
    Ok(checked)
}

fn check(gpu: &Gpu, rows: &[Vec<f32>], checked: &mut Checked) -> Result<()> {
    for dtype in DTYPES {
        let rows = Rows::dense(rows, dtype);
        let (found, _) = rows.run(gpu, &[])?;
        for (index, found) in found.iter().enumerate() {
            let row = rows.row(index);
            let expected = summarize_exactly(&row);
            let name = dtype.name();
            ensure!(
                is_close(found, &expected),
                "row {index} of {} {name} logits: {found:?}, expected {expected:?}",
                row.len()
            );
        }
        checked.add(found.len());
    }
    Ok(())
}

/// Not NaN where it must be NaN, not off by more than f32 sums over the vocabulary may be.
fn is_close(found: &Summary, expected: &Summary) -> bool {
    let told = |s: &Summary| (s.argmax, s.valid, s.margin_logit.to_bits());
    if told(found) != told(expected) {
        return false;
    }
    if !expected.valid {
        let never = [found.max_probability, found.margin_probability] == [0.0; 2];
        return found.log_sum_exp.is_nan() && never && found.entropy == f32::INFINITY;
    }
    let near = |found: f32, expected: f32, tolerance: f32| (found - expected).abs() <= tolerance;
    let scale = 4e-6 * expected.max_probability;
    let log_sum = expected.log_sum_exp;
    near(found.max_probability, expected.max_probability, scale)
        && near(found.margin_probability, expected.margin_probability, scale)
        && near(found.log_sum_exp, log_sum, 4e-6 + log_sum.abs() * 1.2e-7)
        && near(found.entropy, expected.entropy, 2e-5)
}

/// Rows that are no distribution, wherever the fault lies.
fn broken(vocabulary: usize) -> Vec<Vec<f32>> {
    let places = [0, 8, 8191, 8192, vocabulary - 1];
    let mut rows = vec![vec![f32::NEG_INFINITY; vocabulary]];
    for place in places.into_iter().filter(|&place| place < vocabulary) {
        for fault in [f32::NAN, f32::INFINITY] {
            for rest in [0.5, f32::NEG_INFINITY] {
                let mut row = vec![rest; vocabulary];
                row[place] = fault;
                rows.push(row);
            }
        }
    }
    rows
}

/// Impossible, certain and tied ids.
fn few_ids() -> Vec<Vec<f32>> {
    let with = |rest: f32, ids: &[usize], x: f32| {
        let mut row = vec![rest; 20_000];
        ids.iter().for_each(|&id| row[id] = x);
        row
    };
    let never = f32::NEG_INFINITY;
    vec![
        with(never, &[7], 1.0),
        with(never, &[7, 19_999], -3.0),
        with(never, &[8192], -2000.0),
        with(0.0, &[12_345], 500.0),
        with(0.0, &[19_999, 9_000, 8_999], 4.5),
        with(-1000.0, &[], 0.0),
    ]
}

/// At any place, any distance, any alignment, beside any others: the same bits.
fn check_alone(
    gpu: &Gpu,
    dtype: WeightType,
    vocabulary: usize,
    checked: &mut Checked,
) -> Result<()> {
    let mut rng = rng(vocabulary as u64);
    let rows: Vec<_> = (0..9)
        .map(|_| logits(&mut rng, vocabulary, 3.0, 0.0))
        .collect();
    let told = |rows: Rows| anyhow::Ok(all_bits(&rows.run(gpu, &[])?.0));
    let expected = told(Rows::dense(&rows, dtype))?;
    let name = dtype.name();
    for (row, expected) in rows.chunks(1).zip(expected.chunks(1)) {
        ensure!(
            told(Rows::dense(row, dtype))? == expected,
            "a row alone, {name}: other bits"
        );
    }
    for (gap, offset) in [(1, 0), (3, 5), (8, 8), (13, 1)] {
        let moved = told(Rows::strided(&rows, dtype, vocabulary + gap, offset))?;
        ensure!(
            moved == expected,
            "rows {gap} apart behind {offset}, {name}: other bits"
        );
    }
    let reversed: Vec<_> = rows.into_iter().rev().collect();
    let mut found = told(Rows::dense(&reversed, dtype))?;
    found.reverse();
    ensure!(
        found == expected,
        "rows in another order, {name}: other bits"
    );
    checked.add(6 * expected.len());
    Ok(())
}

fn all_bits(summaries: &[Summary]) -> Vec<Vec<u32>> {
    let all = |s: &Summary| {
        bits(&[
            s.argmax as f32,
            s.max_probability,
            s.margin_probability,
            s.margin_logit,
            s.log_sum_exp,
            s.entropy,
        ])
    };
    summaries.iter().map(all).collect()
}
