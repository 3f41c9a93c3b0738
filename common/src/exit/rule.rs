//! The rule by which a token leaves the model early.

use crate::{Error, Result, checkpoint::hex, entropy::Summary};
use sha2::{Digest as _, Sha256};

/// A token leaves at the first head whose entropy is at most the head's threshold
/// (arXiv 2407.21082).
#[derive(Clone, Debug, PartialEq)]
pub struct ExitRule {
    thresholds: Vec<Option<f32>>,
}

impl ExitRule {
    /// A threshold in nats for each head, from the shallowest; none: the head is off.
    ///
    /// # Errors
    /// If a threshold is no number of nats.
    pub fn new(thresholds: Vec<Option<f32>>) -> Result<Self> {
        let fits = |nats: &f32| nats.is_finite() && *nats >= 0.0;
        match thresholds.iter().flatten().find(|nats| !fits(nats)) {
            None => Ok(Self { thresholds }),
            Some(nats) => Err(Error::InvalidParameter {
                field: "entropy_threshold",
                reason: format!("{nats} is not a number of nats, 0 or more"),
            }),
        }
    }

    /// The thresholds, head by head.
    pub fn thresholds(&self) -> &[Option<f32>] {
        &self.thresholds
    }

    /// Names what this rule does with the heads of that hash, lower-case hexadecimal.
    pub fn hash(&self, heads_hash: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(heads_hash);
        for nats in &self.thresholds {
            hash.update(format!(" {:?}", nats.map(f32::to_bits)));
        }
        hex(&hash.finalize())
    }

    /// Whether a head can be left at, so whether it need be evaluated at all.
    pub fn reads(&self, head: usize) -> bool {
        self.thresholds.get(head).is_some_and(Option::is_some)
    }

    /// Whether a token leaves at `head`, given what the head's raw logits say. A row that is no
    /// distribution never leaves.
    pub fn leaves(&self, head: usize, summary: &Summary) -> bool {
        let threshold = self.thresholds.get(head).copied().flatten();
        summary.valid && threshold.is_some_and(|nats| summary.entropy <= nats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(entropy: f32, valid: bool) -> Summary {
        Summary {
            entropy,
            valid,
            ..Summary::INVALID
        }
    }

    #[test]
    fn a_token_leaves_where_its_entropy_is_at_most_the_threshold() {
        let rule = ExitRule::new(vec![Some(0.5), None]).unwrap();
        assert!(rule.leaves(0, &summary(0.5, true)));
        assert!(!rule.leaves(0, &summary(0.500_001, true)));
        assert!(!rule.leaves(0, &summary(0.1, false)), "no distribution");
        assert!(!rule.leaves(1, &summary(0.0, true)), "the head is off");
        assert!(
            !rule.leaves(2, &summary(0.0, true)),
            "there is no such head"
        );
        assert!(rule.reads(0) && !rule.reads(1));
    }

    #[test]
    fn thresholds_are_nats() {
        for wrong in [f32::NAN, f32::INFINITY, -0.1] {
            assert!(ExitRule::new(vec![None, Some(wrong)]).is_err());
        }
    }
}
