//! `dssd bench kernels`: the skinny product and the entropy operation against what memory allows,
//! and against candle's own operations.

mod entropy;
mod products;

use super::{
    Output, Threads, WEIGHT_TYPES,
    bandwidth::{last_level_cache, read_bandwidth},
    device::Timings,
    stages::Stages,
    timing::ROUNDS,
};
use dssd_common::{
    kernels::{Effort, Kernels},
    model::Device,
    serve::DeviceName,
};
use entropy::EntropyReport;
use products::ProductReport;
use serde::Serialize;
use std::fmt;

/// Operands are read in turn from copies of this many times the last-level cache together, so
/// that none of them is found there.
const CACHES: usize = 8;

/// Measure the skinny matrix product and the entropy operation.
///
/// Example: dssd bench kernels --json
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    threads: Threads,
    /// Where they run: cpu, or cuda or cuda:N, each kernel 200 times in a graph.
    #[arg(long, default_value_t = DeviceName::Cpu, conflicts_with_all = ["threads", "rounds"])]
    device: DeviceName,
    /// Repetitions of each measurement.
    #[arg(long, default_value_t = ROUNDS, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    #[command(flatten)]
    output: Output,
}

/// What was measured; the keys of `--json`.
#[derive(Serialize)]
struct Report {
    threads: usize,
    read_bandwidth: f64,
    cache_bytes: usize,
    products: Vec<ProductReport>,
    entropy: Vec<EntropyReport>,
}

/// What was measured on a GPU.
#[derive(Serialize)]
struct GpuReport {
    gpu: String,
    timings: Timings,
}

impl fmt::Display for GpuReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{}", self.gpu, self.timings)
    }
}

/// What every measurement needs.
struct Setting<'a> {
    kernels: &'a Kernels,
    rounds: usize,
    /// Bytes per second.
    read_bandwidth: f64,
    /// Bytes that operands together must have.
    working_set: usize,
}

/// Runs the measurements and tells them.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if let Device::Cuda(gpu) = args.device.open()? {
        return args.output.print(&GpuReport {
            gpu: gpu.name().to_owned(),
            timings: gpu.measure(Effort::FULL)?.into(),
        });
    }
    let kernels = Kernels::new(args.threads.count());
    let cache_bytes = last_level_cache();
    let stages = Stages::new(1 + 2 * WEIGHT_TYPES.len());
    stages.begin("read bandwidth");
    let setting = Setting {
        kernels: &kernels,
        rounds: usize::from(args.rounds),
        read_bandwidth: read_bandwidth(&kernels),
        working_set: CACHES * cache_bytes,
    };
    let report = Report {
        threads: kernels.threads(),
        read_bandwidth: setting.read_bandwidth,
        cache_bytes,
        products: products::measure(&setting, &stages)?,
        entropy: entropy::measure(&setting, &stages)?,
    };
    drop(stages);
    args.output.print(&report)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} threads, read bandwidth {:.1} GB/s, last-level cache {:.0} MB",
            self.threads,
            self.read_bandwidth / 1e9,
            self.cache_bytes as f64 / 1e6
        )?;
        writeln!(
            f,
            "\nproduct          type rows     ms  to one row  of bandwidth  candle ms"
        )?;
        self.products
            .iter()
            .try_for_each(|product| product.fmt(f))?;
        writeln!(
            f,
            "\nentropy    rows vocabulary type     us  of bandwidth  chain of operations us"
        )?;
        self.entropy.iter().try_for_each(|entropy| entropy.fmt(f))
    }
}
