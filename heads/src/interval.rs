//! Intervals over documents: tokens of one document are not independent, documents are.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Resamples of a bootstrap.
const RESAMPLES: usize = 1000;

/// A value with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value on all documents.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The percentile bootstrap (Efron 1979) of a statistic over documents. `statistic` gets how
/// often each of the `documents` was drawn, and answers none where the draw says nothing.
pub fn bootstrap(
    documents: usize,
    seed: u64,
    statistic: impl Fn(&[u32]) -> Option<f64>,
) -> Option<Estimate> {
    let value = statistic(&vec![1; documents])?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut counts = vec![0; documents];
    let mut draws: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            counts.fill(0);
            for _ in 0..documents {
                counts[random.random_range(0..documents)] += 1;
            }
            statistic(&counts)
        })
        .collect();
    draws.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * draws.len() as f64) as usize;
        draws.get(index.min(draws.len().saturating_sub(1))).copied()
    };
    Some(Estimate {
        value,
        low: at(0.025)?,
        high: at(0.975)?,
    })
}

/// The interval of Σ hits / Σ trials, each given document by document.
pub fn ratio(hits: &[u32], trials: &[u32], seed: u64) -> Option<Estimate> {
    bootstrap(hits.len(), seed, |counts| {
        let weighed = |values: &[u32]| -> f64 {
            let products = values.iter().zip(counts);
            products.map(|(&v, &c)| f64::from(v) * f64::from(c)).sum()
        };
        let trials = weighed(trials);
        (trials > 0.0).then(|| weighed(hits) / trials)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_mean_is_that_of_the_central_limit() {
        // 400 documents of one token, right with probability .8: the deviation is .02.
        let hits: Vec<u32> = (0..400).map(|i| u32::from(i % 5 != 0)).collect();
        let estimate = ratio(&hits, &[1; 400], 1).unwrap();
        assert!((estimate.value - 0.8).abs() < 1e-12);
        assert!(
            (estimate.low - (0.8 - 1.96 * 0.02)).abs() < 0.01,
            "{estimate:?}"
        );
        assert!(
            (estimate.high - (0.8 + 1.96 * 0.02)).abs() < 0.01,
            "{estimate:?}"
        );
    }

    #[test]
    fn documents_that_move_together_widen_it() {
        let hits: Vec<u32> = (0..400).map(|i| 20 * u32::from(i % 5 != 0)).collect();
        let together = ratio(&hits, &[20; 400], 1).unwrap();
        let alone: Vec<u32> = (0..8000).map(|i| u32::from(i % 5 != 0)).collect();
        let alone = ratio(&alone, &[1; 8000], 1).unwrap();
        assert!(together.high - together.low > 3.0 * (alone.high - alone.low));
        assert!(ratio(&[0], &[0], 1).is_none());
    }
}
