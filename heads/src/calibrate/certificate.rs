//! Thresholds with a guarantee: Learn-then-Test (Angelopoulos et al. 2021, arXiv 2110.01052).
//!
//! The unit is the document. For a candidate threshold t the loss of a document is
//! L = Σ 1(H ≤ t)·(ε − agrees) / length, in [ε − 1, ε]; the hypothesis to be rejected is
//! E[L] ≥ 0, "leaving up to t agrees less often than ε". A threshold is certified when a test at
//! level δ/heads rejects it. Candidates are tested in an order that is fixed on other documents:
//! from the one that should be easiest to certify on to larger ones; the first that is not
//! rejected ends the sequence. Then with probability 1 − δ the threshold of the first head
//! keeps its promise. Heads after it are tested on what those before them left, and that was decided
//! on the same documents: for them the promise is approximate.
//!
//! The test is a bet against the hypothesis (Waudby-Smith and Ramdas 2020, arXiv 2010.09686).
//! Losses of documents are nearly all small; bounds that do not see that, such as
//! Hoeffding's and Bentkus', need thousands of documents to certify anything.

use super::sample::Samples;

/// Candidates per head.
const CANDIDATES: usize = 50;

/// What the guarantee is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Probability that some certified threshold breaks its promise, over all heads.
    pub delta: f64,
}

/// p-value of E\[X\] ≥ α for independent X in \[0, 1\], in the order given: one over the most
/// that a gambler ever owned who began with 1 and staked, before each X, a share λ of it on
/// α − X. If the hypothesis holds, every such bet loses on average, so by Ville's inequality
/// P(p ≤ u) ≤ u. λ is Kelly's for the mean and variance so far.
pub fn p_value(values: &[f64], alpha: f64) -> f64 {
    if alpha <= 0.0 {
        return 1.0;
    }
    // Never all of it: X = 1 must leave something.
    let largest = 0.9 / (1.0 - alpha).max(0.1);
    let (mut capital, mut most) = (1.0f64, 1.0f64);
    // A weak prior: mean α, variance that of a fair coin, worth one observation.
    let (mut count, mut sum, mut squares) = (1.0, alpha, 0.25);
    for &value in values {
        let gap = alpha - sum / count;
        let variance = squares / count;
        let stake = (gap / (variance + gap * gap)).clamp(0.0, largest);
        capital *= 1.0 + stake * (alpha - value);
        most = most.max(capital);
        count += 1.0;
        sum += value;
        squares += (value - sum / count) * (value - sum / count);
    }
    1.0 / most
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
        for candidate in order(&seen, epsilon) {
            let pairs = left.iter().map(|&position| {
                let exits = head.entropy[position] <= candidate;
                let document = samples.documents[position];
                (document, exits.then_some(head.agrees[position]))
            });
            // From [ε − 1, ε] to [0, 1]: no loss is then 1 − ε.
            let losses = losses(pairs, &lengths, epsilon);
            let shifted: Vec<f64> = losses.iter().map(|loss| loss + 1.0 - epsilon).collect();
            if p_value(&shifted, 1.0 - epsilon) > delta {
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

/// Entropy quantiles to test, rising, from the one on that gains most: Σ (agrees − ε) over what
/// leaves there.
fn order(sorted: &[(f32, bool)], epsilon: f64) -> Vec<f32> {
    let mut gain = 0.0;
    let gains: Vec<f64> = sorted
        .iter()
        .map(|pair| {
            gain += f64::from(u8::from(pair.1)) - epsilon;
            gain
        })
        .collect();
    let ends: Vec<usize> = (1..=CANDIDATES)
        .map(|index| index * sorted.len() / CANDIDATES)
        .filter(|&held| held > 0)
        .collect();
    let best = ends
        .iter()
        .enumerate()
        .max_by(|(_, a), (_, b)| gains[**a - 1].total_cmp(&gains[**b - 1]));
    let start = best.map_or(0, |(index, _)| index);
    let mut chosen: Vec<f32> = ends[start..]
        .iter()
        .map(|&held| sorted[held - 1].0)
        .collect();
    chosen.dedup();
    chosen
}

/// For each document, Σ (ε − agrees) over the positions that leave, divided by its length.
/// `lengths` lists the documents with their lengths, ascending.
fn losses(
    positions: impl Iterator<Item = (u32, Option<bool>)>,
    lengths: &[(u32, usize)],
    epsilon: f64,
) -> Vec<f64> {
    let mut losses = vec![0.0; lengths.len()];
    for (document, exit) in positions {
        let (Some(agrees), Ok(index)) = (
            exit,
            lengths.binary_search_by_key(&document, |length| length.0),
        ) else {
            continue;
        };
        let length = lengths[index].1 as f64;
        losses[index] += (epsilon - f64::from(u8::from(agrees))) / length;
    }
    losses
}
