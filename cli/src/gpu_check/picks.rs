//! The Gumbel-coupled choice: the same ids as the CPU's sampler, always.

use super::{
    Checked,
    numbers::{logits, rng},
    rows::Rows,
};
use anyhow::{Result, ensure};
use dssd_common::{
    kernels::{Gpu, WeightType},
    sampling::{Choice, History, Sampler, SamplingParams, Scratch},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

const TEMPERATURES: [f32; 9] = [0.0, 0.01, 0.5, 0.7, 1.0, 1.0, 1.3, 2.0, 100.0];
/// Launches of many rows, and the rows of each.
const LAUNCHES: usize = 200;
const ROWS: usize = 500;

/// Rows of many vocabularies, temperatures and scales.
///
/// # Errors
/// If a choice differs, or nearly all of them are the arg-max, which would prove little.
pub(super) fn picks(gpu: &Gpu) -> Result<Checked> {
    let mut rng = rng(11);
    let mut checked = Checked::new("picks");
    let mut others = 0;
    for launch in 0..LAUNCHES {
        let dtype = [WeightType::F32, WeightType::Bf16][launch % 2];
        let vocabulary = rng.random_range(1..300);
        others += check(gpu, &mut rng, dtype, (ROWS, vocabulary), &mut checked)?;
    }
    let fewest = LAUNCHES * ROWS / 4;
    ensure!(others > fewest, "only {others} picks are not the arg-max");
    for vocabulary in [4096, 8192, 8193, 50_304, 128_256] {
        for dtype in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
            check(gpu, &mut rng, dtype, (12, vocabulary), &mut checked)?;
        }
    }
    check_rows(gpu, &mut rng, WeightType::F32, &impossible(), &mut checked)?;
    Ok(checked)
}

/// Returns how many choices were not the arg-max.
fn check(
    gpu: &Gpu,
    rng: &mut ChaCha8Rng,
    dtype: WeightType,
    (rows, vocabulary): (usize, usize),
    checked: &mut Checked,
) -> Result<usize> {
    let spread = [0.0, 0.01, 1.0, 3.0, 20.0][rng.random_range(0..5)];
    let shift = [0.0, 0.0, 1000.0][rng.random_range(0..3)];
    let rows: Vec<_> = (0..rows)
        .map(|_| logits(rng, vocabulary, spread, shift))
        .collect();
    check_rows(gpu, rng, dtype, &rows, checked)
}

fn check_rows(
    gpu: &Gpu,
    rng: &mut ChaCha8Rng,
    dtype: WeightType,
    rows: &[Vec<f32>],
    checked: &mut Checked,
) -> Result<usize> {
    let choices: Vec<Choice> = rows.iter().map(|_| choice(rng)).collect();
    let rows = Rows::dense(rows, dtype);
    let (summaries, found) = rows.run(gpu, &choices)?;
    let mut scratch = Scratch::default();
    let mut others = 0;
    for (index, (choice, found)) in choices.iter().zip(found).enumerate() {
        let row = rows.row(index);
        let expected = expected(&row, *choice, &mut scratch)?;
        let name = dtype.name();
        ensure!(
            found == expected,
            "{choice:?} of {} {name} logits: {found:?}, the CPU's is {expected:?}",
            row.len()
        );
        others += usize::from(found != Some(summaries[index].argmax));
    }
    checked.add(choices.len());
    Ok(others)
}

fn choice(rng: &mut ChaCha8Rng) -> Choice {
    Choice {
        seed: rng.random(),
        index: rng.random_range(0..2000),
        temperature: TEMPERATURES[rng.random_range(0..TEMPERATURES.len())].into(),
    }
}

/// What the CPU chooses; `None` for a row that is no distribution.
fn expected(row: &[f32], choice: Choice, scratch: &mut Scratch) -> Result<Option<u32>> {
    let params = SamplingParams {
        temperature: choice.temperature as f32,
        seed: choice.seed,
        ..SamplingParams::default()
    };
    let sampler = Sampler::new(params, row.len(), Vec::new())?;
    let history = History::new(&vec![0; choice.index as usize], &[]);
    Ok(sampler.choose(row, &history, scratch).ok())
}

/// Rows of few possible ids, of none, and with a fault.
fn impossible() -> Vec<Vec<f32>> {
    let mut rows = vec![vec![f32::NEG_INFINITY; 9000]; 40];
    for (index, row) in rows.iter_mut().enumerate().skip(1) {
        row[index * 200] = -5.0;
        row[8999] = -5.5;
    }
    rows[39][3] = f32::NAN;
    rows
}
