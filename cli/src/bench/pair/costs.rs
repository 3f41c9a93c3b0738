//! What a pair can reach: rounds of drafting and verification as a renewal process.

/// Measured seconds.
pub(crate) struct Costs<'a> {
    /// A token of plain decoding, as a client sees it.
    pub(crate) plain: f64,
    /// A drafted token.
    pub(crate) draft: f64,
    /// A proposal and its commit on the way, for each round.
    pub(crate) wire: f64,
    /// Passes of 1, 2, … rows.
    pub(crate) passes: &'a [f64],
}

impl Costs<'_> {
    /// Speed-up over plain decoding of drafts of `length` tokens of which each is right with
    /// probability `acceptance`: a round emits Σ_{i=0..length} acceptance^i tokens.
    fn speedup(&self, acceptance: f64, length: usize) -> f64 {
        let emitted: f64 = (0..=length as i32).map(|i| acceptance.powi(i)).sum();
        // Rows beyond the first come on top of what a plain token costs, sampling included.
        let verify = self.plain + self.passes[length] - self.passes[0];
        emitted * self.plain / (length as f64 * self.draft + self.wire + verify)
    }

    /// Speed-up over plain decoding of rounds of which a share `coverage` has a draft, of `length`
    /// tokens on average, `accepted` of them right.
    pub(super) fn modelled(&self, coverage: f64, length: f64, accepted: f64) -> f64 {
        let extra = self.pass(length) - self.pass(0.0);
        let draft = length * self.draft + self.wire + extra;
        (1.0 + coverage * accepted) * self.plain / (self.plain + coverage * draft)
    }

    /// Seconds of a pass that verifies `length` drafted tokens, between and beyond the measured
    /// numbers of rows on a straight line.
    fn pass(&self, length: f64) -> f64 {
        let last = self.passes.len().saturating_sub(2);
        let below = (length as usize).min(last);
        let at = |index: usize| self.passes.get(index).copied().unwrap_or_default();
        at(below) + (length - below as f64) * (at(below + 1) - at(below))
    }

    /// The best draft length and its speed-up; (0, 1) where plain decoding is best.
    pub(crate) fn optimum(&self, acceptance: f64) -> (usize, f64) {
        let candidates = (1..self.passes.len()).map(|d| (d, self.speedup(acceptance, d)));
        candidates.fold(
            (0, 1.0),
            |best, next| if next.1 > best.1 { next } else { best },
        )
    }
}

/// The probability of each token to be right that explains `accepted` tokens per draft of
/// `length` tokens: the solution of Σ_{i=1..length} a^i = accepted.
pub(crate) fn acceptance(accepted: f64, length: f64) -> f64 {
    let explained = |a: f64| a * (1.0 - a.powf(length)) / (1.0 - a);
    let (mut low, mut high) = (0.0, 1.0 - 1e-9);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if explained(middle) < accepted {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::{Costs, acceptance};

    #[test]
    fn the_optimum_is_that_of_the_published_table() {
        // First exit at 0.325 of a pass, verification as dear as one row, acceptance 0.9: 1.78.
        let flat = Costs {
            plain: 1.0,
            draft: 0.325,
            wire: 0.0,
            passes: &[1.0; 8],
        };
        assert!(
            (flat.optimum(0.9).1 - 1.78).abs() < 0.01,
            "{:?}",
            flat.optimum(0.9)
        );
        assert!(
            (flat.optimum(0.8).1 - 1.49).abs() < 0.01,
            "{:?}",
            flat.optimum(0.8)
        );
        let slow = Costs { wire: 0.4, ..flat };
        assert!(
            (slow.optimum(0.8).1 - 1.25).abs() < 0.01,
            "{:?}",
            slow.optimum(0.8)
        );
    }

    #[test]
    fn rounds_as_they_ran_agree_with_rounds_of_the_same_length() {
        let costs = Costs {
            plain: 1.0,
            draft: 0.2,
            wire: 0.1,
            passes: &[1.0, 1.1, 1.2, 1.3, 1.4],
        };
        let accepted: f64 = (1..=3).map(|i| 0.8f64.powi(i)).sum();
        let modelled = costs.modelled(1.0, 3.0, accepted);
        assert!((modelled - costs.speedup(0.8, 3)).abs() < 1e-12);
        assert_eq!(costs.modelled(0.0, 3.0, accepted), 1.0);
        // Half of the rounds plain, and drafts of 6 tokens: 1 + 1/2 for 1 + (1.2 + 0.1 + 0.6)/2.
        let half = costs.modelled(0.5, 6.0, 1.0);
        assert!((half - 1.5 / 1.95).abs() < 1e-12, "{half}");
    }

    #[test]
    fn dear_drafts_are_not_made() {
        let costs = Costs {
            plain: 1.0,
            draft: 1.0,
            wire: 0.0,
            passes: &[1.0; 8],
        };
        assert_eq!(costs.optimum(0.9), (0, 1.0));
    }

    #[test]
    fn acceptance_is_found_again_from_its_counts() {
        for a in [0.0, 0.3, 0.85, 0.99] {
            let accepted = (1..=4).map(|i| f64::powi(a, i)).sum();
            assert!((acceptance(accepted, 4.0) - a).abs() < 1e-6);
        }
        assert!(acceptance(4.0, 4.0) > 0.999);
    }
}
