//! Entropy thresholds for a target agreement ε.
//!
//! A head's threshold is the largest entropy t such that the mean agreement of all positions
//! with H ≤ t is at least ε ("max coverage"). The paper's scripts take every head over all
//! positions. But head h only ever sees the positions that the heads before it refused, which
//! are the harder ones: the conditional rule calibrates the heads in order on what is left.

use super::sample::Samples;

/// The largest t such that at least a share `epsilon` of the positions with entropy ≤ t agree.
pub fn max_coverage(mut pairs: Vec<(f32, bool)>, epsilon: f64) -> Option<f32> {
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut agreed = 0usize;
    let mut threshold = None;
    for (index, &(entropy, agrees)) in pairs.iter().enumerate() {
        agreed += usize::from(agrees);
        let last_of_equals = pairs.get(index + 1).is_none_or(|next| next.0 > entropy);
        if last_of_equals && agreed as f64 >= epsilon * (index + 1) as f64 {
            threshold = Some(entropy);
        }
    }
    threshold
}

/// The paper's rule: every head over all positions; where no threshold reaches ε, the smallest
/// entropy seen.
pub fn paper(samples: &Samples, positions: &[usize], epsilon: f64) -> Vec<Option<f32>> {
    let heads = samples.heads.iter().map(|head| {
        let pairs = head.pairs(positions);
        let smallest = pairs.iter().map(|pair| pair.0).reduce(f32::min);
        max_coverage(pairs, epsilon).or(smallest)
    });
    heads.collect()
}

/// Heads in order, each over the positions that those before it refused.
pub fn conditional(samples: &Samples, positions: &[usize], epsilon: f64) -> Vec<Option<f32>> {
    let mut left = positions.to_vec();
    let heads = samples.heads.iter().map(|head| {
        let threshold = max_coverage(head.pairs(&left), epsilon);
        if let Some(threshold) = threshold {
            left.retain(|&position| head.entropy[position] > threshold);
        }
        threshold
    });
    heads.collect()
}

/// For each head, the positions that leave there; the last list never leaves.
pub fn exits(
    samples: &Samples,
    positions: &[usize],
    thresholds: &[Option<f32>],
) -> Vec<Vec<usize>> {
    let mut lists = Vec::with_capacity(thresholds.len() + 1);
    let mut left = positions.to_vec();
    for (head, threshold) in samples.heads.iter().zip(thresholds) {
        let leaves = |&position: &usize| threshold.is_some_and(|t| head.entropy[position] <= t);
        let (leaving, staying) = left.into_iter().partition(leaves);
        lists.push(leaving);
        left = staying;
    }
    lists.push(left);
    lists
}
