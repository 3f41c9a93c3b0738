//! Passes of random models: the CPU's bits and tokens, in any batch, in chunks, late and after a roll-back.

use super::{
    Checked,
    numbers::{bits, rng},
};
use anyhow::{Context as _, Result, ensure};
use dssd_common::{
    checkpoint::{Checkpoint, ModelConfig, random_checkpoint, shape},
    exit::ExitHeads,
    kernels::{Kernels, WeightType},
    kv::{KvCache, SequenceId},
    model::{Decoder, DecoderOptions, Device, Readout, Reads, Span},
    sampling::{History, Sampler, SamplingParams, Scratch},
    serve::open_model,
};
use rand::Rng;
use std::sync::Arc;

const LAYERS: usize = 4;
/// The layer after each band.
const BANDS: [usize; 3] = [1, 2, LAYERS];
const CONTEXT: usize = 96;
/// Positions of a long prompt: more than shared memory holds the scores of, and than one launch does.
const LONG: usize = 4200;
/// The same of a quick check, which stays below both.
const QUICK_LONG: usize = 530;
const VOCABULARY: u32 = 90;
const SEQUENCES: usize = 3;
const KV_BYTES: usize = 16 << 20;

/// Shapes of either family, with heads, features and inputs that no tile divides.
fn configs() -> Result<Vec<(ModelConfig, WeightType)>> {
    let neox = |heads, head_dim, parallel| {
        let mut config = small("pythia-70m")?;
        (config.heads, config.kv_heads, config.head_dim) = (heads, heads, head_dim);
        config.hidden = heads * head_dim;
        config.rotary.dims = (head_dim / 4).next_multiple_of(2);
        config.parallel_residual = parallel;
        anyhow::Ok(config)
    };
    let llama = |heads, kv_heads, head_dim, hidden| {
        let mut config = small("llama-3.2-1b")?;
        (config.heads, config.kv_heads, config.head_dim) = (heads, kv_heads, head_dim);
        config.hidden = hidden;
        config.rotary.dims = head_dim;
        anyhow::Ok(config)
    };
    Ok(vec![
        (neox(3, 40, true)?, WeightType::Bf16),
        (neox(2, 10, false)?, WeightType::F32),
        (neox(1, 128, true)?, WeightType::F16),
        (llama(6, 2, 24, 50)?, WeightType::Bf16),
        (llama(3, 3, 8, 37)?, WeightType::F32),
        (llama(4, 1, 64, 72)?, WeightType::F16),
        (neox(1, 80, true)?, WeightType::F32),
        (llama(2, 1, 256, 40)?, WeightType::Bf16),
    ])
}

fn small(name: &str) -> Result<ModelConfig> {
    let mut config = shape(name)?;
    config.layers = LAYERS;
    config.vocabulary = VOCABULARY as usize;
    config.intermediate = 70;
    config.max_positions = CONTEXT;
    Ok(config)
}

/// Random walks of both devices.
///
/// # Errors
/// If a bit differs, or a device fails.
pub(super) fn decoders(device: &Device, quick: bool) -> Result<Checked> {
    let mut checked = Checked::new("passes");
    for (seed, (config, dtype)) in (0..).zip(configs()?) {
        let checkpoint = random_checkpoint(config, dtype, seed)?;
        let mut pair = Pair::new(device, &checkpoint)?;
        let mut rng = rng(seed);
        for _ in 0..30 {
            checked.add(pair.step(&mut rng)?);
        }
    }
    let long = if quick { QUICK_LONG } else { LONG };
    checked.add(long_prompt(device, long)?);
    checked.add(trained_exits(device)?);
    Ok(checked)
}

/// The demo model with its trained heads: a prompt, then token by token.
fn trained_exits(device: &Device) -> Result<usize> {
    let (checkpoint, _) = open_model(None)?;
    let heads = ExitHeads::find(None, &checkpoint)?.context("the demo model has no heads")?;
    let mut bands: Vec<usize> = heads.heads.iter().map(|head| head.layer).collect();
    bands.push(checkpoint.config().layers);
    let mut cpu = Machine::new(&Device::Cpu, &checkpoint, &bands, CONTEXT)?;
    let mut gpu = Machine::new(device, &checkpoint, &bands, CONTEXT)?;
    cpu.decoder.attach_heads(&heads, None)?;
    gpu.decoder.attach_heads(&heads, None)?;
    let texts = [text(0, 30)];
    for end in 24..=30 {
        for band in 0..bands.len() {
            let ends = [(0, end)];
            let same = match end % 2 {
                0 => cpu.advance(band, &ends, &texts)? == gpu.advance(band, &ends, &texts)?,
                _ => cpu.step(band, &ends, &texts)? == gpu.step(band, &ends, &texts)?,
            };
            ensure!(
                same,
                "the demo model, band {band}: other bits or tokens than the CPU's"
            );
        }
    }
    Ok(30 * bands.len())
}

/// A prompt of so many tokens at once.
fn long_prompt(device: &Device, length: usize) -> Result<usize> {
    let mut config = small("llama-3.2-1b")?;
    (config.heads, config.kv_heads, config.head_dim) = (4, 1, 8);
    (config.hidden, config.rotary.dims) = (24, 8);
    config.max_positions = length;
    let checkpoint = random_checkpoint(config, WeightType::Bf16, 9)?;
    let pair =
        [&Device::Cpu, device].map(|device| Machine::new(device, &checkpoint, &BANDS, length));
    let texts = [text(0, length)];
    let mut found = Vec::new();
    for machine in pair {
        found.push(machine?.advance(0, &[(0, length)], &texts)?);
    }
    ensure!(
        found[0] == found[1],
        "a prompt of {length} tokens: other bits than the CPU's"
    );
    Ok(length)
}

/// Tokens that look arbitrary.
fn text(seed: usize, len: usize) -> Vec<u32> {
    let token = |i: usize| (i * 7 + seed * 13 + i * i) as u32 % VOCABULARY;
    (0..len).map(token).collect()
}

/// The same sequences on both devices.
struct Pair {
    machines: [Machine; 2],
    texts: Vec<Vec<u32>>,
}

struct Machine {
    decoder: Decoder,
    kv: KvCache,
    sequences: Vec<SequenceId>,
}

impl Machine {
    fn new(
        device: &Device,
        checkpoint: &Checkpoint,
        bands: &[usize],
        context: usize,
    ) -> Result<Self> {
        let options = DecoderOptions {
            band_ends: bands.to_vec(),
            compute: None,
            max_context: context,
        };
        let kernels = Arc::new(Kernels::new(1));
        let mut decoder = Decoder::load_on(device, checkpoint, kernels, options)?;
        let mut kv = decoder.kv_cache(KV_BYTES)?;
        let sequences = (0..SEQUENCES).map(|_| kv.open(context));
        Ok(Self {
            sequences: sequences.collect::<dssd_common::Result<_>>()?,
            decoder,
            kv,
        })
    }

    /// Positions of a sequence in a band.
    fn held(&self, index: usize, band: usize) -> usize {
        self.kv.len(self.sequences[index], band)
    }

    /// The part of a step through a band that takes each sequence to its end.
    fn spans<'a>(
        &self,
        band: usize,
        ends: &[(usize, usize)],
        texts: &'a [Vec<u32>],
    ) -> Vec<Span<'a>> {
        let span = |&(index, end): &(usize, usize)| Span {
            sequence: self.sequences[index],
            end,
            tokens: &texts[index][self.held(index, band)..end],
        };
        ends.iter().map(span).collect()
    }

    /// States and logits of sequences, each taken to its end through a band.
    fn advance(
        &mut self,
        band: usize,
        ends: &[(usize, usize)],
        texts: &[Vec<u32>],
    ) -> Result<[Vec<u32>; 2]> {
        let spans = self.spans(band, ends, texts);
        let states = self.decoder.advance(&mut self.kv, band, &spans)?.to_vec();
        let layer = self.decoder.band_ends()[band];
        let mut logits = Vec::new();
        self.decoder.exit_logits(layer, &states, &mut logits)?;
        Ok([bits(&states), bits(&logits)])
    }

    /// The tokens of every other row of such a step.
    fn step(
        &mut self,
        band: usize,
        ends: &[(usize, usize)],
        texts: &[Vec<u32>],
    ) -> Result<Vec<u32>> {
        let spans = self.spans(band, ends, texts);
        let rows: usize = (ends.iter())
            .map(|&(index, end)| end - self.held(index, band))
            .sum();
        let rows: Vec<u32> = (0..rows as u32).rev().step_by(2).collect();
        let samplers = samplers(self.decoder.vocabulary())?;
        let histories: Vec<_> = (0..rows.len())
            .map(|row| History::new(&text(0, row), &[]))
            .collect();
        let choice = |(row, history): (usize, &History)| samplers[row % 3].plain_choice(history, 0);
        let choices: Vec<_> = histories.iter().enumerate().map(choice).collect();
        let (mut readout, mut scratch) = (Readout::default(), Scratch::default());
        let reads = Reads {
            exit: Some(self.decoder.band_ends()[band]),
            rows: &rows,
            choices: &choices,
            summaries: true,
        };
        (self.decoder).step(&mut self.kv, band, &spans, reads, &mut readout)?;
        let token = |(row, history): (usize, &History)| {
            samplers[row % 3].choose_of(readout.row(row), history, &mut scratch)
        };
        let tokens = histories.iter().enumerate().map(token);
        Ok(tokens.collect::<dssd_common::Result<_>>()?)
    }
}

/// Those that choose greedily, by noise alone, and under a filter.
fn samplers(vocabulary: usize) -> Result<Vec<Sampler>> {
    let sampler = |(temperature, top_k)| {
        let params = SamplingParams {
            temperature,
            top_k,
            seed: 5,
            ..SamplingParams::default()
        };
        Sampler::new(params, vocabulary, Vec::new())
    };
    let settings = [(0.0, 0), (0.9, 0), (0.9, 3)].into_iter();
    Ok(settings
        .map(sampler)
        .collect::<dssd_common::Result<Vec<_>>>()?)
}

impl Pair {
    fn new(device: &Device, checkpoint: &Checkpoint) -> Result<Self> {
        Ok(Self {
            machines: [
                Machine::new(&Device::Cpu, checkpoint, &BANDS, CONTEXT)?,
                Machine::new(device, checkpoint, &BANDS, CONTEXT)?,
            ],
            texts: (0..SEQUENCES).map(|seed| text(seed, CONTEXT)).collect(),
        })
    }

    /// Takes some sequences further through one band, and some back. Returns the rows compared.
    fn step(&mut self, rng: &mut impl Rng) -> Result<usize> {
        let band = rng.random_range(0..BANDS.len());
        let mut ends = Vec::new();
        let mut rows = 0;
        for index in 0..SEQUENCES {
            let limit = if band == 0 {
                CONTEXT
            } else {
                self.machines[0].held(index, band - 1)
            };
            let start = self.machines[0].held(index, band);
            let end = (start + rng.random_range(0..=11)).min(limit);
            if end > start {
                ends.push((index, end));
                rows += end - start;
            }
        }
        if ends.is_empty() {
            return Ok(0);
        }
        let [cpu, gpu] = &mut self.machines;
        let texts = &self.texts;
        let same = match rng.random_bool(0.5) {
            true => cpu.advance(band, &ends, texts)? == gpu.advance(band, &ends, texts)?,
            false => cpu.step(band, &ends, texts)? == gpu.step(band, &ends, texts)?,
        };
        ensure!(
            same,
            "band {band} up to {ends:?}: other bits or tokens than the CPU's"
        );
        if rng.random_bool(0.3) {
            let (index, _) = ends[0];
            let len = rng.random_range(0..=self.machines[0].held(index, 0));
            for machine in &mut self.machines {
                machine.kv.truncate(machine.sequences[index], len);
            }
        }
        Ok(rows)
    }
}
