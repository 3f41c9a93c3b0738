//! Thresholds with a guarantee: Learn-then-Test (Angelopoulos et al. 2021, arXiv 2110.01052).
//!
//! The unit is the document. For a candidate threshold t the loss of a document is
//! L = Σ 1(H ≤ t)·(ε − agrees) / length, in [ε − 1, ε]; the hypothesis to be rejected is
//! E[L] ≥ 0, "leaving up to t agrees less often than ε". A threshold is certified when a test at
//! level δ/heads rejects it; candidates are tested from the smallest on, and the first that is
//! not rejected ends the sequence. Then with probability 1 − δ every certified threshold keeps
//! its promise.

use super::sample::Samples;
use statrs::distribution::{Binomial, DiscreteCDF as _};

/// Candidates per head.
const CANDIDATES: usize = 50;

/// What the guarantee is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Probability that some certified threshold breaks its promise, over all heads.
    pub delta: f64,
}

/// p-value of E\[X\] ≥ α for n independent X in \[0, 1\] with mean `mean`: the smaller one of
/// Hoeffding's and Bentkus' bounds (Bates et al. 2021, arXiv 2101.02703, theorem 2).
pub fn p_value(mean: f64, n: usize, alpha: f64) -> f64 {
    if n == 0 || alpha <= 0.0 || mean >= alpha {
        return 1.0;
    }
    let hoeffding = dssd_common::math::exp(-(n as f64) * relative_entropy(mean, alpha));
    let hits = (n as f64 * mean).ceil() as u64;
    let bentkus = Binomial::new(alpha.min(1.0), n as u64)
        .map_or(1.0, |law| std::f64::consts::E * law.cdf(hits));
    hoeffding.min(bentkus).min(1.0)
}

/// a·ln(a/b) + (1 − a)·ln((1 − a)/(1 − b)).
fn relative_entropy(a: f64, b: f64) -> f64 {
    let term = |x: f64, y: f64| {
        if x <= 0.0 {
            0.0
        } else {
            x * dssd_common::math::ln(x / y)
        }
    };
    term(a, b) + term(1.0 - a, 1.0 - b)
}

/// Certified thresholds of all heads, in order, for a target ε. Candidates are entropy quantiles
/// of `candidates`; the tests run on `positions`, which share no document with those.
pub fn certified(
    samples: &Samples,
    candidates: &[usize],
    positions: &[usize],
    epsilon: f64,
    level: Level,
) -> Vec<Option<f32>> {
    let delta = level.delta / samples.heads.len().max(1) as f64;
    let lengths = samples.lengths(positions);
    let (mut of_candidates, mut left) = (candidates.to_vec(), positions.to_vec());
    let heads = samples.heads.iter().map(|head| {
        let mut seen = head.pairs(&of_candidates);
        seen.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut threshold = None;
        for candidate in quantiles(&seen, epsilon, delta) {
            let pairs = left.iter().map(|&position| {
                let exits = head.entropy[position] <= candidate;
                let document = samples.documents[position];
                (document, exits.then_some(head.agrees[position]))
            });
            let mean = mean_loss(pairs, &lengths, epsilon);
            // From [ε − 1, ε] to [0, 1]: no loss is then 1 − ε.
            let p = p_value(mean + 1.0 - epsilon, lengths.len(), 1.0 - epsilon);
            if p > delta {
                break;
            }
            threshold = Some(candidate);
        }
        if let Some(threshold) = threshold {
            of_candidates.retain(|&position| head.entropy[position] > threshold);
            left.retain(|&position| head.entropy[position] > threshold);
        }
        threshold
    });
    heads.collect()
}

/// Entropy quantiles to test, from the first that holds enough tokens for a rejection to be
/// possible at all: 2·ln δ / ln ε.
fn quantiles(sorted: &[(f32, bool)], epsilon: f64, delta: f64) -> Vec<f32> {
    let ln = dssd_common::math::ln;
    let enough = (2.0 * ln(delta) / ln(epsilon)).ceil().max(1.0) as usize;
    let mut chosen: Vec<f32> = (1..=CANDIDATES)
        .map(|index| index * sorted.len() / CANDIDATES)
        .filter(|&held| held >= enough)
        .map(|held| sorted[held - 1].0)
        .collect();
    chosen.dedup();
    chosen
}

/// Mean over documents of Σ (ε − agrees) over the positions that leave, divided by the
/// document's length. `lengths` lists the documents with their lengths, ascending.
fn mean_loss(
    positions: impl Iterator<Item = (u32, Option<bool>)>,
    lengths: &[(u32, usize)],
    epsilon: f64,
) -> f64 {
    let mut losses = vec![0.0; lengths.len()];
    for (document, exit) in positions {
        let (Some(agrees), Ok(index)) = (
            exit,
            lengths.binary_search_by_key(&document, |length| length.0),
        ) else {
            continue;
        };
        losses[index] += epsilon - f64::from(u8::from(agrees));
    }
    let shares = losses.iter().zip(lengths);
    let total: f64 = shares
        .map(|(loss, &(_, length))| loss / length as f64)
        .sum();
    total / lengths.len().max(1) as f64
}
