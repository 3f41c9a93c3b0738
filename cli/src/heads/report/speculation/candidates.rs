//! Every policy with every setting that it is tried with.

use crate::bench::pair::Setting;
use dssd_common::policy::PolicySpec;
use serde::Serialize;

/// Longest draft of every policy that ends its drafts itself.
pub(super) const CAP: u32 = 10;
/// Draft lengths of `fixed`.
const LENGTHS: [u32; 9] = [1, 2, 3, 4, 5, 6, 8, 10, 15];
/// Those that the paper compares with.
const LAYERSKIP_LENGTHS: [u32; 3] = [5, 10, 15];
const MAX_PROBABILITIES: [f32; 3] = [0.4, 0.6, 0.8];
const PRODUCTS: [f64; 3] = [0.3, 0.5, 0.7];

/// What is tuned, each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::heads::report) enum Role {
    Fixed,
    /// `fixed` with the lengths that the paper compares with.
    LayerSkip,
    MaxProb,
    AdaEdl,
    Product,
    Del,
    Entropy,
    /// `entropy` with the longest draft that LayerSkip was tuned to.
    Dssd,
    Auto,
}

impl Role {
    /// The roles that are tuned side by side.
    pub(super) const TUNED: [Self; 8] = [
        Self::Fixed,
        Self::LayerSkip,
        Self::MaxProb,
        Self::AdaEdl,
        Self::Product,
        Self::Del,
        Self::Entropy,
        Self::Auto,
    ];

    /// The name that people read.
    pub(in crate::heads::report) fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::LayerSkip => "layerskip",
            Self::MaxProb => "max-prob",
            Self::AdaEdl => "adaedl",
            Self::Product => "product",
            Self::Del => "del",
            Self::Entropy => "entropy",
            Self::Dssd => "dssd",
            Self::Auto => "auto",
        }
    }

    /// Whether a setting may play this role.
    pub(super) fn admits(self, policy: PolicySpec) -> bool {
        match (self, policy) {
            (Self::LayerSkip, PolicySpec::Fixed { tokens, .. }) => LAYERSKIP_LENGTHS
                .iter()
                .any(|&length| length as usize == tokens),
            (Self::Fixed, PolicySpec::Fixed { .. })
            | (Self::MaxProb, PolicySpec::MaxProbability { .. })
            | (Self::AdaEdl, PolicySpec::AdaEdl { .. })
            | (Self::Product, PolicySpec::Product { .. })
            | (Self::Del, PolicySpec::Del)
            | (Self::Entropy | Self::Dssd, PolicySpec::Agreement { .. })
            | (Self::Auto, PolicySpec::Auto) => true,
            _ => false,
        }
    }
}

/// What the heads allow to be tried.
#[derive(Clone, Debug)]
pub(in crate::heads::report) struct Exits {
    /// Layers of the heads.
    pub(in crate::heads::report) layers: Vec<usize>,
    /// Target agreements of the calibration; none without one.
    pub(in crate::heads::report) epsilons: Vec<f64>,
}

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::heads::report) enum Grid {
    Whole,
    /// The corners of each grid, to see that everything works.
    Corners,
}

impl Grid {
    fn of<T: Copy>(self, values: &[T]) -> Vec<T> {
        match (self, values) {
            (Self::Corners, [first, .., last]) => vec![*first, *last],
            _ => values.to_vec(),
        }
    }
}

/// Every setting that is tried, at one temperature; those that need a calibration only with one.
pub(super) fn candidates(exits: &Exits, grid: Grid, temperature: f32) -> Vec<Setting> {
    let calibrated = !exits.epsilons.is_empty();
    let mut all = Vec::new();
    for head in grid.of(&(0..exits.layers.len()).collect::<Vec<_>>()) {
        let lengths = match grid {
            Grid::Whole => LENGTHS.to_vec(),
            Grid::Corners => vec![LENGTHS[0], LAYERSKIP_LENGTHS[0], LAYERSKIP_LENGTHS[1]],
        };
        all.extend(lengths.into_iter().map(|tokens| {
            let policy = PolicySpec::Fixed {
                head,
                tokens: tokens as usize,
            };
            (policy, tokens)
        }));
        let mut own = Vec::new();
        for keep in [false, true] {
            let least = grid.of(&MAX_PROBABILITIES).into_iter();
            own.extend(least.map(|least| PolicySpec::MaxProbability { head, least, keep }));
            own.push(PolicySpec::AdaEdl { head, keep });
        }
        let least = grid.of(&PRODUCTS).into_iter().filter(|_| calibrated);
        own.extend(least.map(|least| PolicySpec::Product { head, least }));
        all.extend(own.into_iter().map(|policy| (policy, CAP)));
    }
    all.extend([PolicySpec::Del, PolicySpec::Auto].map(|policy| (policy, CAP)));
    let settings = all.into_iter().map(|(policy, cap)| Setting {
        policy,
        max_draft_tokens: Some(cap),
        temperature,
    });
    settings
        .chain(entropies(exits, grid, CAP, temperature))
        .collect()
}

/// DSSD at every calibrated target, with drafts up to `cap` tokens.
pub(super) fn entropies(exits: &Exits, grid: Grid, cap: u32, temperature: f32) -> Vec<Setting> {
    let setting = |epsilon| Setting {
        policy: PolicySpec::Agreement { epsilon },
        max_draft_tokens: Some(cap),
        temperature,
    };
    grid.of(&exits.epsilons).into_iter().map(setting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exits(epsilons: &[f64]) -> Exits {
        Exits {
            layers: vec![2, 4, 7, 9],
            epsilons: epsilons.to_vec(),
        }
    }

    #[test]
    fn the_grids_are_those_of_the_method() {
        let all = candidates(&exits(&[0.8, 0.9]), Grid::Whole, 1.0);
        let count = |role: Role| all.iter().filter(|s| role.admits(s.policy)).count();
        assert_eq!(count(Role::Fixed), 4 * 9);
        assert_eq!(count(Role::LayerSkip), 4 * 3);
        assert_eq!(count(Role::MaxProb), 4 * 3 * 2);
        assert_eq!(count(Role::AdaEdl), 4 * 2);
        assert_eq!(count(Role::Product), 4 * 3);
        assert_eq!(count(Role::Entropy), 2);
        assert_eq!((count(Role::Del), count(Role::Auto)), (1, 1));
        assert!(all.iter().all(|setting| setting.temperature == 1.0));
    }

    #[test]
    fn without_a_calibration_nothing_is_tried_that_needs_one() {
        let all = candidates(&exits(&[]), Grid::Whole, 0.0);
        let needs = |setting: &&Setting| {
            [Role::Product, Role::Entropy]
                .iter()
                .any(|role| role.admits(setting.policy))
        };
        assert_eq!(all.iter().filter(needs).count(), 0);
        assert!(
            all.iter()
                .any(|setting| Role::MaxProb.admits(setting.policy))
        );
    }
}
