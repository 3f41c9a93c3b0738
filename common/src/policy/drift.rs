//! Drift: how far the acceptance that is observed lies from the one that was calibrated.

use super::experience::MEMORY;

/// Least drift that is told of: what a policy does hardly depends on less.
const TOLERANCE: f64 = 0.05;
/// Tokens, in equal weights, before which nothing is said: the drafts of one odd text are no drift.
const LEAST_TOKENS: f64 = 50.0;
/// Standard deviations of the observed acceptance that chance is allowed.
const DEVIATIONS: f64 = 3.0;
/// Share of those bounds below which a head counts as back: at a bound itself, chance would let
/// it come and go.
const RETURN: f64 = 0.5;

/// How the drafted tokens of one exit head fared. Sums fade as tokens come, so that later ones
/// weigh more.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadAgreement {
    /// Tokens judged, all told.
    pub judged: u64,
    /// Weight of those that still count.
    weight: f64,
    /// Squared weights: chance weighs as in `weight`²/`squares` tokens that count alike.
    squares: f64,
    /// Accepted ones among them.
    accepted: f64,
    /// What was promised of them, by a calibration if `is_calibrated`.
    promised: f64,
    is_calibrated: bool,
}

impl HeadAgreement {
    /// Nothing judged yet.
    pub(super) fn new(is_calibrated: bool) -> Self {
        Self {
            is_calibrated,
            ..Self::default()
        }
    }

    /// Takes note of a token that was right (1) or not (0), of which `promised` was promised.
    pub(super) fn judge(&mut self, right: f64, promised: f64) {
        self.judged += 1;
        self.weight = MEMORY * self.weight + 1.0;
        self.squares = MEMORY * MEMORY * self.squares + 1.0;
        self.accepted = MEMORY * self.accepted + right;
        self.promised = MEMORY * self.promised + promised;
    }

    /// Accepted share of the tokens judged; none before the first.
    pub fn observed(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.accepted / self.weight)
    }

    /// What the calibration says of the same tokens; none without one.
    pub fn calibrated(&self) -> Option<f64> {
        (self.weight > 0.0 && self.is_calibrated).then(|| self.promised / self.weight)
    }

    /// Weights of the accepted tokens, and what was promised of all.
    pub(super) fn sums(&self) -> (f64, f64) {
        (self.accepted, self.promised)
    }

    /// Weights of the accepted tokens, and of all.
    pub(super) fn counts(&self) -> (f64, f64) {
        (self.accepted, self.weight)
    }

    /// Observed minus calibrated acceptance.
    pub fn drift(&self) -> Option<f64> {
        Some(self.observed()? - self.calibrated()?)
    }

    /// Whether the drift is larger than chance explains, and large enough to matter. `before` is
    /// what this said last.
    pub fn is_adrift(&self, before: bool) -> bool {
        let (Some(drift), Some(calibrated)) = (self.drift(), self.calibrated()) else {
            return false;
        };
        let count = self.weight * self.weight / self.squares;
        if count < LEAST_TOKENS {
            return false;
        }
        // The rule of succession: a probability of 1 would leave chance no room.
        let share = (calibrated * count + 1.0) / (count + 2.0);
        let deviation = (share * (1.0 - share) / count).sqrt();
        let bound = TOLERANCE.max(DEVIATIONS * deviation);
        drift.abs() > if before { RETURN * bound } else { bound }
    }
}

#[cfg(test)]
mod tests {
    use super::HeadAgreement;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    fn agreement(accepted: f64, promised: f64, weight: f64) -> HeadAgreement {
        HeadAgreement {
            judged: weight as u64,
            weight,
            squares: weight,
            accepted,
            promised,
            is_calibrated: true,
        }
    }

    #[test]
    fn drift_is_observed_minus_calibrated() {
        let drift = agreement(60.0, 90.0, 100.0).drift().unwrap();
        assert!((drift + 0.3).abs() < 1e-12, "{drift}");
        assert_eq!(HeadAgreement::default().drift(), None);
        let uncalibrated = HeadAgreement {
            is_calibrated: false,
            ..agreement(60.0, 90.0, 100.0)
        };
        assert_eq!(uncalibrated.drift(), None);
        assert_eq!(uncalibrated.observed(), Some(0.6));
    }

    #[test]
    fn few_tokens_and_small_drifts_are_no_alarm() {
        assert!(!agreement(0.0, 0.95, 1.0).is_adrift(false), "one token");
        assert!(!agreement(0.0, 46.5, 49.0).is_adrift(false), "few tokens");
        assert!(agreement(0.0, 47.5, 50.0).is_adrift(false), "none of fifty");
        assert!(
            !agreement(91.0, 95.0, 100.0).is_adrift(false),
            "within the tolerance"
        );
        assert!(agreement(850.0, 950.0, 1000.0).is_adrift(false));
        assert!(
            agreement(950.0, 850.0, 1000.0).is_adrift(false),
            "too good, too"
        );
    }

    #[test]
    fn chance_alone_seldom_raises_an_alarm() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let alarms = (0..2000).filter(|_| {
            let accepted = (0..200).filter(|_| random.random_bool(0.8)).count();
            agreement(accepted as f64, 160.0, 200.0).is_adrift(false)
        });
        // Beyond three deviations lie 0.27 % of a normal distribution.
        assert!(alarms.count() <= 20);
    }
}
