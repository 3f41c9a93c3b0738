//! Tests of the chosen tokens' law against closed forms, over ten million draws, and of the choice against its
//! definition.

use proptest::prelude::*;
use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::filter::by_rank;
use super::philox::philox4x32;
use super::{History, Sampler, SamplingParams, Scratch};
use crate::math::{exp, ln};

const LOGITS: [f32; 8] = [1.5, -0.25, 0.75, 1.5, -2.0, 0.0, 2.25, -4.0];

fn sampler(params: SamplingParams, vocabulary: usize) -> Sampler {
    Sampler::new(params, vocabulary, Vec::new()).unwrap()
}

/// The softmax of some logits at a temperature; −∞ has probability 0.
fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let weights: Vec<f64> = logits
        .iter()
        .map(|logit| (logit / temperature).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

fn widened(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|&logit| f64::from(logit)).collect()
}

/// How often each id is chosen at `draws` consecutive positions after `history`. The tokens pushed are always
/// `filler`, so that penalties do not move.
fn counts_along(
    sampler: &Sampler,
    logits: &[f32],
    mut history: History,
    filler: u32,
    draws: u64,
) -> Vec<u64> {
    let (mut counts, mut scratch) = (vec![0; logits.len()], Scratch::default());
    for _ in 0..draws {
        counts[sampler.choose(logits, &history, &mut scratch).unwrap() as usize] += 1;
        history.push(filler);
    }
    counts
}

/// How often each id is chosen at one position under `draws` seeds.
fn counts_over_seeds(
    params: &SamplingParams,
    logits: &[f32],
    history: &History,
    draws: u64,
) -> Vec<u64> {
    let (mut counts, mut scratch) = (vec![0; logits.len()], Scratch::default());
    for seed in 0..draws {
        let sampler = sampler(
            SamplingParams {
                seed,
                ..params.clone()
            },
            logits.len(),
        );
        counts[sampler.choose(logits, history, &mut scratch).unwrap() as usize] += 1;
    }
    counts
}

/// The p-value of Pearson's χ² test. Impossible ids must not occur at all.
fn p_value(counts: &[u64], law: &[f64]) -> f64 {
    let draws = counts.iter().sum::<u64>() as f64;
    let mut statistic = 0.0;
    for (&count, &probability) in counts.iter().zip(law) {
        if probability == 0.0 {
            assert_eq!(count, 0, "an impossible id was chosen");
            continue;
        }
        let expected = draws * probability;
        assert!(expected > 20.0, "too few draws for this law");
        statistic += (count as f64 - expected).powi(2) / expected;
    }
    let possible = law.iter().filter(|&&probability| probability > 0.0).count();
    ChiSquared::new((possible - 1) as f64)
        .unwrap()
        .sf(statistic)
}

fn assert_law(counts: &[u64], law: &[f64]) {
    let p = p_value(counts, law);
    assert!(p > 1e-3, "p = {p}: {counts:?} against {law:?}");
}

#[test]
fn the_plain_law_along_positions() {
    for (temperature, seed) in [(0.7, 1), (1.0, 2), (1.6, u64::MAX)] {
        let params = SamplingParams {
            temperature,
            seed,
            ..SamplingParams::default()
        };
        let counts = counts_along(
            &sampler(params, 8),
            &LOGITS,
            History::default(),
            0,
            1_500_000,
        );
        assert_law(&counts, &softmax(&widened(&LOGITS), f64::from(temperature)));
    }
}

#[test]
fn the_plain_law_over_seeds() {
    let params = SamplingParams {
        temperature: 1.0,
        ..SamplingParams::default()
    };
    let counts = counts_over_seeds(&params, &LOGITS, &History::new(&[1, 2, 3], &[]), 2_000_000);
    assert_law(&counts, &softmax(&widened(&LOGITS), 1.0));
}

#[test]
fn the_law_of_a_larger_vocabulary() {
    let logits: Vec<f32> = (0..61).map(|id| ((id * 29) % 61) as f32 * 0.05).collect();
    let params = SamplingParams {
        temperature: 0.9,
        seed: 7,
        ..SamplingParams::default()
    };
    let counts = counts_along(
        &sampler(params, 61),
        &logits,
        History::default(),
        0,
        1_000_000,
    );
    assert_law(&counts, &softmax(&widened(&logits), f64::from(0.9f32)));
}

/// The χ² test is able to see a temperature that is one part in a hundred off.
#[test]
fn a_slightly_wrong_law_is_noticed() {
    let params = SamplingParams {
        temperature: 1.01,
        seed: 3,
        ..SamplingParams::default()
    };
    let counts = counts_along(
        &sampler(params, 8),
        &LOGITS,
        History::default(),
        0,
        1_000_000,
    );
    assert!(p_value(&counts, &softmax(&widened(&LOGITS), 1.0)) < 1e-9);
}

/// At T = 0.8 the probabilities by rank are .489 (id 6), .191 (0), .191 (3), .075 (2), .029 (5), .021 (1), .002 (4) and
/// less than .001 (7).
#[test]
fn the_law_under_filters() {
    let plain = SamplingParams {
        temperature: 0.8,
        seed: 4,
        ..SamplingParams::default()
    };
    let cases: [(SamplingParams, &[usize]); 4] = [
        (
            SamplingParams {
                top_k: 2,
                ..plain.clone()
            },
            &[0, 6],
        ),
        (
            SamplingParams {
                top_p: 0.9,
                ..plain.clone()
            },
            &[0, 2, 3, 6],
        ),
        (
            SamplingParams {
                min_p: 0.05,
                ..plain.clone()
            },
            &[0, 2, 3, 5, 6],
        ),
        // Of the six best, top-p keeps five (.949 is not enough), and min-p drops id 5, .06 of the best.
        (
            SamplingParams {
                top_k: 6,
                top_p: 0.95,
                min_p: 0.1,
                ..plain
            },
            &[0, 2, 3, 6],
        ),
    ];
    for (params, kept) in cases {
        let counts = counts_along(&sampler(params, 8), &LOGITS, History::default(), 0, 400_000);
        let mut values = [f64::NEG_INFINITY; 8];
        kept.iter()
            .for_each(|&id| values[id] = f64::from(LOGITS[id]));
        assert_law(&counts, &softmax(&values, f64::from(0.8f32)));
    }
}

#[test]
fn the_law_under_penalties_and_biases() {
    let params = SamplingParams {
        temperature: 1.0,
        repetition_penalty: 1.5,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        logit_bias: vec![(7, 3.0), (6, -1.0)],
        ..SamplingParams::default()
    };
    let counts = counts_over_seeds(
        &params,
        &LOGITS,
        &History::new(&[0, 1], &[3, 3, 4]),
        1_000_000,
    );
    let law = [
        1.5 / 1.5,
        -0.25 * 1.5,
        0.75,
        1.5 / 1.5 - 1.0,
        -2.0 * 1.5 - 0.75,
        0.0,
        1.25,
        -1.0,
    ];
    assert_law(&counts, &softmax(&law, 1.0));
}

#[test]
fn the_law_while_ending_is_suppressed() {
    let params = SamplingParams {
        temperature: 1.0,
        min_new_tokens: 2,
        ..SamplingParams::default()
    };
    let sampler = Sampler::new(params, 8, vec![6, 0]).unwrap();
    let (mut before, mut after, mut scratch) = (vec![0; 8], vec![0; 8], Scratch::default());
    for prompt_len in 0..2_000 {
        let prompt = vec![5; prompt_len];
        for (generated, counts) in [([1].as_slice(), &mut before), (&[1, 1], &mut after)] {
            let history = History::new(&prompt, generated);
            counts[sampler.choose(&LOGITS, &history, &mut scratch).unwrap() as usize] += 1;
        }
    }
    assert_eq!((before[6], before[0]), (0, 0));
    assert!(after[6] > 500 && after[0] > 200, "{after:?}");
}

/// Two parties with different logits and the same noise agree at least as often as the coupling promises, and far more
/// often than independent draws would.
#[test]
fn the_coupling_bound_holds() {
    const DRAWS: u64 = 400_000;
    let verify = LOGITS;
    for scale in [0.1f32, 0.5, 1.5] {
        let draft: Vec<f32> = verify
            .iter()
            .zip(0u8..)
            .map(|(l, id)| l + scale * f32::from(id % 3))
            .collect();
        let sampler = sampler(
            SamplingParams {
                temperature: 1.0,
                seed: 9,
                ..SamplingParams::default()
            },
            8,
        );
        let (mut history, mut scratch, mut matches) = (History::default(), Scratch::default(), 0);
        for _ in 0..DRAWS {
            let right = sampler.choose(&verify, &history, &mut scratch).unwrap();
            let guess = sampler.choose(&draft, &history, &mut scratch).unwrap();
            matches += u64::from(right == guess);
            history.push(right);
        }
        let (p, q) = (
            softmax(&widened(&verify), 1.0),
            softmax(&widened(&draft), 1.0),
        );
        let variation = p.iter().zip(&q).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0;
        let independent: f64 = p.iter().zip(&q).map(|(a, b)| a * b).sum();
        let (bound, rate) = (
            (1.0 - variation) / (1.0 + variation),
            matches as f64 / DRAWS as f64,
        );
        let deviation = (bound * (1.0 - bound) / DRAWS as f64).sqrt();
        assert!(
            rate > bound - 4.0 * deviation,
            "scale {scale}: {rate} < {bound}"
        );
        assert!(
            rate > independent + 0.2,
            "scale {scale}: {rate}, independent {independent}"
        );
        assert!(
            rate <= 1.0 - variation + 4.0 * deviation,
            "no coupling can reach {rate}"
        );
    }
}

/// The definition, word for word: every score computed, everything sorted.
fn choose_slowly(params: &SamplingParams, logits: &[f32], history: &History) -> u32 {
    let mut values = widened(logits);
    super::penalties::apply(&mut values, params, history);
    values
        .iter_mut()
        .for_each(|value| *value /= f64::from(params.temperature));
    let mut ids: Vec<u32> = (0..values.len() as u32)
        .filter(|&id| values[id as usize].is_finite())
        .collect();
    ids.sort_by(by_rank(&values));
    let maximum = values[ids[0] as usize];
    if params.top_k > 0 {
        ids.truncate(params.top_k as usize);
    }
    if params.top_p < 1.0 {
        let mut ascending = ids.clone();
        ascending.sort_unstable();
        let weight = |id: u32| exp(values[id as usize] - maximum);
        let target = f64::from(params.top_p) * ascending.into_iter().map(weight).sum::<f64>();
        let mut before = 0.0;
        ids.retain(|&id| {
            let keep = before < target;
            before += weight(id);
            keep
        });
    }
    ids.retain(|&id| values[id as usize] - maximum >= ln(f64::from(params.min_p)));
    let score = |id: u32| {
        let key = [params.seed as u32, (params.seed >> 32) as u32];
        let [low, high, _, _] = philox4x32([[id], [history.len() as u32], [0], [0]], key);
        let draw = (u64::from(high[0]) << 32 | u64::from(low[0])) >> 12;
        values[id as usize] - ln(-ln((draw as f64 + 0.5) * 2f64.powi(-52)))
    };
    ids.sort_unstable();
    ids.into_iter()
        .reduce(|best, id| if score(id) > score(best) { id } else { best })
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// The fast choice is the definition's, with ties of logits (few levels) and of scores (logits so large that the
    /// noise rounds away).
    #[test]
    fn the_fast_choice_is_the_definition(
        levels in prop::collection::vec(-9i8..9, 1..300),
        step in prop::sample::select(vec![0.01f32, 1.0, 5.0, 1e20]),
        temperature in prop::sample::select(vec![1e-30f32, 0.1, 1.0, 3.0]),
        filters in (
            prop::sample::select(vec![0u32, 1, 5, 50]),
            prop::sample::select(vec![1.0f32, 0.9, 0.3]),
            prop::sample::select(vec![0.0f32, 0.05]),
        ),
        seed in any::<u64>(),
        tokens in prop::collection::vec(0u32..300, 0..20),
        penalty in prop::sample::select(vec![1.0f32, 1.3]),
    ) {
        let logits: Vec<f32> =
            levels.iter().map(|&level| if level == -9 { f32::NEG_INFINITY } else { f32::from(level) * step }).collect();
        prop_assume!(logits.iter().any(|logit| logit.is_finite()));
        let (top_k, top_p, min_p) = filters;
        let params = SamplingParams {
            temperature, top_k, top_p, min_p, seed, repetition_penalty: penalty, ..SamplingParams::default()
        };
        let history = History::new(&tokens, &[]);
        let fast = sampler(params.clone(), logits.len()).choose(&logits, &history, &mut Scratch::default()).unwrap();
        prop_assert_eq!(fast, choose_slowly(&params, &logits, &history));
    }
}
