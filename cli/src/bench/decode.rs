//! `dssd bench decode`: passes of the whole model.

use super::{
    Output,
    bandwidth::read_bandwidth,
    passes::{Passes, Phases, RowsReport},
    stages::Stages,
    subject::SubjectArgs,
    timing::ROUNDS,
};
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// Most rows of a measured pass.
const ROWS: usize = 8;

/// Measure plain decoding, passes of several rows, and prefill.
///
/// Example: dssd bench decode --shape pythia-410m --dtype bf16
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Sequences that decode side by side.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,
    /// Repetitions of each measurement.
    #[arg(long, default_value_t = ROUNDS, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Write the random weights out as a Hugging Face folder, too.
    #[arg(long, value_name = "DIR", requires = "shape")]
    save: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// What was measured; the keys of `--json`.
#[derive(Serialize)]
struct Report {
    shape: String,
    dtype: &'static str,
    threads: usize,
    batch: usize,
    weight_bytes: usize,
    read_bandwidth: f64,
    decode_tokens_per_second: f64,
    bandwidth_share: f64,
    prefill_tokens: usize,
    prefill_tokens_per_second: f64,
    rows: Vec<RowsReport>,
    phases: Phases,
}

/// Runs the measurements and tells them.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let stages = Stages::new(5);
    stages.begin("weights");
    let subject = args.subject.open(None)?;
    if let Some(dir) = &args.save {
        subject.checkpoint.save(dir)?;
    }
    stages.begin("read bandwidth");
    let read_bandwidth = read_bandwidth(&subject.kernels);
    let mut passes = Passes::new(&subject, usize::from(args.batch))?;
    stages.begin("passes of several rows");
    let rows = passes.rows(ROWS, usize::from(args.rounds))?;
    stages.begin("plain decoding");
    let (step, phases) = passes.decode(2 * usize::from(args.rounds))?;
    stages.begin("prefill");
    let prefill = passes.prefill()?;
    drop(stages);
    let weight_bytes = passes.bytes();
    let report = Report {
        dtype: subject.type_name()?,
        threads: subject.kernels.threads(),
        batch: usize::from(args.batch),
        weight_bytes,
        read_bandwidth,
        decode_tokens_per_second: f64::from(args.batch) / step,
        bandwidth_share: weight_bytes as f64 / step / read_bandwidth,
        prefill_tokens: passes.context(),
        prefill_tokens_per_second: passes.context() as f64 / prefill,
        rows,
        phases,
        shape: subject.name,
    };
    args.output.print(&report)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shape,
            dtype,
            threads,
            batch,
            ..
        } = self;
        writeln!(f, "{shape}, {dtype}, {threads} threads")?;
        writeln!(
            f,
            "read bandwidth     {:8.1} GB/s",
            self.read_bandwidth / 1e9
        )?;
        writeln!(
            f,
            "bytes of a pass    {:8.1} MB",
            self.weight_bytes as f64 / 1e6
        )?;
        writeln!(
            f,
            "decode             {:8.1} tokens/s, batch {batch}: {:.1} % of the bandwidth",
            self.decode_tokens_per_second,
            100.0 * self.bandwidth_share
        )?;
        let Phases { pass, other, .. } = self.phases;
        writeln!(
            f,
            "  a step           {:8.2} ms pass, {:.2} ms other",
            1e3 * pass,
            1e3 * other
        )?;
        writeln!(
            f,
            "prefill of {:<7} {:8.1} tokens/s",
            self.prefill_tokens, self.prefill_tokens_per_second
        )?;
        writeln!(f, "rows    ms  ratio")?;
        for RowsReport {
            rows,
            seconds,
            ratio_to_one_row,
        } in &self.rows
        {
            writeln!(f, "{rows:4} {:6.2} {ratio_to_one_row:5.2}", 1e3 * seconds)?;
        }
        Ok(())
    }
}
