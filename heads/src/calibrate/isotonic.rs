//! A falling curve through noisy shares.

/// Most steps of a curve before equal neighbours are joined.
const STEPS: usize = 64;

/// A step function of entropy that never rises: value `i` holds up to `ends[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Upper ends of the steps, ascending.
    pub ends: Vec<f64>,
    /// Values of the steps, never rising.
    pub values: Vec<f64>,
}

#[derive(Clone, Copy)]
struct Block {
    end: f64,
    hits: f64,
    trials: f64,
}

impl Block {
    fn mean(self) -> f64 {
        self.hits / self.trials
    }

    fn join(self, next: Self) -> Self {
        Self {
            end: next.end,
            hits: self.hits + next.hits,
            trials: self.trials + next.trials,
        }
    }
}

/// Least-squares fit of a never-rising function to (entropy, hit) pairs, over groups of about
/// equal size: the pool-adjacent-violators algorithm (Ayer et al. 1955).
pub fn falling(mut pairs: Vec<(f32, bool)>) -> Curve {
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let group = pairs.len().div_ceil(STEPS).max(1);
    let mut pooled: Vec<Block> = Vec::new();
    let mut rest = pairs.as_slice();
    while let Some(last) = rest.get(group.min(rest.len()).saturating_sub(1)) {
        // Equal entropies belong to one step.
        let size = rest.partition_point(|pair| pair.0 <= last.0);
        let (taken, others) = rest.split_at(size);
        rest = others;
        let mut block = Block {
            end: last.0.into(),
            hits: taken.iter().filter(|pair| pair.1).count() as f64,
            trials: size as f64,
        };
        while let Some(before) = pooled.pop_if(|before| before.mean() <= block.mean()) {
            block = before.join(block);
        }
        pooled.push(block);
    }
    Curve {
        ends: pooled.iter().map(|block| block.end).collect(),
        values: pooled.iter().map(|block| block.mean()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn violators_are_pooled_to_their_mean() {
        let pairs = [(0.0, true), (1.0, false), (2.0, true), (3.0, false)];
        let curve = falling(pairs.to_vec());
        assert_eq!(curve.ends, [0.0, 2.0, 3.0]);
        assert_eq!(curve.values, [1.0, 0.5, 0.0]);
        assert!(falling(Vec::new()).values.is_empty());
    }

    #[test]
    fn the_curve_is_the_best_falling_one() {
        // The characterisation of the solution: value i = min over a ≤ i of max over b ≥ i of
        // the mean of a..=b.
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..100 {
            let hits: Vec<bool> = (0..20).map(|_| random.random()).collect();
            let pairs = hits.iter().enumerate().map(|(i, &hit)| (i as f32, hit));
            let curve = falling(pairs.collect());
            let mean = |a: usize, b: usize| {
                hits[a..=b].iter().filter(|&&hit| hit).count() as f64 / (b - a + 1) as f64
            };
            for i in 0..20 {
                let best = (0..=i)
                    .map(|a| (i..20).map(|b| mean(a, b)).fold(0.0, f64::max))
                    .fold(1.0, f64::min);
                let step = curve.ends.partition_point(|&end| end < i as f64);
                assert!((curve.values[step] - best).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn many_equal_entropies_are_one_step() {
        let pairs = (0..1000).map(|i| (0.0, i % 2 == 0)).collect();
        let curve = falling(pairs);
        assert_eq!((curve.ends, curve.values), (vec![0.0], vec![0.5]));
    }
}
