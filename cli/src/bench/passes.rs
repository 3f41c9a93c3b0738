//! The whole model and its cache, set up for passes that can be repeated.

use super::{
    subject::Subject,
    timing::{interleaved, median, median_ratio, timed},
};
use dssd_common::{
    entropy::Summary,
    kv::{KvCache, SequenceId},
    model::{Decoder, DecoderOptions, Span},
};
use serde::Serialize;
use std::sync::Arc;

/// Positions before the measured ones.
const PREFIX: usize = 64;
/// Rows of a measured prefill, unless the model is made for fewer positions.
const PREFILL: usize = 512;
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

/// Seconds per step of plain decoding. On a CPU nothing is moved to or from a device.
#[derive(Serialize)]
pub(super) struct Phases {
    pub(super) upload: f64,
    pub(super) pass: f64,
    pub(super) download: f64,
    pub(super) other: f64,
}

/// The model with its cache; all sequences hold the prefix.
pub(super) struct Passes {
    decoder: Decoder,
    kv: KvCache,
    sequences: Vec<SequenceId>,
    context: usize,
    tokens: Vec<u32>,
    hidden: Vec<f32>,
    logits: Vec<f32>,
    summaries: Vec<Summary>,
}

impl Passes {
    /// Loads the model, and opens `batch` sequences.
    ///
    /// # Errors
    /// If a tensor is unfit.
    pub(super) fn new(subject: &Subject, batch: usize) -> anyhow::Result<Self> {
        let config = subject.checkpoint.config();
        let context = config.max_positions.min(PREFILL);
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
        let mut passes = Self {
            kv: decoder.kv_cache(bytes)?,
            decoder,
            sequences: Vec::new(),
            context,
            tokens: subject.tokens(context),
            hidden: Vec::new(),
            logits: Vec::new(),
            summaries: Vec::new(),
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

    /// Positions of a sequence, and rows of a prefill.
    pub(super) fn context(&self) -> usize {
        self.context
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
        self.decoder.logits(&self.hidden, &mut self.logits)?;
        Ok(())
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

    /// Greedy decoding of all sequences; the median step and its phases, in seconds.
    pub(super) fn decode(&mut self, steps: usize) -> anyhow::Result<(f64, Phases)> {
        let mut newest = vec![self.tokens[PREFIX]; self.sequences.len()];
        let (mut totals, mut passes) = (Vec::new(), Vec::new());
        let room = self.context - PREFIX;
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
            decoder.logits(hidden, logits)?;
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

    /// Seconds of a prompt that fills the context, up to the logits of its last one.
    pub(super) fn prefill(&mut self) -> anyhow::Result<f64> {
        let sequence = self.kv.open(self.context)?;
        let mut seconds = Vec::new();
        for _ in 0..PREFILL_REPEATS {
            self.kv.truncate(sequence, 0);
            let (elapsed, result) = timed(|| self.pass(sequence, self.context, false));
            result?;
            seconds.push(elapsed);
        }
        self.kv.close(sequence);
        Ok(median(&seconds))
    }
}
