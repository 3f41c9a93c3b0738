//! `dssd bench decode`: passes of the whole model.

use super::{
    Dtype, Output,
    bandwidth::read_bandwidth,
    subject::{Subject, SubjectArgs},
    timing::{ROUNDS, interleaved, median, median_ratio, timed},
};
use dssd_common::{
    entropy::Summary,
    kv::{KvCache, SequenceId},
    model::{Decoder, DecoderOptions, Span},
};
use serde::Serialize;
use std::{fmt, path::PathBuf, sync::Arc};

/// Positions before the measured ones.
const PREFIX: usize = 64;
/// Rows of a measured prefill.
const PREFILL: usize = 512;
const PREFILL_REPEATS: usize = 3;
/// Most rows of one sequence in one pass.
const MOST_ROWS: usize = 8;

/// Measures plain decoding, passes of several rows, and prefill.
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
    #[arg(long, default_value_t = ROUNDS, value_name = "N")]
    rounds: usize,
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
    dtype: Dtype,
    threads: usize,
    batch: usize,
    weight_bytes: usize,
    read_bandwidth: f64,
    decode_tokens_per_second: f64,
    bandwidth_share: f64,
    prefill_tokens_per_second: f64,
    rows: Vec<RowsReport>,
    phases: Phases,
}

/// A pass of several rows of one sequence.
#[derive(Serialize)]
struct RowsReport {
    rows: usize,
    seconds: f64,
    ratio_to_one_row: f64,
}

/// Seconds per step of plain decoding. On a CPU nothing is moved to or from a device.
#[derive(Serialize)]
struct Phases {
    upload: f64,
    pass: f64,
    download: f64,
    other: f64,
}

/// Runs the measurements and tells them.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let subject = args.subject.open(None)?;
    if let Some(dir) = &args.save {
        subject.checkpoint.save(dir)?;
    }
    // Before the model has its copies of the weights, so that little memory is needed at once.
    let read_bandwidth = read_bandwidth(&subject.kernels);
    let mut runner = Runner::new(&subject, usize::from(args.batch))?;
    let rows = runner.rows(args.rounds)?;
    let (step, phases) = runner.decode(2 * args.rounds)?;
    let weight_bytes = runner.decoder.bytes_per_pass();
    let report = Report {
        dtype: subject.dtype()?,
        threads: subject.kernels.threads(),
        batch: usize::from(args.batch),
        weight_bytes,
        read_bandwidth,
        decode_tokens_per_second: f64::from(args.batch) / step,
        bandwidth_share: weight_bytes as f64 / step / read_bandwidth,
        prefill_tokens_per_second: PREFILL as f64 / runner.prefill()?,
        rows,
        phases,
        shape: subject.name,
    };
    args.output.print(&report)
}

/// The model with its cache; all sequences hold the prefix.
struct Runner {
    decoder: Decoder,
    kv: KvCache,
    sequences: Vec<SequenceId>,
    tokens: Vec<u32>,
    hidden: Vec<f32>,
    logits: Vec<f32>,
    summaries: Vec<Summary>,
}

impl Runner {
    fn new(subject: &Subject, batch: usize) -> anyhow::Result<Self> {
        let config = subject.checkpoint.config();
        let context = config.max_positions.min(PREFILL.max(PREFIX + MOST_ROWS));
        let options = DecoderOptions {
            band_ends: vec![config.layers],
            compute: subject.compute,
            max_context: config.max_positions,
        };
        let decoder = Decoder::load(&subject.checkpoint, Arc::clone(&subject.kernels), options)?;
        let layout = decoder.kv_layout();
        let bytes = (batch + 1) * layout.blocks_for(context) * layout.block_bytes();
        let mut runner = Self {
            kv: KvCache::new(layout, bytes)?,
            decoder,
            sequences: Vec::new(),
            tokens: subject.tokens(PREFILL),
            hidden: Vec::new(),
            logits: Vec::new(),
            summaries: Vec::new(),
        };
        for _ in 0..batch {
            let sequence = runner.kv.open(context)?;
            runner.sequences.push(sequence);
            runner.pass(sequence, PREFIX, false)?;
        }
        Ok(runner)
    }

    /// Takes a sequence up to position `end`, and computes the logits of all its rows or of the
    /// last one.
    fn pass(&mut self, sequence: SequenceId, end: usize, all_logits: bool) -> anyhow::Result<()> {
        let tokens = &self.tokens[self.kv.len(sequence, 0)..end];
        let span = Span {
            sequence,
            end,
            tokens,
        };
        let width = self.decoder.config().hidden;
        let states = self.decoder.advance(&mut self.kv, 0, &[span])?;
        let from = if all_logits { 0 } else { states.len() - width };
        self.hidden.clear();
        self.hidden.extend_from_slice(&states[from..]);
        self.decoder.logits(&self.hidden, &mut self.logits);
        Ok(())
    }

    /// Passes of 1 to 8 rows of one sequence, as verification runs them.
    fn rows(&mut self, rounds: usize) -> anyhow::Result<Vec<RowsReport>> {
        let sequence = self.sequences[0];
        let seconds = interleaved(MOST_ROWS, rounds, |variant| {
            self.pass(sequence, PREFIX + variant + 1, true)?;
            self.kv.truncate(sequence, PREFIX);
            anyhow::Ok(())
        })?;
        let reports = seconds
            .iter()
            .enumerate()
            .map(|(variant, samples)| RowsReport {
                rows: variant + 1,
                seconds: median(samples),
                ratio_to_one_row: median_ratio(samples, &seconds[0]),
            });
        Ok(reports.collect())
    }

    /// Greedy decoding of all sequences; the median step and its phases, in seconds.
    fn decode(&mut self, steps: usize) -> anyhow::Result<(f64, Phases)> {
        let mut newest = vec![self.tokens[PREFIX]; self.sequences.len()];
        let (mut totals, mut passes) = (Vec::new(), Vec::new());
        let room = self.kv.capacity(self.sequences[0]) - PREFIX;
        for step in 0..steps {
            let end = PREFIX + step % room + 1;
            if end == PREFIX + 1 {
                self.sequences
                    .iter()
                    .for_each(|&id| self.kv.truncate(id, PREFIX));
            }
            let (total, pass) = timed(|| self.decode_step(end, &mut newest));
            totals.push(total);
            passes.push(pass?);
        }
        let (total, pass) = (median(&totals), median(&passes));
        let phases = Phases {
            upload: 0.0,
            pass,
            download: 0.0,
            other: total - pass,
        };
        Ok((total, phases))
    }

    /// One token for each sequence; seconds of the pass alone.
    fn decode_step(&mut self, end: usize, newest: &mut [u32]) -> anyhow::Result<f64> {
        let Self {
            decoder,
            kv,
            hidden,
            logits,
            summaries,
            ..
        } = self;
        let spans: Vec<Span<'_>> = (self.sequences.iter())
            .zip(newest.chunks(1))
            .map(|(&sequence, tokens)| Span {
                sequence,
                end,
                tokens,
            })
            .collect();
        let (seconds, result) = timed(|| {
            let states = decoder.advance(kv, 0, &spans)?;
            hidden.clear();
            hidden.extend_from_slice(states);
            decoder.logits(hidden, logits);
            anyhow::Ok(())
        });
        result?;
        decoder
            .kernels()
            .summarize(logits, decoder.vocabulary(), summaries);
        for (token, summary) in newest.iter_mut().zip(summaries) {
            *token = summary.argmax;
        }
        Ok(seconds)
    }

    /// Seconds of a prompt of [`PREFILL`] tokens, up to the logits of its last one.
    fn prefill(&mut self) -> anyhow::Result<f64> {
        let sequence = self.kv.open(PREFILL)?;
        let mut seconds = Vec::new();
        for _ in 0..PREFILL_REPEATS {
            self.kv.truncate(sequence, 0);
            let (elapsed, result) = timed(|| self.pass(sequence, PREFILL, false));
            result?;
            seconds.push(elapsed);
        }
        self.kv.close(sequence);
        Ok(median(&seconds))
    }
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
            "prefill of {PREFILL}     {:8.1} tokens/s",
            self.prefill_tokens_per_second
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
