//! The Gumbel-coupled choice: the same ids as the CPU's sampler, always.

use crate::{
    rows::{Logit, Rows, rng, row, run},
    stand_in::gpu,
};
use dssd_common::{
    kernels::{Choice, Gpu},
    sampling::{History, Sampler, SamplingParams, Scratch},
};
use half::bf16;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What the CPU chooses; `None` for a row that is no distribution.
fn expected(row: &[f32], choice: Choice, scratch: &mut Scratch) -> Option<u32> {
    let params = SamplingParams {
        temperature: choice.temperature as f32,
        seed: choice.seed,
        ..SamplingParams::default()
    };
    let sampler = Sampler::new(params, row.len(), Vec::new()).unwrap();
    let history = History::new(&vec![0; choice.index as usize], &[]);
    sampler.choose(row, &history, scratch).ok()
}

fn choice(rng: &mut ChaCha8Rng) -> Choice {
    let temperatures = [0.0f32, 0.01, 0.5, 0.7, 1.0, 1.0, 1.3, 2.0, 100.0];
    Choice {
        seed: rng.random(),
        index: rng.random_range(0..2000),
        temperature: f64::from(temperatures[rng.random_range(0..temperatures.len())]),
    }
}

/// Chooses from so many rows of one vocabulary; returns how many choices were not the arg-max.
fn check<T: Logit>(gpu: &Gpu, rng: &mut ChaCha8Rng, rows: usize, vocabulary: usize) -> usize {
    let spread = [0.0, 0.01, 1.0, 3.0, 20.0][rng.random_range(0..5)];
    let shift = [0.0, 0.0, 1000.0][rng.random_range(0..3)];
    let logits: Vec<_> = (0..rows)
        .map(|_| row(rng, vocabulary, spread, shift))
        .collect();
    let choices: Vec<_> = (0..rows).map(|_| choice(rng)).collect();
    let rows = Rows::<T>::dense(&logits);
    let answer = run(gpu, &rows, &choices);
    let mut scratch = Scratch::default();
    let mut others = 0;
    for (index, &choice) in choices.iter().enumerate() {
        let found = answer.ids[index];
        let expected = expected(&rows.row(index), choice, &mut scratch);
        assert_eq!(found, expected, "{choice:?}, vocabulary {vocabulary}");
        others += usize::from(found != Some(answer.summaries[index].argmax));
    }
    others
}

/// Fifty thousand rows.
fn check_many<T: Logit>(seed: u64) {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng(seed);
    let mut others = 0;
    for _ in 0..100 {
        let vocabulary = rng.random_range(1..300);
        others += check::<T>(gpu, &mut rng, 500, vocabulary);
    }
    assert!(others > 15_000, "only {others} are not the arg-max");
}

#[test]
fn rows_of_f32_choose_as_the_cpu_does() {
    check_many::<f32>(11);
}

#[test]
fn rows_of_bf16_choose_as_the_cpu_does() {
    check_many::<bf16>(14);
}

#[test]
fn large_vocabularies_choose_as_the_cpu_does() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng(12);
    for vocabulary in [4096, 8192, 8193, 50_304, 128_256] {
        check::<f32>(gpu, &mut rng, 12, vocabulary);
        check::<bf16>(gpu, &mut rng, 12, vocabulary);
    }
}

#[test]
fn what_cannot_be_chosen_never_is() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng(13);
    let never = f32::NEG_INFINITY;
    let mut rows = vec![vec![never; 9000]; 40];
    for (index, row) in rows.iter_mut().enumerate().skip(1) {
        row[index * 200] = -5.0;
        row[8999] = -5.5;
    }
    rows[39][3] = f32::NAN;
    let choices: Vec<_> = rows.iter().map(|_| choice(&mut rng)).collect();
    let answer = run(gpu, &Rows::<f32>::dense(&rows), &choices);
    let mut scratch = Scratch::default();
    for (index, (row, &choice)) in rows.iter().zip(&choices).enumerate() {
        assert_eq!(
            answer.ids[index],
            expected(row, choice, &mut scratch),
            "row {index}"
        );
    }
    assert_eq!((answer.ids[0], answer.ids[39]), (None, None));
}
