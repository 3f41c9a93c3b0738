//! Log-probabilities for the client.

use super::filter::by_rank;
use super::params::{check_id, invalid};
use crate::Result;
use crate::math::{exp, ln};

/// An id and its natural log-probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logprob {
    /// The token id.
    pub id: u32,
    /// ln of its probability, in nats; at most 0.
    pub logprob: f64,
}

/// The log-probabilities that go with one token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token itself.
    pub chosen: Logprob,
    /// The most probable ids, best first, the lower id first on ties.
    pub top: Vec<Logprob>,
}

/// The log-softmax of raw logits (temperature 1, before penalties and filters) for `chosen` and the `top` best ids.
///
/// # Errors
/// [`crate::Error::InvalidParameter`] if `chosen` is outside the row, or the row has NaN, +∞ or nothing finite.
pub fn logprobs(logits: &[f32], chosen: u32, top: usize) -> Result<TokenLogprobs> {
    check_id("chosen", chosen, logits.len())?;
    let values: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    let maximum = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !maximum.is_finite() || values.iter().any(|value| value.is_nan()) {
        return Err(invalid(
            "logits",
            "the row holds NaN, +inf or nothing finite".into(),
        ));
    }
    let normaliser = ln(values.iter().map(|value| exp(value - maximum)).sum());
    // The maximum goes first: adding it to the normaliser would lose digits at large logits.
    let logprob = |id: u32| Logprob {
        id,
        logprob: (values[id as usize] - maximum) - normaliser,
    };
    Ok(TokenLogprobs {
        chosen: logprob(chosen),
        top: best_ids(&values, top).into_iter().map(logprob).collect(),
    })
}

fn best_ids(values: &[f64], count: usize) -> Vec<u32> {
    let count = count.min(values.len());
    if count == 0 {
        return Vec::new();
    }
    let mut ids: Vec<u32> = (0..values.len() as u32).collect();
    ids.select_nth_unstable_by(count - 1, by_rank(values));
    ids.truncate(count);
    ids.sort_unstable_by(by_rank(values));
    ids
}

#[cfg(test)]
mod tests {
    use super::{Logprob, logprobs};

    #[test]
    fn a_known_law() {
        let logits = [0.1f32, 0.4, 0.2, 0.3].map(|p: f32| f64::from(p).ln() as f32 + 1000.0);
        let found = logprobs(&logits, 0, 2).unwrap();
        assert!((found.chosen.logprob - 0.1f64.ln()).abs() < 1e-3);
        assert_eq!(
            found.top.iter().map(|best| best.id).collect::<Vec<_>>(),
            [1, 3]
        );
        assert!((found.top[0].logprob - 0.4f64.ln()).abs() < 1e-3);
    }

    #[test]
    fn ties_and_impossible_ids() {
        let found = logprobs(&[0.0, f32::NEG_INFINITY, 0.0], 1, 9).unwrap();
        assert_eq!(found.chosen.logprob, f64::NEG_INFINITY);
        let half = -2f64.ln();
        let expected = [(0, half), (2, half), (1, f64::NEG_INFINITY)];
        assert_eq!(
            found.top,
            expected.map(|(id, logprob)| Logprob { id, logprob })
        );
    }

    #[test]
    fn probabilities_add_up_to_one() {
        let logits: Vec<f32> = (0..500)
            .map(|i| ((i * 37) % 101) as f32 * 0.2 - 300.0)
            .collect();
        let found = logprobs(&logits, 3, logits.len()).unwrap();
        let sum: f64 = found.top.iter().map(|best| best.logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }

    #[test]
    fn bad_rows_are_refused() {
        assert!(logprobs(&[0.0, f32::NAN], 0, 1).is_err());
        assert!(logprobs(&[0.0, f32::INFINITY], 0, 1).is_err());
        assert!(logprobs(&[f32::NEG_INFINITY], 0, 1).is_err());
        assert!(logprobs(&[0.0], 1, 1).is_err());
    }
}
