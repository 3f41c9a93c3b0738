//! `dssd gpu-check`: whether a GPU computes what the CPU does, and how fast.

mod bars;
mod decoders;
mod kernels;
mod learning;
mod numbers;
mod picks;
mod report;
mod rows;
mod summaries;

use crate::{
    bench::{
        decode::{self, Plan},
        stages::Stages,
        subject::{Subject, known_shape},
        timing::ROUNDS,
    },
    check,
    pair::Model,
    terminal,
};
use anyhow::{Result, bail};
use bars::bars;
use dssd_common::{
    checkpoint::demo,
    kernels::{Effort, Gpu, Kernels},
    model::Device,
    serve::{DeviceName, Dtype},
};
use report::{Equality, Report};
use std::{path::PathBuf, sync::Arc};

/// Check an NVIDIA GPU: every kernel against the CPU, the pair with and without drafts, and how long both take
///
/// Products, norms, activations, attention and whole passes must have the CPU's bits; the entropy kernel and
/// what heads learn by must be within tolerance of their definitions, and the pick must be the CPU's sampler's. Then both
/// services run on the GPU, and no token may differ between drafted and plain answers. Then kernels and plain decoding
/// are timed, and compared with bars; a missed bar is told, and is no failure. Exits with 1 on a difference,
/// and with 2 where there is no GPU to check.
///
/// Example: dssd gpu-check --json > gpu.json
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which GPU: cuda or cuda:N
    #[arg(long, default_value_t = DeviceName::Cuda(0))]
    device: DeviceName,
    /// Hugging Face folder of the model for the pair, and for timed decoding; the demo model if unset
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Random weights of this published shape as a second model for the pair, and as the one that is timed
    #[arg(long, value_name = "NAME", value_parser = known_shape)]
    shape: Option<String>,
    /// Fewer prompts, and timings that only show that they can be taken
    #[arg(long)]
    quick: bool,
    /// Leave the pair out
    #[arg(long)]
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
    let stages = Stages::new(6);
    stages.begin("weights");
    let subject = args.subject()?;
    stages.begin("kernels against the CPU");
    check_kernels(&device, gpu, args.quick, &mut report);
    stages.begin("the pair");
    if !args.no_pair
        && let Err(error) = args.check_pair(&subject, &mut report).await
    {
        report.fail("the pair", &error);
    }
    stages.begin("how long kernels take");
    match gpu.measure(args.effort()) {
        Ok(timings) => report.timings = timings.into(),
        Err(error) => report.fail("timings", &error.into()),
    }
    match decode::measure(&subject, &args.plan(), report.timings.memory(), &stages) {
        Ok(decode) => {
            let (share, ratio) = (decode.bandwidth_share(), decode.ratio_of_rows());
            if !args.quick {
                report.bars = bars(&report.timings, share, ratio);
            }
            report.decode = Some(decode);
        }
        Err(error) => report.fail("decode", &error),
    }
    if !gpu.records() {
        let reason = "passes could not be recorded, so each launch costs the CPU: the log says why";
        report.fail("graphs", &anyhow::anyhow!(reason));
    }
    drop(stages);
    match args.json {
        true => say_line!("{}", serde_json::to_string(&report)?),
        false => terminal::say(&report.to_string()),
    }
    Ok(report.passed())
}

fn check_kernels(device: &Device, gpu: &Gpu, quick: bool, report: &mut Report) {
    let cpu = Kernels::new(1);
    report.take("products", kernels::products(gpu, &cpu));
    report.take("norms", kernels::norms(gpu, &cpu));
    report.take("activations", kernels::activations(gpu, &cpu));
    report.take("learning", learning::learning(gpu, &cpu));
    report.take("summaries", summaries::summaries(gpu));
    report.take("picks", picks::picks(gpu));
    report.take("passes", decoders::decoders(device, quick));
}

impl Args {
    fn effort(&self) -> Effort {
        match self.quick {
            true => Effort::TOKEN,
            false => Effort::FULL,
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            batches: vec![1],
            rounds: if self.quick { 1 } else { usize::from(ROUNDS) },
            prefill: 0,
        }
    }

    /// What decoding is timed with.
    fn subject(&self) -> Result<Subject> {
        let kernels = Arc::new(Kernels::new(1));
        let subject = match (&self.shape, &self.model) {
            (Some(shape), _) => Subject::random(shape, Dtype::Auto, kernels)?,
            (None, Some(folder)) => Subject::open(folder, Dtype::Auto, kernels)?,
            (None, None) => Subject::open(&demo::folder()?, Dtype::Auto, kernels)?,
        };
        Ok(subject.on(self.device))
    }

    async fn check_pair(&self, subject: &Subject, report: &mut Report) -> Result<()> {
        let model = Model::open(self.model.clone())?.on(self.device)?;
        let outcome = check::local(&model, self.quick, self.quick).await?;
        report.pair.push(Equality::new(&model, outcome));
        let Some(name) = &self.shape else {
            return Ok(());
        };
        let random = Model {
            folder: PathBuf::from(name),
            checkpoint: Arc::clone(&subject.checkpoint),
            ..model
        };
        // Hardly a draft of random weights is ever right.
        let outcome = check::local(&random, self.quick, true).await?;
        report.pair.push(Equality::new(&random, outcome));
        Ok(())
    }
}
