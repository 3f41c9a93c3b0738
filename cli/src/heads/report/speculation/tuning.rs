//! Split A: which setting of each policy brings most tokens per second.

use super::{Bench, candidates::Role};
use crate::bench::pair::{Measured, PolicyRuns, Setting};

/// Successive halving (Karnin, Koren and Somekh 2013): every setting on a few prompts, the best of
/// each role on more.
#[derive(Clone, Debug)]
pub(super) struct Halving {
    /// For each rung, its prompts, and the settings of each role that go on to the next.
    pub(super) rungs: Vec<Rung>,
}

/// One rung.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rung {
    pub(super) prompts: usize,
    pub(super) survivors: usize,
}

/// What split A told.
pub(super) struct Tuning {
    /// One for each setting, each on the same prompts as far as it came.
    pub(super) tried: Vec<PolicyRuns>,
}

impl Tuning {
    /// Tries `settings`, which share a temperature, on the first `available` prompts.
    ///
    /// # Errors
    /// If a generation fails or differs from the plain one.
    pub(super) async fn run(
        bench: &mut Bench<'_>,
        settings: &[Setting],
        halving: &Halving,
        available: usize,
    ) -> anyhow::Result<Self> {
        let temperature = settings.first().map_or(0.0, |setting| setting.temperature);
        let plain = Setting::plain(temperature);
        let mut tuning = Self {
            tried: Measured::new(&[&[plain], settings].concat()).policies,
        };
        let mut left: Vec<usize> = (0..settings.len()).collect();
        let mut prompts = 0;
        for rung in &halving.rungs {
            bench.stages.begin(format!(
                "split A at temperature {temperature}: {} settings on {} prompts",
                left.len(),
                rung.prompts
            ));
            let chosen = left.iter().map(|&index| settings[index]);
            let all: Vec<Setting> = std::iter::once(plain).chain(chosen).collect();
            for prompt in prompts..prompts + rung.prompts {
                let turn = bench.turn(prompt % available, &all).await?;
                let mut measured = Measured::new(&all);
                measured.add(&turn);
                for (&index, runs) in left.iter().zip(measured.policies) {
                    tuning.tried[index].extend(runs);
                }
            }
            prompts += rung.prompts;
            left = tuning.survivors(&left, rung.survivors);
        }
        Ok(tuning)
    }

    /// The best `count` of each role among `left`.
    fn survivors(&self, left: &[usize], count: usize) -> Vec<usize> {
        let mut kept: Vec<usize> = (Role::TUNED.iter())
            .flat_map(|&role| self.best(role, left).into_iter().take(count))
            .collect();
        kept.sort_unstable();
        kept.dedup();
        kept
    }

    /// The settings of a role among `left`, fastest first.
    fn best(&self, role: Role, left: &[usize]) -> Vec<usize> {
        let admitted = |index: &&usize| role.admits(self.tried[**index].setting.policy);
        let mut best: Vec<usize> = left.iter().filter(admitted).copied().collect();
        best.sort_by(|&a, &b| self.rate(b).total_cmp(&self.rate(a)));
        best
    }

    fn rate(&self, index: usize) -> f64 {
        rate(&self.tried[index])
    }

    /// Generations that every setting had, on the same prompts.
    pub(super) fn common(&self) -> usize {
        let each = self.tried.iter().map(|runs| runs.rates.len());
        each.min().unwrap_or_default()
    }

    /// The setting that a role was tuned to: the fastest of those that were tried longest.
    pub(super) fn winner(&self, role: Role) -> Option<&PolicyRuns> {
        let of_role = || {
            let tried = self.tried.iter();
            tried.filter(|runs| role.admits(runs.setting.policy))
        };
        let most = of_role().map(|runs| runs.rates.len()).max()?;
        of_role()
            .filter(|runs| runs.rates.len() == most)
            .max_by(|a, b| rate(a).total_cmp(&rate(b)))
    }
}

/// Tokens per second over all generations: they have equally many tokens, so the harmonic mean.
pub(super) fn rate(runs: &PolicyRuns) -> f64 {
    let seconds: f64 = runs.rates.iter().map(|rate| 1.0 / rate).sum();
    runs.rates.len() as f64 / seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(policy: &str, rates: &[f64]) -> PolicyRuns {
        PolicyRuns {
            setting: Setting::greedy(policy.parse().unwrap()),
            rates: rates.to_vec(),
            plain_rates: vec![1.0; rates.len()],
            generations: Vec::new(),
        }
    }

    #[test]
    fn each_role_keeps_its_fastest_and_the_last_left_win() {
        let tuning = Tuning {
            tried: vec![
                tried("fixed:0:2", &[90.0, 110.0]),
                tried("fixed:0:5", &[50.0, 50.0]),
                tried("fixed:1:5", &[60.0]),
                tried("fixed:1:2", &[400.0]),
                tried("del", &[10.0]),
            ],
        };
        // LayerSkip keeps one of its own, however slow it is among all fixed lengths.
        assert_eq!(tuning.survivors(&[0, 1, 2, 3, 4], 1), [2, 3, 4]);
        assert_eq!(tuning.survivors(&[0, 1, 4], 1), [0, 1, 4]);
        // One lucky prompt does not beat a setting that was tried on more.
        let winner = |role| tuning.winner(role).unwrap().setting.policy.to_string();
        assert_eq!(winner(Role::Fixed), "fixed:0:2");
        assert_eq!(winner(Role::LayerSkip), "fixed:0:5");
        assert!(tuning.winner(Role::Entropy).is_none());
        // Twice as fast and half as fast on equally many tokens: 2 / (1/90 + 1/110).
        assert!((rate(&tuning.tried[0]) - 99.0).abs() < 1e-9);
    }
}
