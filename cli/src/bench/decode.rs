//! `dssd bench decode`: passes of the whole model.

use super::{
    Output,
    device::{Computer, Memory},
    passes::{Passes, Phases, RowsReport, Steps},
    stages::Stages,
    subject::{Subject, SubjectArgs},
    timing::{ROUNDS, median, median_ratio},
};
use dssd_common::model::Device;
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// Most rows of a measured pass.
pub(crate) const ROWS: usize = 8;
/// Launches that measure a GPU's memory, for each repetition of a pass.
const LAUNCHES: usize = 8;

/// Measure plain decoding, passes of several rows, and prefill.
///
/// Example: dssd bench decode --shape pythia-410m --dtype bf16 --batch 1,8,32
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Sequences that decode side by side; several numbers are measured in turn, beside one sequence.
    #[arg(long, value_name = "N,…", default_value = "1", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: Vec<u16>,
    /// Repetitions of each measurement.
    #[arg(long, default_value_t = ROUNDS, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Tokens of the measured prompt, 0 for none; at most as many as the model has positions.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u16).range(..=512))]
    prefill: u16,
    /// Write the random weights out as a Hugging Face folder, too.
    #[arg(long, value_name = "DIR", requires = "shape")]
    save: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// What is measured.
pub(crate) struct Plan {
    /// Sequences that decode side by side, at least one number.
    pub(crate) batches: Vec<usize>,
    /// Repetitions of each measurement.
    pub(crate) rounds: usize,
    /// Tokens of a measured prompt; none is measured where this is 0.
    pub(crate) prefill: usize,
}

/// What was measured; the keys of `--json`.
#[derive(Serialize)]
pub(crate) struct Report {
    shape: String,
    dtype: &'static str,
    #[serde(flatten)]
    computer: Computer,
    /// The first of `batches`, of which the three rates and the phases are.
    batch: usize,
    weight_bytes: usize,
    #[serde(flatten)]
    memory: Memory,
    decode_tokens_per_second: f64,
    bandwidth_share: f64,
    #[serde(flatten)]
    prefill: Option<Prefill>,
    rows: Vec<RowsReport>,
    phases: Phases,
    batches: Vec<Batch>,
    /// Rows of logits that were copied from a GPU, where all tokens are chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    copied_logits_rows: Option<u64>,
}

/// Sequences that decode side by side.
#[derive(Clone, Serialize)]
struct Batch {
    batch: usize,
    tokens_per_second: f64,
    step_seconds: f64,
    /// Time that reading the bytes of a pass would take, to that of a step.
    bandwidth_share: f64,
    /// Median over steps beside each other.
    ratio_to_one_sequence: f64,
}

#[derive(Serialize)]
struct Prefill {
    prefill_tokens: usize,
    prefill_tokens_per_second: f64,
}

/// Runs the measurements and tells them.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let stages = Stages::new(5);
    stages.begin("weights");
    let subject = args.subject.open(None)?;
    if let Some(dir) = &args.save {
        subject.checkpoint.save(dir)?;
    }
    let plan = Plan {
        batches: args.batch.into_iter().map(usize::from).collect(),
        rounds: usize::from(args.rounds),
        prefill: usize::from(args.prefill),
    };
    stages.begin("read bandwidth");
    let memory = match subject.device.open()? {
        Device::Cpu => Memory::of_cpu(&subject.kernels),
        Device::Cuda(gpu) => Memory::of_gpu(&gpu, LAUNCHES * plan.rounds)?,
    };
    let report = measure(&subject, &plan, memory, &stages)?;
    drop(stages);
    args.output.print(&report)
}

/// Measures a model beside what its memory allows.
///
/// # Errors
/// If a tensor is unfit, or the device fails.
pub(crate) fn measure(
    subject: &Subject,
    plan: &Plan,
    memory: Memory,
    stages: &Stages,
) -> anyhow::Result<Report> {
    let batches = rising(&plan.batches);
    let most = batches.last().copied().unwrap_or(1);
    let mut passes = Passes::new(subject, most)?;
    stages.begin("passes of several rows");
    let rows = passes.rows(ROWS, plan.rounds)?;
    stages.begin("plain decoding");
    let steps = passes.decode(&batches, 2 * plan.rounds)?;
    let prefill = match plan.prefill.min(passes.context()) {
        0 => None,
        tokens => Some(Prefill::measure(&mut passes, tokens, stages)?),
    };
    let weight_bytes = passes.bytes();
    let limit = weight_bytes as f64 / memory.read_bandwidth;
    let of = |batch: &usize| steps.iter().find(|steps| steps.batch == *batch);
    let asked: Vec<&Steps> = plan.batches.iter().filter_map(of).collect();
    let batches: Vec<Batch> = (asked.iter())
        .map(|asked| Batch::new(asked, &steps[0], limit))
        .collect();
    // There is one: a plan has at least one number, and all of its numbers were measured.
    let first = batches[0].clone();
    Ok(Report {
        shape: subject.name.clone(),
        dtype: subject.type_name()?,
        computer: subject.computer()?,
        batch: first.batch,
        weight_bytes,
        memory,
        decode_tokens_per_second: first.tokens_per_second,
        bandwidth_share: first.bandwidth_share,
        prefill,
        rows,
        phases: asked[0].phases(),
        batches,
        copied_logits_rows: passes.copied_rows(),
    })
}

/// One, and all of `batches`, each once.
fn rising(batches: &[usize]) -> Vec<usize> {
    let mut all: Vec<usize> = batches.iter().copied().chain([1]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl Batch {
    /// `one`: steps of one sequence beside them; `limit`: seconds of reading the bytes of a pass.
    fn new(steps: &Steps, one: &Steps, limit: f64) -> Self {
        let step_seconds = median(&steps.seconds);
        Self {
            batch: steps.batch,
            tokens_per_second: steps.batch as f64 / step_seconds,
            step_seconds,
            bandwidth_share: limit / step_seconds,
            ratio_to_one_sequence: median_ratio(&steps.seconds, &one.seconds),
        }
    }
}

impl Prefill {
    fn measure(passes: &mut Passes, tokens: usize, stages: &Stages) -> anyhow::Result<Self> {
        stages.begin("prefill");
        Ok(Self {
            prefill_tokens: tokens,
            prefill_tokens_per_second: tokens as f64 / passes.prefill(tokens)?,
        })
    }
}

impl Report {
    /// Time that reading the bytes of a pass would take, to that of a step of the first batch.
    pub(crate) fn bandwidth_share(&self) -> f64 {
        self.bandwidth_share
    }

    /// A pass of [`ROWS`] rows of one sequence, to one of a single row.
    pub(crate) fn ratio_of_rows(&self) -> f64 {
        self.rows
            .last()
            .map_or(f64::NAN, |last| last.ratio_to_one_row)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shape,
            dtype,
            computer,
            ..
        } = self;
        writeln!(f, "{shape}, {dtype}, {computer}")?;
        writeln!(
            f,
            "read bandwidth     {:8.1} GB/s",
            self.memory.read_bandwidth / 1e9
        )?;
        writeln!(
            f,
            "bytes of a pass    {:8.1} MB",
            self.weight_bytes as f64 / 1e6
        )?;
        if let Some(prefill) = &self.prefill {
            writeln!(
                f,
                "prefill of {:<7} {:8.1} tokens/s",
                prefill.prefill_tokens, prefill.prefill_tokens_per_second
            )?;
        }
        writeln!(f, "\nbatch  tokens/s  step ms  of reading  to one sequence")?;
        self.batches.iter().try_for_each(|batch| batch.fmt(f))?;
        let Phases { pass, other, .. } = self.phases;
        writeln!(
            f,
            "a step of {}: {:.2} ms pass, {:.2} ms other",
            self.batch,
            1e3 * pass,
            1e3 * other
        )?;
        writeln!(f, "\nrows    ms  ratio")?;
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

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:5} {:9.1} {:8.2} {:8.1} % {:16.2}",
            self.batch,
            self.tokens_per_second,
            1e3 * self.step_seconds,
            100.0 * self.bandwidth_share,
            self.ratio_to_one_sequence
        )
    }
}
