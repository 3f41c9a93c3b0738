//! `dssd bench`: kernels, passes of the whole model, the running pair, and the pair under load.

mod bandwidth;
pub(crate) mod decode;
pub(crate) mod device;
mod kernels;
mod load;
pub(crate) mod pair;
mod passes;
pub(crate) mod stages;
pub(crate) mod subject;
pub(crate) mod timing;

use dssd_common::kernels::WeightType;
use serde::Serialize;

/// What to measure.
#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    Kernels(kernels::Args),
    Decode(decode::Args),
    Pair(pair::Args),
    Load(Box<load::Args>),
}

/// Measures, and prints a table or, with `--json`, one object; false where a check beside it failed.
///
/// # Errors
/// If a model cannot be loaded or a service fails.
pub(crate) async fn run(bench: Bench) -> anyhow::Result<bool> {
    match bench {
        Bench::Kernels(args) => kernels::run(args)?,
        Bench::Decode(args) => decode::run(args)?,
        Bench::Pair(args) => pair::run(args).await?,
        Bench::Load(args) => return load::run(*args).await,
    }
    Ok(true)
}

/// How results are told.
#[derive(clap::Args)]
struct Output {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl Output {
    fn print<R: Serialize + std::fmt::Display>(&self, report: &R) -> anyhow::Result<()> {
        match self.json {
            true => say_line!("{}", serde_json::to_string(report)?),
            false => crate::terminal::say(&report.to_string()),
        }
        Ok(())
    }
}

/// Threads of the kernels.
#[derive(clap::Args)]
struct Threads {
    /// Threads that compute [default: one for each processor].
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZero<usize>>,
}

impl Threads {
    fn count(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(all, usize::from)
    }
}

/// Every type of weights.
const WEIGHT_TYPES: [WeightType; 3] = [WeightType::F32, WeightType::Bf16, WeightType::F16];

/// The name that people type.
fn type_name(weights: WeightType) -> &'static str {
    match weights {
        WeightType::F32 => "f32",
        WeightType::Bf16 => "bf16",
        WeightType::F16 => "f16",
    }
}
