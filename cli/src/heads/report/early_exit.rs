//! Lossy early exits through a running verify-svc, one row for each target agreement.

use super::{
    folder::{ExitSection, Folder},
    speculation::Turns,
};
use crate::{
    bench::{
        pair::{Runs, Setting},
        stages::Stages,
        timing::median,
    },
    client::Generated,
};
use anyhow::{Context as _, Result};
use dssd_heads::interval::Estimate;
use dssd_proto::v1::{self, GenerateRequest, Speculation, SpeculationMode};
use rand::{Rng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// A row of `early_exit`. What is not said to be measured on the text is of greedy generations,
/// or of the model's own continuations.
#[derive(Serialize)]
pub(super) struct EarlyExitRow {
    pub(super) epsilon: f64,
    /// Share of the positions of the model's continuations with the whole model's token.
    pub(super) agreement: f64,
    pub(super) agreement_low: f64,
    pub(super) agreement_high: f64,
    pub(super) agreement_on_text: f64,
    /// On the text, over the whole model.
    pub(super) perplexity_ratio: f64,
    /// Mean layers before the exit.
    pub(super) exit_depth: f64,
    /// Those filled late included.
    pub(super) layers_per_token: f64,
    /// What the heads that were asked cost, in layers for each token.
    pub(super) heads_in_layers: f64,
    /// Share of the skipped layers that were never computed.
    pub(super) never_filled: f64,
    /// Median over prompts of tokens per second over those of plain decoding.
    pub(super) speedup: f64,
    pub(super) speedup_low: f64,
    pub(super) speedup_high: f64,
    pub(super) tokens_per_second: f64,
}

/// The speculation that leaves early for a target.
pub(super) fn early_exit(epsilon: f64) -> Speculation {
    Speculation {
        mode: SpeculationMode::EarlyExit.into(),
        target_agreement: Some(epsilon as f32),
        ..Speculation::default()
    }
}

/// Generates `prompts` prompts of `runs` plainly and at every target, in random order.
///
/// # Errors
/// If a generation fails.
pub(super) async fn measure(
    runs: &mut Runs,
    folder: &Folder,
    prompts: usize,
    random: &mut ChaCha8Rng,
    stages: &Stages,
) -> Result<Vec<EarlyExitRow>> {
    let targets: Vec<f64> = epsilons(folder);
    let mut generations: Vec<Vec<Generated>> = Vec::new();
    for prompt in 0..prompts {
        stages.begin(format!("early exits, prompt {} of {prompts}", prompt + 1));
        let plain = runs.request(prompt, &Setting::plain(0.0));
        let at_target = |&epsilon: &f64| GenerateRequest {
            speculation: Some(early_exit(epsilon)),
            ..plain.clone()
        };
        let others = targets.iter().map(at_target);
        let mut requests: Vec<_> = std::iter::once(plain.clone())
            .chain(others)
            .enumerate()
            .collect();
        requests.shuffle(random);
        let mut turn = Vec::with_capacity(requests.len());
        for (index, request) in requests {
            turn.push((index, runs.client.generate(request, &mut |_| ()).await?));
        }
        turn.sort_by_key(|(index, _)| *index);
        generations.push(turn.into_iter().map(|(_, generated)| generated).collect());
    }
    let turns = Turns {
        prompts: (0..prompts).collect(),
        seed: random.random(),
    };
    let rows = folder.early_exit.iter().enumerate();
    rows.map(|(index, section)| {
        let plain = rates(&generations, 0);
        let rates = rates(&generations, index + 1);
        let speedup = turns.median_ratio(&rates, &plain);
        let speedup = speedup.context("no prompt to leave early on")?;
        let account = Account::of(generations.iter().filter_map(|turn| turn.get(index + 1)));
        Ok(row(section, account, speedup, median(&rates)))
    })
    .collect()
}

/// The targets of a folder's calibration.
pub(super) fn epsilons(folder: &Folder) -> Vec<f64> {
    let sections = folder.early_exit.iter();
    sections.map(|section| section.on_text.epsilon).collect()
}

fn rates(generations: &[Vec<Generated>], index: usize) -> Vec<f64> {
    let of_turn = |turn: &Vec<Generated>| turn.get(index).map(|g| g.tokens_per_second);
    generations.iter().filter_map(of_turn).collect()
}

fn row(
    section: &ExitSection,
    account: Account,
    speedup: Estimate,
    tokens_per_second: f64,
) -> EarlyExitRow {
    let ExitSection {
        on_continuations,
        on_text,
        heads_in_layers,
    } = section;
    EarlyExitRow {
        epsilon: on_text.epsilon,
        agreement: on_continuations.agreement,
        agreement_low: on_continuations.agreement_low,
        agreement_high: on_continuations.agreement_high,
        agreement_on_text: on_text.agreement,
        perplexity_ratio: on_text.perplexity_ratio,
        exit_depth: account.depth / account.tokens,
        layers_per_token: account.computed / account.tokens,
        heads_in_layers: *heads_in_layers,
        never_filled: account.never_filled / account.weight.max(1.0),
        speedup: speedup.value,
        speedup_low: speedup.low,
        speedup_high: speedup.high,
        tokens_per_second,
    }
}

/// Sums over generations, of what each tells as means over its tokens.
#[derive(Default)]
struct Account {
    tokens: f64,
    /// Layers before the exits.
    depth: f64,
    /// Layers computed.
    computed: f64,
    /// Shares never filled, weighted by tokens that skipped anything.
    never_filled: f64,
    weight: f64,
}

impl Account {
    fn of<'a>(generations: impl Iterator<Item = &'a Generated>) -> Self {
        let reports = generations.filter_map(|generated| generated.finish.early_exit.as_ref());
        reports.fold(Self::default(), |sum, report: &v1::EarlyExit| {
            let left: u64 = report.exit_heads.iter().map(|head| head.count).sum();
            let tokens = (left + report.whole_model_tokens) as f64;
            Self {
                tokens: sum.tokens + tokens,
                depth: sum.depth + report.exit_depth * tokens,
                computed: sum.computed + report.layers_per_token * tokens,
                never_filled: sum.never_filled + report.never_filled * left as f64,
                weight: sum.weight + left as f64,
            }
        })
    }
}
