//! `dssd bench pair`: both services at work over gRPC, plain decoding and every policy in one run.

mod costs;
mod drafter;
mod report;
mod round_trip;
mod runs;

use super::{
    Output,
    passes::Passes,
    stages::Stages,
    subject::{Subject, SubjectArgs},
    timing::median,
};
use crate::{
    client::Client,
    oracle::{Oracle, OracleSettings, Truth},
    pair::{self, Service, share},
};
use costs::Costs;
use drafter::WorkingDrafter;
use dssd_common::{
    checkpoint::demo, exit, kernels::Kernels, policy::PolicySpec, serve::WorkAhead,
    tokenizer::Tokenizer,
};
pub(crate) use report::PolicyReport;
use report::Report;
pub(crate) use runs::{Measured, PolicyRuns, Runs, Setting, Totals};
use std::{path::PathBuf, sync::Arc};

/// Exit heads where no trained ones are, as in draft-svc.
const EXITS: usize = 4;
/// Most rows of those passes.
const ROWS: usize = 8;
const ORACLE_SEED: u64 = 7;
/// What is tried on a real model when nothing is said.
const POLICIES: [&str; 6] = [
    "auto",
    "fixed:0:2",
    "fixed:0:4",
    "fixed:1:3",
    "entropy:1",
    "entropy:2",
];

/// Measure the running pair: plain decoding and every policy, in turn.
///
/// With --shape the weights are random, and an oracle drafter does the true work of drafting at
/// the first exit but proposes the right token with the probability --acceptance.
///
/// Example: dssd bench pair --shape pythia-410m --acceptance 0.85
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Probability that a token of the oracle drafter is right.
    #[arg(long, value_name = "A", requires = "shape", default_value_if("shape", clap::builder::ArgPredicate::IsPresent, "0.85"), value_parser = probability)]
    acceptance: Option<f64>,
    /// A policy to measure, such as fixed:0:4; may be given several times [default: some].
    #[arg(long, value_name = "POLICY")]
    policy: Vec<PolicySpec>,
    /// Continue random tokens instead of openings of stories: little can be foretold of what follows.
    #[arg(long)]
    random_prompts: bool,
    /// Whether the drafter drafts on while the verifier runs: on, off, or auto, which on one machine is off.
    #[arg(long, default_value_t = WorkAhead::Auto, conflicts_with = "shape")]
    work_ahead: WorkAhead,
    /// Tokens of each generation.
    #[arg(long, value_name = "N", default_value_t = 96, value_parser = clap::value_parser!(u32).range(2..))]
    max_new_tokens: u32,
    /// Generations with each policy.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    #[command(flatten)]
    output: Output,
}

fn probability(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let fits = (0.0..=1.0).contains(&value);
    fits.then_some(value)
        .ok_or_else(|| "must be from 0 to 1".to_owned())
}

/// Runs the measurements and tells them.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let default = match args.acceptance {
        Some(_) => {
            check_policies(&args.policy)?;
            None
        }
        None => Some(demo::folder()?),
    };
    let stages = Stages::new(3 + usize::from(args.rounds));
    stages.begin("passes of the model alone");
    let subject = args.subject.open(default)?;
    let rounds = usize::from(args.rounds);
    let passes = pass_seconds(&subject, ROWS, 2 * rounds + 1)?;
    stages.begin("round trips without a model");
    let round_trip_seconds = round_trip::measure().await?;
    stages.begin("starting the pair");
    let truth = Truth::default();
    let settings = PairSettings {
        oracle: (args.acceptance).map(|acceptance| (acceptance, truth.clone())),
        work_ahead: Some(args.work_ahead),
        ..PairSettings::default()
    };
    let pair = Pair::start(&subject, settings).await?;
    let policies = match args.policy.as_slice() {
        [] => default_policies(&subject, args.acceptance, &passes)?,
        given => given.to_vec(),
    };
    let mut runs = Runs {
        client: pair.client()?,
        truth,
        prompts: match pair.tokenizer.is_some() && !args.random_prompts {
            true => runs::openings(),
            false => runs::random_prompts(&subject),
        },
        max_new_tokens: args.max_new_tokens,
        turns: 0,
    };
    let measured = runs.measure(&policies, rounds, &stages).await?;
    drop(stages);
    pair.stop().await?;
    let plain_tokens_per_second = median(&measured.plain_rates);
    let report = Report {
        dtype: subject.type_name()?,
        computer: subject.computer()?,
        acceptance: args.acceptance,
        round_trip_seconds,
        plain_tokens_per_second,
        policies: (measured.policies.iter())
            .map(|runs| PolicyReport::new(runs, &passes, plain_tokens_per_second))
            .collect(),
        shape: subject.name,
    };
    args.output.print(&report)
}

/// Seconds of passes of 1, 2, … `rows` rows, while no service is running: medians of so many rounds.
///
/// # Errors
/// If a tensor is unfit, or the device fails.
pub(crate) fn pass_seconds(
    subject: &Subject,
    rows: usize,
    rounds: usize,
) -> anyhow::Result<Vec<f64>> {
    let rows = Passes::new(subject, 1)?.rows(rows, rounds)?;
    Ok(rows.iter().map(|report| report.seconds).collect())
}

/// What an oracle drafter can do.
fn check_policies(policies: &[PolicySpec]) -> anyhow::Result<()> {
    let fits = |policy: &PolicySpec| matches!(policy, PolicySpec::Fixed { head: 0, .. });
    match policies.iter().find(|policy| !fits(policy)) {
        Some(policy) => anyhow::bail!("--policy {policy}: with --shape only fixed:0:TOKENS"),
        None => Ok(()),
    }
}

/// With an oracle, the draft length that the costs make best, and its neighbours.
fn default_policies(
    subject: &Subject,
    acceptance: Option<f64>,
    passes: &[f64],
) -> anyhow::Result<Vec<PolicySpec>> {
    let Some(acceptance) = acceptance else {
        return Ok(POLICIES
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_, _>>()?);
    };
    let share = drafter::share_of_a_pass(subject)?;
    let costs = Costs {
        plain: passes[0],
        draft: share * passes[0],
        wire: 0.0,
        passes,
    };
    let (best, _) = costs.optimum(acceptance);
    let lengths = best.saturating_sub(1).max(1)..=best + 1;
    Ok(lengths
        .map(|tokens| PolicySpec::Fixed { head: 0, tokens })
        .collect())
}

/// The two services.
pub(crate) struct Pair {
    drafter: Service,
    verifier: Service,
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
}

/// What a pair has beside its model.
#[derive(Default)]
pub(crate) struct PairSettings {
    /// An oracle in place of the drafter: probability that a token is right, and what it knows.
    pub(crate) oracle: Option<(f64, Truth)>,
    /// Trained heads; those in the model's folder if unset.
    pub(crate) heads: Option<PathBuf>,
    /// Longest draft of both services; their defaults if unset.
    pub(crate) max_draft_tokens: Option<u32>,
    /// Whether the drafter works ahead; its default if unset. An oracle never does.
    pub(crate) work_ahead: Option<WorkAhead>,
}

impl Pair {
    pub(crate) async fn start(subject: &Subject, settings: PairSettings) -> anyhow::Result<Self> {
        let tokenizer = match subject.checkpoint.dir() {
            Some(dir) => Tokenizer::open(dir)?.map(Arc::new),
            None => None,
        };
        let longest = settings.max_draft_tokens;
        let drafter = match settings.oracle {
            Some((acceptance, truth)) => {
                let settings = OracleSettings {
                    acceptance,
                    seed: ORACLE_SEED,
                };
                let kernels = Arc::new(Kernels::new(subject.kernels.threads()));
                let drafter = WorkingDrafter::load(subject, kernels, Oracle::new(truth, settings))?;
                pair::own_drafter(drafter).await?
            }
            None => drafter(subject, tokenizer.clone(), settings).await?,
        };
        let drafts = vec![drafter.uri()?];
        let verifier = verifier(subject, tokenizer.clone(), |config| {
            config.drafts = drafts;
            config.serve.max_draft_tokens = longest.unwrap_or(config.serve.max_draft_tokens);
        });
        let verifier = verifier.await?;
        Ok(Self {
            drafter,
            verifier,
            tokenizer,
        })
    }

    /// A client of the verifier.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(&[self.verifier.uri()?]))
    }

    /// Stops both.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.verifier.stop().await?;
        self.drafter.stop().await
    }
}

async fn drafter(
    subject: &Subject,
    tokenizer: Option<Arc<Tokenizer>>,
    settings: PairSettings,
) -> anyhow::Result<Service> {
    let mut config = draft_svc::Config::for_model(subject.folder());
    config.heads = settings.heads;
    share(&mut config.serve, subject.device);
    config.serve.threads = Some(subject.kernels.threads());
    config.serve.dtype = subject.dtype;
    config.work_ahead = settings.work_ahead.unwrap_or(config.work_ahead);
    let longest = settings.max_draft_tokens;
    config.serve.max_draft_tokens = longest.unwrap_or(config.serve.max_draft_tokens);
    let checkpoint = Arc::clone(&subject.checkpoint);
    Service::spawn(pair::listener().await?, async move |listener, shutdown| {
        Ok(draft_svc::run_with(config, checkpoint, tokenizer, listener.into(), shutdown).await?)
    })
}

/// A verify-svc of `subject`, with whatever `change` sets.
///
/// # Errors
/// If there is no port for it.
pub(crate) async fn verifier(
    subject: &Subject,
    tokenizer: Option<Arc<Tokenizer>>,
    change: impl FnOnce(&mut verify_svc::Config),
) -> anyhow::Result<Service> {
    let mut config = verify_svc::Config::for_model(subject.folder());
    share(&mut config.serve, subject.device);
    config.serve.threads = Some(subject.kernels.threads());
    config.serve.dtype = subject.dtype;
    // Nobody has to hear first that it ends.
    config.serve.drain_delay = std::time::Duration::ZERO;
    change(&mut config);
    let checkpoint = Arc::clone(&subject.checkpoint);
    Service::spawn(pair::listener().await?, async move |listener, shutdown| {
        Ok(verify_svc::run_with(config, checkpoint, tokenizer, listener.into(), shutdown).await?)
    })
}

/// The layer after which the first exit sits.
fn first_exit(subject: &Subject) -> anyhow::Result<usize> {
    let layers = subject.checkpoint.config().layers;
    let first = exit::placement(layers, EXITS).first().copied();
    first.ok_or_else(|| anyhow::anyhow!("{layers} layers leave no room for an exit"))
}
