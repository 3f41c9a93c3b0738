//! The running services, and what they are asked with.

use super::{
    Amounts,
    cloze::{Cloze, ClozeReport},
    document::{Report, spread},
    early_exit::{self, EarlyExitRow},
    folder::Folder,
    material::Material,
    speculation::{
        Bench, Exits, LONGEST_DRAFT, Placement, Plan, Speculation, TEMPERATURES, placements,
    },
};
use crate::{
    bench::{
        pair::{Pair, PairSettings, Runs, Setting, pass_seconds, verifier},
        stages::Stages,
        subject::Subject,
    },
    client::Client,
    oracle::Truth,
};
use anyhow::{Result, ensure};
use dssd_common::tokenizer::Tokenizer;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::{path::Path, sync::Arc, time::Instant};

/// Interleaved samples of the passes that optima are computed from.
const PASS_ROUNDS: usize = 11;

/// What the services are started and asked with.
pub(super) struct Lab<'a> {
    pub(super) subject: &'a Subject,
    pub(super) tokenizer: Option<Arc<Tokenizer>>,
    pub(super) heads: &'a Path,
    pub(super) material: &'a Material,
    pub(super) amounts: &'a Amounts,
}

/// What the services told.
pub(super) struct Measured {
    pub(super) early_exit: Vec<EarlyExitRow>,
    pub(super) cloze: Option<ClozeReport>,
    pub(super) speculation: Vec<Speculation>,
    /// Seconds of passes of 1, 2, … rows.
    passes: Vec<f64>,
    /// Prompts of splits A and B.
    pub(super) splits: [usize; 2],
}

impl Lab<'_> {
    /// Measures everything that needs a server.
    ///
    /// # Errors
    /// If a service fails, or a speculated text differs from the plain one.
    pub(super) async fn measure(&self, folder: &Folder, cloze: Option<&Cloze>) -> Result<Measured> {
        let plan = self.plan(folder)?;
        let stages = Stages::new(2 + plan.split_b + plan.stages());
        let (early_exit, cloze) = self
            .early_exits(folder, cloze, plan.split_b, &stages)
            .await?;
        stages.begin("passes of the model alone");
        let passes = pass_seconds(self.subject, LONGEST_DRAFT as usize + 1, PASS_ROUNDS)?;
        let settings = PairSettings {
            heads: Some(self.heads.to_owned()),
            max_draft_tokens: Some(LONGEST_DRAFT),
            ..PairSettings::default()
        };
        stages.begin("starting the pair");
        let pair = Pair::start(self.subject, settings).await?;
        let mut runs = self.runs(pair.client()?).await?;
        let mut bench = Bench {
            runs: &mut runs,
            random: ChaCha8Rng::seed_from_u64(self.amounts.seed),
            passes: &passes,
            stages: &stages,
        };
        let mut speculation = Vec::new();
        for temperature in TEMPERATURES {
            speculation.push(plan.measure(&mut bench, temperature).await?);
        }
        pair.stop().await?;
        Ok(Measured {
            early_exit,
            cloze,
            speculation,
            passes,
            splits: [plan.split_a, plan.split_b],
        })
    }

    /// Prompts are dealt to the splits in proportion where there are fewer than wanted.
    fn plan(&self, folder: &Folder) -> Result<Plan> {
        let [a, b] = self.amounts.splits;
        let available = self.material.prompts.len();
        let split_a = a.min((available * a / (a + b)).max(1));
        let calibration = folder.calibration.as_ref();
        ensure!(available > split_a, "too few prompts for two splits");
        Ok(Plan {
            exits: Exits {
                layers: folder
                    .heads
                    .iter()
                    .map(|section| section.head.layer)
                    .collect(),
                epsilons: calibration.map_or(Vec::new(), |c| c.epsilons.clone()),
            },
            grid: self.amounts.grid,
            rounds: self.amounts.rounds,
            split_a,
            split_b: b.min(available - split_a),
            seed: self.amounts.seed,
        })
    }

    async fn runs(&self, client: Client) -> Result<Runs> {
        client.ready().await?;
        Ok(Runs {
            client,
            truth: Truth::default(),
            prompts: self.material.prompts.clone(),
            max_new_tokens: self.amounts.max_new_tokens,
            turns: 0,
        })
    }

    /// On a server of their own; the whole model alone where there is no calibration.
    async fn early_exits(
        &self,
        folder: &Folder,
        cloze: Option<&Cloze>,
        prompts: usize,
        stages: &Stages,
    ) -> Result<(Vec<EarlyExitRow>, Option<ClozeReport>)> {
        let service = verifier(self.subject, self.tokenizer.clone(), |config| {
            config.allow_lossy = true;
            config.heads = Some(self.heads.to_owned());
        });
        let service = service.await?;
        let mut runs = self.runs(Client::new(&[service.uri()?])).await?;
        runs.warm_up(&[Setting::plain(0.0)]).await?;
        let mut random = ChaCha8Rng::seed_from_u64(self.amounts.seed);
        let rows = early_exit::measure(&mut runs, folder, prompts, &mut random, stages).await?;
        let told = match cloze {
            Some(cloze) => {
                stages.begin("the cloze task");
                Some(
                    cloze
                        .ask(&runs.client, &early_exit::epsilons(folder))
                        .await?,
                )
            }
            None => None,
        };
        drop(runs);
        service.stop().await?;
        Ok((rows, told))
    }

    /// The report on all folders.
    ///
    /// # Errors
    /// If the model has no embedding.
    pub(super) fn report(
        &self,
        mut folders: Vec<Folder>,
        measured: Measured,
        quick: bool,
        begun: Instant,
    ) -> Result<Report> {
        let spread = spread(&folders);
        let heads = (folders.first_mut()).map(|folder| std::mem::take(&mut folder.heads));
        let placements = measured.placements(&folders);
        let mut report = Report {
            model: self.subject.name.clone(),
            layers: self.subject.checkpoint.config().layers,
            dtype: self.subject.type_name()?,
            threads: self.amounts.threads,
            quick,
            seed: self.amounts.seed,
            seconds: begun.elapsed().as_secs_f64(),
            text: self.material.line(measured.splits),
            max_new_tokens: self.amounts.max_new_tokens,
            heads: heads.unwrap_or_default(),
            early_exit: measured.early_exit,
            cloze: measured.cloze,
            policies: Vec::new(),
            layerskip_grid: Vec::new(),
            dssd_grid: Vec::new(),
            dssd_over_layerskip_acceptance: None,
            comparisons: Vec::new(),
            placements,
            folders,
            spread,
        };
        for told in measured.speculation {
            report.policies.extend(told.rows);
            report.layerskip_grid.extend(told.layerskip_grid);
            report.dssd_grid.extend(told.dssd_grid);
            report.comparisons.push(told.comparison);
        }
        let greedy = report
            .comparisons
            .iter()
            .find(|told| told.temperature == 0.0);
        let paper = greedy.and_then(|told| told.layerskip.as_ref());
        report.dssd_over_layerskip_acceptance = paper.map(|p| p.dssd_over_layerskip_acceptance);
        Ok(report)
    }
}

impl Measured {
    /// Greedy drafts from each head of the first folder.
    fn placements(&self, folders: &[Folder]) -> Vec<Placement> {
        let greedy = self
            .speculation
            .iter()
            .find(|told| told.comparison.temperature == 0.0);
        let both = folders.first().zip(greedy);
        both.map_or_else(Vec::new, |(folder, greedy)| {
            let plain_rate = greedy.comparison.plain_tokens_per_second;
            placements(
                &folder.continuations,
                &greedy.head_costs,
                plain_rate,
                &self.passes,
            )
        })
    }
}
