//! What a pair can reach: rounds of drafting and verification as a renewal process.

/// Measured seconds.
pub(super) struct Costs<'a> {
    /// A token of plain decoding, as a client sees it.
    pub(super) plain: f64,
    /// A drafted token.
    pub(super) draft: f64,
    /// A proposal and its commit on the way, for each round.
    pub(super) wire: f64,
    /// Passes of 1, 2, … rows.
    pub(super) passes: &'a [f64],
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

    /// The best draft length and its speed-up; (0, 1) where plain decoding is best.
    pub(super) fn optimum(&self, acceptance: f64) -> (usize, f64) {
        let candidates = (1..self.passes.len()).map(|d| (d, self.speedup(acceptance, d)));
        candidates.fold(
            (0, 1.0),
            |best, next| if next.1 > best.1 { next } else { best },
        )
    }
}

/// The probability of each token to be right that explains `accepted` tokens per draft of
/// `length` tokens: the solution of Σ_{i=1..length} a^i = accepted.
pub(super) fn acceptance(accepted: f64, length: f64) -> f64 {
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
