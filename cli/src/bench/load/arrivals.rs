//! When requests arrive that wait for nobody.

use super::lengths::exponential;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::{str::FromStr, time::Duration};

/// Most requests per second: far beyond what one client can send.
const MOST: f64 = 1e6;

/// How many requests arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rate {
    /// So many in a second.
    PerSecond(f64),
    /// So many times what the servers can take, as the ladder of the same run measures it.
    TimesSaturation(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let times = text.strip_suffix('x');
        let value = times.unwrap_or(text).parse::<f64>().ok();
        let value = value.filter(|value| (f64::MIN_POSITIVE..=MOST).contains(value));
        match (value, times) {
            (Some(value), Some(_)) => Ok(Self::TimesSaturation(value)),
            (Some(value), None) => Ok(Self::PerSecond(value)),
            (None, _) => Err(format!(
                "must be requests per second, above 0 and at most {MOST}, or such as 3x: times the saturated rate"
            )),
        }
    }
}

/// A Poisson process: times since its begin, without end.
pub(super) struct Arrivals {
    random: ChaCha8Rng,
    /// Mean time between two of them.
    gap: Duration,
    last: Duration,
}

impl Arrivals {
    /// `rate` a second in the mean; the same seed gives the same times.
    pub(super) fn new(rate: f64, seed: u64) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            gap: Duration::from_secs_f64((1.0 / rate).min(LONGEST_GAP)),
            last: Duration::ZERO,
        }
    }
}

/// Seconds: a year, which no run lasts.
const LONGEST_GAP: f64 = 365.0 * 24.0 * 3600.0;

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let gap = self.gap.mul_f64(exponential(&mut self.random));
        self.last = self.last.saturating_add(gap);
        Some(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrivals, Rate};
    use std::time::Duration;

    #[test]
    fn arrivals_are_poisson() {
        // In bins of a second at 20 a second: mean and variance of the counts are 20.
        let bins = 2000;
        let mut counts = vec![0.0f64; bins];
        let end = Duration::from_secs(bins as u64);
        for at in Arrivals::new(20.0, 3).take_while(|&at| at < end) {
            counts[at.as_secs() as usize] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / bins as f64;
        let squares = counts.iter().map(|n| (n - mean).powi(2));
        let variance = squares.sum::<f64>() / bins as f64;
        assert!((mean - 20.0).abs() < 0.4, "{mean}");
        assert!((variance - 20.0).abs() < 2.5, "{variance}");
    }

    #[test]
    fn a_seed_gives_its_times_again_and_another_gives_others() {
        let times = |seed| Arrivals::new(5.0, seed).take(50).collect::<Vec<_>>();
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
        assert!(times(1).is_sorted());
    }

    #[test]
    fn a_rate_is_a_number_or_a_multiple_of_the_saturated_one() {
        assert_eq!("2.5".parse(), Ok(Rate::PerSecond(2.5)));
        assert_eq!("3x".parse(), Ok(Rate::TimesSaturation(3.0)));
        for text in ["", "x", "0", "-1", "0x", "nan", "inf", "2e6", "3 x"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
