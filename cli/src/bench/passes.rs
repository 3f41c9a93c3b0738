//! The whole model and its cache, set up for passes that can be repeated.

use super::{
    subject::Subject,
    timing::{interleaved, median, median_ratio, timed},
};
use dssd_common::{
    kv::{KvCache, SequenceId},
    model::{Decoder, DecoderOptions, Device, Readout, Reads, Span},
    sampling::{Choice, History, Sampler, SamplingParams, Scratch},
};
use serde::Serialize;
use std::{ops::Range, sync::Arc};

/// Positions before the measured ones.
const PREFIX: usize = 64;
/// Positions of a sequence, unless the model is made for fewer.
const POSITIONS: usize = 512;
const PREFILL_REPEATS: usize = 3;
/// Most rows of one sequence in one pass.
const MOST_ROWS: usize = 17;

/// A pass of several rows of one sequence.
#[derive(Serialize)]
pub(super) struct RowsReport {
    pub(super) rows: usize,
    pub(super) seconds: f64,
    pub(super) ratio_to_one_row: f64,
}

/// Seconds per step of plain decoding. On a CPU nothing is moved to or from a device; on a GPU the pass holds both
/// ways, which nobody times by themselves.
#[derive(Serialize)]
pub(super) struct Phases {
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<f64>,
    pub(super) pass: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    download: Option<f64>,
    pub(super) other: f64,
}

/// Samples of steps of plain decoding, in seconds; those of one index were taken side by side.
pub(super) struct Steps {
    /// Sequences that decoded together.
    pub(super) batch: usize,
    pub(super) seconds: Vec<f64>,
    /// Of the passes alone.
    passes: Vec<f64>,
    device: Device,
}

impl Steps {
    /// Medians of the phases.
    pub(super) fn phases(&self) -> Phases {
        let moved = matches!(self.device, Device::Cpu).then_some(0.0);
        let pass = median(&self.passes);
        Phases {
            upload: moved,
            pass,
            download: moved,
            other: median(&self.seconds) - pass,
        }
    }
}

/// The model with its cache; all sequences hold the prefix.
pub(super) struct Passes {
    decoder: Decoder,
    kv: KvCache,
    sequences: Vec<SequenceId>,
    context: usize,
    /// The prefix, and what is decoded behind it: of each sequence, the same in all.
    texts: Vec<Vec<u32>>,
    readout: Readout,
    greedy: Greedy,
}

/// The choice of a token, as the services make it.
struct Greedy {
    sampler: Sampler,
    history: History,
    scratch: Scratch,
}

impl Greedy {
    fn new(vocabulary: usize) -> anyhow::Result<Self> {
        let params = SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        };
        Ok(Self {
            sampler: Sampler::new(params, vocabulary, Vec::new())?,
            history: History::new(&[], &[]),
            scratch: Scratch::default(),
        })
    }

    fn choose(&mut self, readout: &Readout, row: usize) -> anyhow::Result<u32> {
        let Self {
            sampler,
            history,
            scratch,
        } = self;
        Ok(sampler.choose_of(readout.row(row), history, scratch)?)
    }
}

impl Passes {
    /// Loads the model, and opens `batch` sequences.
    ///
    /// # Errors
    /// If a tensor is unfit.
    pub(super) fn new(subject: &Subject, batch: usize) -> anyhow::Result<Self> {
        let config = subject.checkpoint.config();
        let context = config.max_positions.min(POSITIONS);
        anyhow::ensure!(
            context >= PREFIX + MOST_ROWS,
            "a model of {context} positions is too short to be measured"
        );
        let options = DecoderOptions {
            band_ends: vec![config.layers],
            compute: subject.dtype.compute(),
            max_context: config.max_positions,
        };
        let kernels = Arc::clone(&subject.kernels);
        let mut decoder = Decoder::load_on(
            &subject.device.open()?,
            &subject.checkpoint,
            kernels,
            options,
        )?;
        let layout = decoder.kv_layout();
        let bytes = (batch + 1) * layout.blocks_for(context) * layout.block_bytes();
        // One token more than positions: the last one that is decoded.
        let text = subject.tokens(context + 1);
        let mut passes = Self {
            kv: decoder.kv_cache(bytes)?,
            greedy: Greedy::new(decoder.vocabulary())?,
            decoder,
            sequences: Vec::new(),
            context,
            texts: vec![text; batch],
            readout: Readout::default(),
        };
        for _ in 0..batch {
            let sequence = passes.kv.open(context)?;
            passes.sequences.push(sequence);
            passes.pass(sequence, PREFIX, false)?;
        }
        Ok(passes)
    }

    /// Bytes that a pass of few rows reads.
    pub(super) fn bytes(&self) -> usize {
        self.decoder.bytes_per_pass()
    }

    /// Rows of logits that were copied from the device so far, if it is a GPU.
    pub(super) fn copied_rows(&self) -> Option<u64> {
        match self.decoder.device() {
            Device::Cpu => None,
            Device::Cuda(_) => Some(self.decoder.copied_rows()),
        }
    }

    /// Positions of a sequence.
    pub(super) fn context(&self) -> usize {
        self.context
    }

    /// Takes a sequence up to position `end` of the first text, and reads all its rows or the last one.
    fn pass(&mut self, sequence: SequenceId, end: usize, all_rows: bool) -> anyhow::Result<()> {
        let tokens = &self.texts[0][self.kv.len(sequence, 0)..end];
        let span = Span {
            sequence,
            end,
            tokens,
        };
        let end = tokens.len() as u32;
        let rows = if all_rows { 0..end } else { end - 1..end };
        let Self {
            decoder,
            kv,
            readout,
            ..
        } = self;
        read_rows(decoder, kv, &[span], rows, readout)
    }

    /// Passes of 1 to `most` rows of one sequence, as verification runs them.
    pub(super) fn rows(&mut self, most: usize, rounds: usize) -> anyhow::Result<Vec<RowsReport>> {
        let sequence = self.sequences[0];
        let seconds = interleaved(most.min(MOST_ROWS), rounds, |variant| {
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

    /// Greedy decoding of the first sequences, so many at once as `batches` say, in turn: a rise up to all of them.
    pub(super) fn decode(&mut self, batches: &[usize], steps: usize) -> anyhow::Result<Vec<Steps>> {
        let room = self.context - PREFIX;
        let mut turns = 0;
        let mut passes = vec![Vec::with_capacity(steps + 1); batches.len()];
        let seconds = interleaved(batches.len(), steps, |variant| {
            let end = PREFIX + 1 + turns / batches.len() % room;
            turns += 1;
            passes[variant].push(self.step(batches[variant], end)?);
            anyhow::Ok(())
        })?;
        let all = batches.iter().zip(seconds).zip(passes);
        let steps = all.map(|((&batch, seconds), passes)| Steps {
            batch,
            seconds,
            // The first one is not among `seconds`.
            passes: passes[1..].to_vec(),
            device: self.decoder.device().clone(),
        });
        Ok(steps.collect())
    }

    /// The token after position `end` of each of the first sequences, which hold all positions before; seconds of
    /// the pass alone.
    fn step(&mut self, batch: usize, end: usize) -> anyhow::Result<f64> {
        let sequences = &self.sequences[..batch];
        sequences
            .iter()
            .for_each(|&id| self.kv.truncate(id, end - 1));
        let spans = sequences.iter().zip(&self.texts);
        let spans: Vec<Span<'_>> = spans
            .map(|(&sequence, text)| Span {
                sequence,
                end,
                tokens: &text[end - 1..end],
            })
            .collect();
        let Self {
            decoder,
            kv,
            readout,
            ..
        } = self;
        let rows = 0..batch as u32;
        let (seconds, result) = timed(|| read_rows(decoder, kv, &spans, rows, readout));
        result?;
        for (row, text) in self.texts[..batch].iter_mut().enumerate() {
            text[end] = self.greedy.choose(&self.readout, row)?;
        }
        Ok(seconds)
    }

    /// Seconds of a prompt of so many tokens, at most the context, up to the reading of its last one.
    pub(super) fn prefill(&mut self, tokens: usize) -> anyhow::Result<f64> {
        let sequence = self.kv.open(tokens)?;
        let mut seconds = Vec::new();
        for _ in 0..PREFILL_REPEATS {
            self.kv.truncate(sequence, 0);
            let (elapsed, result) = timed(|| self.pass(sequence, tokens, false));
            result?;
            seconds.push(elapsed);
        }
        self.kv.close(sequence);
        Ok(median(&seconds))
    }
}

/// Takes spans through the model and reads rows of them, as verify-svc does: tokens are chosen where the logits are.
fn read_rows(
    decoder: &mut Decoder,
    kv: &mut KvCache,
    spans: &[Span<'_>],
    rows: Range<u32>,
    readout: &mut Readout,
) -> anyhow::Result<()> {
    let rows: Vec<u32> = rows.collect();
    let reads = Reads {
        exit: None,
        rows: &rows,
        choices: &vec![Some(Choice::GREEDY); rows.len()],
        summaries: false,
    };
    decoder.step(kv, 0, spans, reads, readout)?;
    Ok(())
}
