//! Every draft policy, measured through the running pair.

mod candidates;
mod comparison;
mod layerskip;
mod paired;
mod placement;
mod tuning;

pub(super) use candidates::{Exits, Grid};
pub(super) use comparison::{Comparison, Row};
pub(super) use layerskip::{Drafts, DssdRow, LayerSkip, LayerSkipRow, Side};
pub(super) use paired::Turns;
pub(super) use placement::{HeadCosts, Placement, placements};

use crate::bench::{
    pair::{Runs, Setting},
    stages::Stages,
};
use crate::client::Generated;
use candidates::Role;
use comparison::{Contender, Rounds, SplitB};
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use tuning::{Halving, Rung, Tuning};

/// Sampling temperatures that everything is measured at.
pub(super) const TEMPERATURES: [f32; 2] = [0.0, 1.0];
/// Longest draft that a policy of the grid asks for.
pub(super) const LONGEST_DRAFT: u32 = 15;

/// How much is measured.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) exits: Exits,
    pub(super) grid: Grid,
    pub(super) rounds: usize,
    /// Prompts of split A; those of split B follow.
    pub(super) split_a: usize,
    pub(super) split_b: usize,
    pub(super) seed: u64,
}

/// The running pair, and what its measurements need.
pub(super) struct Bench<'a> {
    pub(super) runs: &'a mut Runs,
    pub(super) random: ChaCha8Rng,
    /// Seconds of passes of 1, 2, … rows.
    pub(super) passes: &'a [f64],
    pub(super) stages: &'a Stages,
}

/// What one temperature told.
pub(super) struct Speculation {
    pub(super) rows: Vec<Row>,
    pub(super) layerskip_grid: Vec<LayerSkipRow>,
    pub(super) dssd_grid: Vec<DssdRow>,
    pub(super) comparison: Comparison,
    /// Of each head, where they could be told.
    pub(super) head_costs: Vec<Option<HeadCosts>>,
}

impl Plan {
    /// Stages of [`Plan::measure`], for the progress line.
    pub(super) fn stages(&self) -> usize {
        let rungs = self.halving().rungs.len();
        TEMPERATURES.len() * (2 * rungs + self.rounds)
    }

    /// Prompts of each round of split B.
    fn prompts_of_a_round(&self) -> usize {
        match self.grid {
            Grid::Whole => 4,
            Grid::Corners => 1,
        }
    }

    fn halving(&self) -> Halving {
        let rung = |prompts, survivors| Rung { prompts, survivors };
        Halving {
            rungs: match self.grid {
                Grid::Whole => vec![rung(6, 4), rung(8, 2), rung(10, 1)],
                Grid::Corners => vec![rung(1, 1)],
            },
        }
    }

    /// Tunes on split A and compares on split B.
    ///
    /// # Errors
    /// If a generation fails or differs from the plain one.
    pub(super) async fn measure(
        &self,
        bench: &mut Bench<'_>,
        temperature: f32,
    ) -> anyhow::Result<Speculation> {
        let settings = candidates::candidates(&self.exits, self.grid, temperature);
        let plain = [Setting::plain(temperature)];
        let all = [&plain, settings.as_slice()].concat();
        bench.runs.warm_up(&all).await?;
        let halving = self.halving();
        let tuning = Tuning::run(bench, &settings, &halving, self.split_a).await?;
        // The paper gives both sides the same longest draft.
        let layerskip = tuning.winner(Role::LayerSkip);
        let cap = layerskip.and_then(|runs| runs.setting.max_draft_tokens);
        let cap = cap.unwrap_or(candidates::CAP);
        let entropies = candidates::entropies(&self.exits, self.grid, cap, temperature);
        let dssd = Tuning::run(bench, &entropies, &halving, self.split_a).await?;
        let contenders: Vec<Contender> = (Role::TUNED.iter())
            .filter_map(|&role| Contender::tuned(role, &tuning))
            .chain(Contender::tuned(Role::Dssd, &dssd))
            .collect();
        let rounds = Rounds {
            rounds: self.rounds,
            prompts: self.prompts_of_a_round(),
            first: self.split_a,
            available: self.split_b,
        };
        let split = SplitB::run(bench, contenders, rounds, self.seed).await?;
        Ok(Speculation {
            rows: split.rows(bench.passes),
            layerskip_grid: layerskip::layerskip_grid(&tuning, &self.exits.layers),
            dssd_grid: layerskip::dssd_grid(&dssd),
            comparison: split.compare(&tuning, &dssd),
            head_costs: placement::head_costs(&tuning, self.exits.layers.len()),
        })
    }
}

impl Bench<'_> {
    /// A generation with each setting, in random order.
    async fn turn(
        &mut self,
        prompt: usize,
        settings: &[Setting],
    ) -> anyhow::Result<Vec<Generated>> {
        let mut order: Vec<usize> = (0..settings.len()).collect();
        order.shuffle(&mut self.random);
        self.runs.turn(prompt, settings, &order).await
    }
}
