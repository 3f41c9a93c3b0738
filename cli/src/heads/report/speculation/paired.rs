//! Ratios of runs that were taken side by side, with intervals over prompts.

use crate::bench::pair::{PolicyRuns, Totals};
use dssd_heads::interval::{self, Estimate};

/// Which prompt, from 0 without gaps, each turn ran.
#[derive(Clone, Debug)]
pub(in crate::heads::report) struct Turns {
    pub(in crate::heads::report) prompts: Vec<usize>,
    pub(in crate::heads::report) seed: u64,
}

impl Turns {
    fn bootstrap(&self, statistic: impl Fn(&[u32]) -> Option<f64>) -> Option<Estimate> {
        let count = self.prompts.iter().max().map_or(0, |most| most + 1);
        interval::bootstrap(count, self.seed, statistic)
    }

    /// The median of `numerators` over `denominators`, turn by turn.
    pub(in crate::heads::report) fn median_ratio(
        &self,
        numerators: &[f64],
        denominators: &[f64],
    ) -> Option<Estimate> {
        let ratios = numerators.iter().zip(denominators).map(|(n, d)| n / d);
        let mut ratios: Vec<(f64, usize)> = ratios.zip(self.prompts.iter().copied()).collect();
        ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.bootstrap(|counts| weighted_median(&ratios, counts))
    }

    /// The acceptance rate of one policy over that of another.
    pub(super) fn acceptance_ratio(&self, of: &PolicyRuns, over: &PolicyRuns) -> Option<Estimate> {
        self.bootstrap(|counts| {
            let ratio =
                acceptance(&self.weighted(of, counts))? / acceptance(&self.weighted(over, counts))?;
            ratio.is_finite().then_some(ratio)
        })
    }

    fn weighted(&self, runs: &PolicyRuns, counts: &[u32]) -> Totals {
        let turns = runs.generations.iter().zip(&self.prompts);
        let copies = turns
            .flat_map(|(totals, &prompt)| std::iter::repeat_n(*totals, counts[prompt] as usize));
        copies.sum()
    }
}

/// Accepted / drafted; none where nothing was drafted.
pub(super) fn acceptance(totals: &Totals) -> Option<f64> {
    (totals.drafted > 0).then(|| totals.accepted as f64 / totals.drafted as f64)
}

/// 1 + accepted per draft; none where nothing was drafted.
pub(super) fn mean_acceptance_length(totals: &Totals) -> Option<f64> {
    (totals.drafts > 0).then(|| 1.0 + totals.accepted as f64 / totals.drafts as f64)
}

/// The middle of ascending values, each there as often as its prompt counts.
fn weighted_median(values: &[(f64, usize)], counts: &[u32]) -> Option<f64> {
    let weight = |&(_, prompt): &(f64, usize)| u64::from(counts[prompt]);
    let all: u64 = values.iter().map(weight).sum();
    let at = |rank: u64| {
        let mut before = 0;
        let found = values.iter().find(|value| {
            before += weight(value);
            before > rank
        });
        found.map(|value| value.0)
    };
    Some((at(all.checked_sub(1)? / 2)? + at(all / 2)?) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{pair::Setting, timing::median};

    fn runs(counts: &[(u64, u64)]) -> PolicyRuns {
        let totals = |&(drafted, accepted): &(u64, u64)| Totals {
            drafts: 1,
            drafted,
            accepted,
            ..Totals::default()
        };
        PolicyRuns {
            setting: Setting::greedy("del".parse().unwrap()),
            rates: Vec::new(),
            plain_rates: Vec::new(),
            generations: counts.iter().map(totals).collect(),
        }
    }

    #[test]
    fn a_weighted_median_is_that_of_copies() {
        let values = [(1.0, 0), (2.0, 1), (3.0, 0), (8.0, 2)];
        for counts in [[1, 1, 1], [0, 3, 1], [2, 0, 1], [0, 0, 2], [3, 2, 1]] {
            let copies: Vec<f64> = values
                .iter()
                .flat_map(|&(value, prompt)| vec![value; counts[prompt] as usize])
                .collect();
            let found = weighted_median(&values, &counts).unwrap();
            assert_eq!(found, median(&copies), "{counts:?}");
        }
        assert_eq!(weighted_median(&values, &[0; 3]), None);
    }

    #[test]
    fn acceptance_is_that_of_all_tokens_and_not_a_mean_over_generations() {
        let turns = Turns {
            prompts: vec![0, 1, 2],
            seed: 1,
        };
        // 30 of 40 over 20 of 40.
        let ratio = turns.acceptance_ratio(
            &runs(&[(10, 10), (20, 10), (10, 10)]),
            &runs(&[(30, 10), (5, 5), (5, 5)]),
        );
        let ratio = ratio.unwrap();
        assert!((ratio.value - 1.5).abs() < 1e-12, "{ratio:?}");
        assert!(ratio.low <= 1.5 && ratio.high >= 1.5, "{ratio:?}");
        let none = runs(&[(0, 0), (0, 0), (0, 0)]);
        assert!(turns.acceptance_ratio(&none, &none).is_none());
    }
}
