//! `dssd gpu-check`: whether a GPU computes what the CPU does, and how fast.

mod decoders;
mod kernels;
mod learning;
mod numbers;
mod picks;
mod report;
mod rows;
mod summaries;

use crate::{bench::stages::Stages, check, pair::Model};
use anyhow::{Result, bail};
use dssd_common::{
    checkpoint::{random_checkpoint, shape},
    kernels::{Effort, Gpu, Kernels, WeightType},
    model::Device,
    serve::DeviceName,
};
use report::{Equality, Report};
use std::{path::PathBuf, sync::Arc};

/// Seed of the random model's weights.
const SEED: u64 = 1;

/// Check an NVIDIA GPU: every kernel against the CPU, the pair with and without drafts, and how long kernels take
///
/// Products, norms, activations, attention and whole passes must have the CPU's bits; the entropy kernel and what
/// heads learn by must be within tolerance of their definitions, and the pick must be the CPU's sampler's. Then both services
/// run on the GPU, and no token may differ between drafted and plain answers. Exits with 1 on a
/// difference, and with 2 where there is no GPU to check.
///
/// Example: dssd gpu-check --json > gpu.json
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which GPU: cuda or cuda:N
    #[arg(long, default_value_t = DeviceName::Cuda(0))]
    device: DeviceName,
    /// Hugging Face folder of the model for the pair; the demo model if unset
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Random weights of this published shape as a second model for the pair
    #[arg(long, value_name = "NAME")]
    shape: Option<String>,
    /// Fewer prompts, and timings that only show that they can be taken
    #[arg(long)]
    quick: bool,
    /// Leave the pair out
    #[arg(long, conflicts_with_all = ["model", "shape"])]
    no_pair: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What was compared, without a difference.
#[derive(Clone, Debug, serde::Serialize)]
struct Checked {
    name: &'static str,
    /// Numbers, rows or tokens.
    compared: usize,
}

impl Checked {
    fn new(name: &'static str) -> Self {
        Self { name, compared: 0 }
    }

    fn add(&mut self, compared: usize) {
        self.compared += compared;
    }
}

/// Runs the command; false if something differs.
pub(crate) async fn run(args: Args) -> Result<bool> {
    let device = args.device.open()?;
    let Device::Cuda(gpu) = &device else {
        bail!("--device {}: a GPU is wanted, cuda or cuda:N", args.device);
    };
    let mut report = Report::new(gpu.name());
    let stages = Stages::new(3);
    stages.begin("kernels against the CPU");
    check_kernels(&device, gpu, &mut report);
    stages.begin("the pair");
    if !args.no_pair
        && let Err(error) = args.check_pair(&mut report).await
    {
        report.fail("the pair", &error);
    }
    stages.begin("how long kernels take");
    let effort = if args.quick {
        Effort::TOKEN
    } else {
        Effort::FULL
    };
    match gpu.measure(effort) {
        Ok(timings) => report.timings = timings.into(),
        Err(error) => report.fail("timings", &error.into()),
    }
    drop(stages);
    match args.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{report}"),
    }
    Ok(report.passed())
}

fn check_kernels(device: &Device, gpu: &Gpu, report: &mut Report) {
    let cpu = Kernels::new(1);
    report.take("products", kernels::products(gpu, &cpu));
    report.take("norms", kernels::norms(gpu, &cpu));
    report.take("activations", kernels::activations(gpu, &cpu));
    report.take("learning", learning::learning(gpu, &cpu));
    report.take("summaries", summaries::summaries(gpu));
    report.take("picks", picks::picks(gpu));
    report.take("passes", decoders::decoders(device));
}

impl Args {
    async fn check_pair(&self, report: &mut Report) -> Result<()> {
        let model = Model::open(self.model.clone())?.on(self.device)?;
        let outcome = check::local(&model, self.quick, self.quick).await?;
        report.pair.push(Equality::new(&model, outcome));
        let Some(name) = &self.shape else {
            return Ok(());
        };
        let checkpoint = random_checkpoint(shape(name)?, WeightType::Bf16, SEED)?;
        let random = Model {
            folder: PathBuf::from(name),
            checkpoint: Arc::new(checkpoint),
            ..model
        };
        // Hardly a draft of random weights is ever right.
        let outcome = check::local(&random, self.quick, true).await?;
        report.pair.push(Equality::new(&random, outcome));
        Ok(())
    }
}
