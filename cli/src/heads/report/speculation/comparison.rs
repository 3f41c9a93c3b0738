//! Split B: what was chosen on split A, `auto` and plain decoding, in turn and in random order.

use super::{
    Bench,
    candidates::Role,
    layerskip::LayerSkip,
    paired::Turns,
    tuning::{Tuning, rate},
};
use crate::bench::{
    pair::{Measured, PolicyReport, PolicyRuns, Setting},
    timing::median,
};
use dssd_heads::interval::Estimate;
use serde::Serialize;

/// What `auto` must reach against the best other policy: as fast, and surely hardly slower.
const LEAST_LOW: f64 = 0.97;

/// How split B is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    pub(super) rounds: usize,
    /// Of each round.
    pub(super) prompts: usize,
    /// The first prompt of split B, and how many there are.
    pub(super) first: usize,
    pub(super) available: usize,
}

/// One policy at its setting of split A.
pub(super) struct Contender {
    pub(super) role: Role,
    pub(super) setting: Setting,
    /// Tokens per second on split A.
    pub(super) tuned_rate: f64,
}

/// What split B told.
pub(super) struct SplitB {
    pub(super) contenders: Vec<Contender>,
    pub(super) measured: Measured,
    pub(super) turns: Turns,
}

/// A row of `policies`.
#[derive(Serialize)]
pub(in crate::heads::report) struct Row {
    #[serde(flatten)]
    pub(in crate::heads::report) report: PolicyReport,
    pub(in crate::heads::report) settings: String,
    pub(in crate::heads::report) max_draft_tokens: Option<u32>,
    pub(in crate::heads::report) temperature: f32,
    /// Tokens per second over those of plain decoding, with its interval over prompts.
    pub(in crate::heads::report) speedup_interval: Option<Estimate>,
    /// Tokens per second on split A, where the setting was chosen.
    pub(in crate::heads::report) tuned_tokens_per_second: f64,
}

/// `auto` beside everything else, at one temperature.
#[derive(Serialize)]
pub(in crate::heads::report) struct Comparison {
    pub(in crate::heads::report) temperature: f32,
    pub(in crate::heads::report) generations: usize,
    pub(in crate::heads::report) plain_tokens_per_second: f64,
    /// `auto` over each other policy, tokens per second.
    pub(in crate::heads::report) auto_over: Vec<AutoOver>,
    /// The same over whichever policy was fastest on split A.
    pub(in crate::heads::report) auto_over_best: Option<AutoOver>,
    /// At least as fast as that one, with the interval's lower end at 0.97 or above.
    pub(in crate::heads::report) met: bool,
    /// `auto` over the fastest run of each turn, plain ones included: what an oracle that knows
    /// every outcome would choose.
    pub(in crate::heads::report) auto_over_oracle: Option<Estimate>,
    pub(in crate::heads::report) layerskip: Option<LayerSkip>,
}

/// `auto` over another policy.
#[derive(Clone, Serialize)]
pub(in crate::heads::report) struct AutoOver {
    pub(in crate::heads::report) policy: &'static str,
    pub(in crate::heads::report) settings: String,
    #[serde(flatten)]
    pub(in crate::heads::report) ratio: Estimate,
}

impl SplitB {
    /// Runs the winners of split A, which share a temperature.
    ///
    /// # Errors
    /// If a generation fails or differs from the plain one.
    pub(super) async fn run(
        bench: &mut Bench<'_>,
        contenders: Vec<Contender>,
        rounds: Rounds,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let temperature = contenders.first().map_or(0.0, |c| c.setting.temperature);
        let chosen = contenders.iter().map(|contender| contender.setting);
        let settings: Vec<Setting> = std::iter::once(Setting::plain(temperature))
            .chain(chosen)
            .collect();
        let mut measured = Measured::new(&settings);
        let mut prompts = Vec::new();
        for round in 0..rounds.rounds {
            bench.stages.begin(format!(
                "split B at temperature {temperature}: round {} of {}",
                round + 1,
                rounds.rounds
            ));
            for prompt in 0..rounds.prompts {
                let prompt = (round * rounds.prompts + prompt) % rounds.available;
                measured.add(&bench.turn(rounds.first + prompt, &settings).await?);
                prompts.push(prompt);
            }
        }
        Ok(Self {
            contenders,
            measured,
            turns: Turns { prompts, seed },
        })
    }

    pub(super) fn runs(&self, role: Role) -> Option<&PolicyRuns> {
        let index = self.contenders.iter().position(|c| c.role == role)?;
        self.measured.policies.get(index)
    }

    /// One row for each policy.
    pub(super) fn rows(&self, passes: &[f64]) -> Vec<Row> {
        let plain_rate = median(&self.measured.plain_rates);
        let both = self.contenders.iter().zip(&self.measured.policies);
        both.map(|(contender, runs)| {
            let mut report = PolicyReport::new(runs, passes, plain_rate);
            report.policy = contender.role.name().to_owned();
            Row {
                report,
                settings: runs.setting.policy.to_string(),
                max_draft_tokens: runs.setting.max_draft_tokens,
                temperature: runs.setting.temperature,
                speedup_interval: self.turns.median_ratio(&runs.rates, &runs.plain_rates),
                tuned_tokens_per_second: contender.tuned_rate,
            }
        })
        .collect()
    }

    /// The comparisons that this split is run for; `tuning` and `dssd` are those of split A.
    pub(super) fn compare(&self, tuning: &Tuning, dssd: &Tuning) -> Comparison {
        let others = || {
            let contenders = self.contenders.iter().zip(&self.measured.policies);
            contenders.filter(|(contender, _)| contender.role != Role::Auto)
        };
        let best = others().max_by(|a, b| a.0.tuned_rate.total_cmp(&b.0.tuned_rate));
        let over = |(contender, runs)| self.auto_over(contender, runs);
        let auto_over_best = best.and_then(over);
        let met = |over: &AutoOver| over.ratio.value >= 1.0 && over.ratio.low >= LEAST_LOW;
        Comparison {
            temperature: self
                .contenders
                .first()
                .map_or(0.0, |c| c.setting.temperature),
            generations: self.turns.prompts.len(),
            plain_tokens_per_second: median(&self.measured.plain_rates),
            auto_over: others().filter_map(over).collect(),
            met: auto_over_best.as_ref().is_some_and(met),
            auto_over_best,
            auto_over_oracle: self.over_oracle(),
            layerskip: LayerSkip::new(self, tuning, dssd),
        }
    }

    fn auto_over(&self, contender: &Contender, runs: &PolicyRuns) -> Option<AutoOver> {
        let auto = self.runs(Role::Auto)?;
        Some(AutoOver {
            policy: contender.role.name(),
            settings: runs.setting.policy.to_string(),
            ratio: self.turns.median_ratio(&auto.rates, &runs.rates)?,
        })
    }

    fn over_oracle(&self) -> Option<Estimate> {
        let auto = self.runs(Role::Auto)?;
        let fastest: Vec<f64> = (self.measured.plain_rates.iter().enumerate())
            .map(|(turn, &plain)| {
                let rates = self.measured.policies.iter();
                let rates = rates.filter_map(|runs| runs.rates.get(turn).copied());
                rates.fold(plain, f64::max)
            })
            .collect();
        self.turns.median_ratio(&auto.rates, &fastest)
    }
}

impl Contender {
    /// What a role was tuned to.
    pub(super) fn tuned(role: Role, tuning: &Tuning) -> Option<Self> {
        let winner = tuning.winner(role)?;
        Some(Self {
            role,
            setting: winner.setting,
            tuned_rate: rate(winner),
        })
    }
}
