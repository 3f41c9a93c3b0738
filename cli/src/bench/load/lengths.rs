//! How long prompts and answers are.

use rand::Rng;
use std::{fmt, str::FromStr};

/// Longest exponential draw where none is named, as a multiple of the mean: 1 draw of 3 million is longer.
const LONGEST: u32 = 15;

/// A distribution of numbers of tokens, each at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lengths {
    /// Always the same.
    Fixed(u32),
    /// Each number of a range, both ends included, as often as any other.
    Uniform(u32, u32),
    /// Many short ones, few long ones; longer draws are cut to `most`.
    Exponential { mean: u32, most: u32 },
}

impl Lengths {
    /// A length.
    pub(super) fn draw(&self, random: &mut impl Rng) -> u32 {
        match *self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform(low, high) => random.random_range(low..=high),
            Self::Exponential { mean, most } => {
                let drawn = f64::from(mean) * exponential(random);
                (drawn.round() as u32).clamp(1, most)
            }
        }
    }

    /// The longest that can be drawn.
    pub(super) fn most(&self) -> u32 {
        match *self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform(_, high) => high,
            Self::Exponential { most, .. } => most,
        }
    }
}

/// A draw of the exponential distribution with mean 1.
pub(super) fn exponential(random: &mut impl Rng) -> f64 {
    // 1 − u is above 0, as u is below 1.
    -(1.0 - random.random::<f64>()).ln()
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, numbers) = text.split_once(':').unwrap_or((text, ""));
        let numbers: Option<Vec<u32>> = numbers.split(':').map(|n| n.parse().ok()).collect();
        let lengths = match (kind, numbers.as_deref()) {
            ("fixed", Some(&[tokens])) => Self::Fixed(tokens),
            ("uniform", Some(&[low, high])) if low <= high => Self::Uniform(low, high),
            ("exponential", Some(&[mean])) => Self::Exponential {
                mean,
                most: mean.saturating_mul(LONGEST),
            },
            ("exponential", Some(&[mean, most])) if mean <= most => {
                Self::Exponential { mean, most }
            }
            _ => return Err(FORMS.to_owned()),
        };
        match lengths {
            Self::Fixed(0) | Self::Uniform(0, _) | Self::Exponential { mean: 0, .. } => {
                Err("must be at least 1".to_owned())
            }
            lengths => Ok(lengths),
        }
    }
}

const FORMS: &str =
    "must be fixed:N, uniform:FROM:TO or exponential:MEAN[:MAX], such as uniform:8:64";

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(tokens) => write!(f, "fixed:{tokens}"),
            Self::Uniform(low, high) => write!(f, "uniform:{low}:{high}"),
            Self::Exponential { mean, most } => write!(f, "exponential:{mean}:{most}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lengths;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    fn draws(lengths: &str) -> Vec<u32> {
        let lengths: Lengths = lengths.parse().unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        (0..20_000).map(|_| lengths.draw(&mut random)).collect()
    }

    fn mean(draws: &[u32]) -> f64 {
        draws.iter().map(|&n| f64::from(n)).sum::<f64>() / draws.len() as f64
    }

    #[test]
    fn fixed_and_uniform_lengths_are_as_said() {
        assert!(draws("fixed:7").iter().all(|&n| n == 7));
        let uniform = draws("uniform:3:6");
        for n in 3..=6 {
            let share = uniform.iter().filter(|&&m| m == n).count() as f64 / 20_000.0;
            assert!((share - 0.25).abs() < 0.02, "{n}: {share}");
        }
        assert!(uniform.iter().all(|n| (3..=6).contains(n)));
    }

    #[test]
    fn exponential_lengths_have_the_mean_and_the_tail() {
        let drawn = draws("exponential:50");
        assert!((mean(&drawn) - 50.0).abs() < 1.5, "{}", mean(&drawn));
        // P(X > 2 mean) = e^-2.
        let long = drawn.iter().filter(|&&n| n > 100).count() as f64 / 20_000.0;
        assert!((long - 0.1353).abs() < 0.01, "{long}");
        let cut = draws("exponential:50:60");
        assert!(cut.iter().all(|n| (1..=60).contains(n)) && cut.contains(&60));
    }

    #[test]
    fn what_is_no_distribution_is_refused_with_the_forms() {
        for text in ["7", "fixed", "fixed:x", "uniform:9:3", "exponential:9:3"] {
            let error = text.parse::<Lengths>().unwrap_err();
            assert!(error.contains("uniform:FROM:TO"), "{text}: {error}");
        }
        for text in ["fixed:0", "uniform:0:3", "exponential:0"] {
            let error = text.parse::<Lengths>().unwrap_err();
            assert!(error.contains("at least 1"), "{text}: {error}");
        }
        for text in ["fixed:3", "uniform:3:9", "exponential:3:9"] {
            assert_eq!(text.parse::<Lengths>().unwrap().to_string(), text);
        }
    }
}
