//! Wall-clock measurements that bear a machine with other work on it.

use std::time::Instant;

/// Rounds of every comparison unless a flag says otherwise: odd, so that a median is a sample.
pub(crate) const ROUNDS: u16 = 31;

/// Seconds that `work` takes, and what it returns.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begun = Instant::now();
    let result = work();
    (begun.elapsed().as_secs_f64(), result)
}

/// Times the variants `0..variants` in turn, `rounds` times over, after one round that does not
/// count; `work` runs one of them. Gives `[variant][round]` seconds: samples of one round were
/// taken side by side, so their ratios hold even where the machine's speed drifts.
///
/// # Errors
/// The first one of `work`.
pub(super) fn interleaved<E>(
    variants: usize,
    rounds: usize,
    mut work: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<Vec<f64>>, E> {
    let mut seconds = vec![Vec::with_capacity(rounds); variants];
    for round in 0..=rounds {
        for (variant, seconds) in seconds.iter_mut().enumerate() {
            let (elapsed, result) = timed(|| work(variant));
            result?;
            if round > 0 {
                seconds.push(elapsed);
            }
        }
    }
    Ok(seconds)
}

/// The middle sample, or the mean of the two middle ones; NaN of none.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// Median of the ratios of samples that were taken side by side.
pub(crate) fn median_ratio(numerators: &[f64], denominators: &[f64]) -> f64 {
    let ratios = numerators.iter().zip(denominators).map(|(n, d)| n / d);
    median(&ratios.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ignore_outliers_and_ratios_are_paired() {
        assert_eq!(median(&[3.0, 1.0, 100.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), 3.0);
        // The machine was ten times slower in the second round; the ratio is 2 in all of them.
        assert_eq!(median_ratio(&[2.0, 20.0, 4.0], &[1.0, 10.0, 2.0]), 2.0);
    }

    #[test]
    fn variants_take_turns_and_the_first_round_does_not_count() {
        let mut order = Vec::new();
        let seconds = interleaved(2, 3, |variant| {
            order.push(variant);
            Ok::<_, ()>(())
        });
        assert_eq!(order, [0, 1, 0, 1, 0, 1, 0, 1]);
        assert!(seconds.unwrap().iter().all(|samples| samples.len() == 3));
    }
}
