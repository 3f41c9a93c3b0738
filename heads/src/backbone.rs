//! The frozen model, run over windows of tokens.

use crate::Result;
use dssd_common::{
    checkpoint::Checkpoint,
    entropy::Summary,
    kernels::{Kernels, WeightType},
    kv::KvCache,
    model::{Decoder, DecoderOptions, Device, Span},
};
use std::sync::Arc;

/// Where the frozen model runs and heads learn.
#[derive(Clone)]
pub struct Machine {
    /// For the passes of the model, and for what heads learn.
    pub device: Device,
    /// The CPU's.
    pub kernels: Arc<Kernels>,
}

impl Machine {
    /// So many threads of the CPU.
    pub fn cpu(threads: usize) -> Self {
        Self::new(Device::Cpu, threads)
    }

    /// A device, beside so many threads of the CPU.
    pub fn new(device: Device, threads: usize) -> Self {
        Self {
            device,
            kernels: Arc::new(Kernels::new(threads)),
        }
    }
}

/// The model, cut into bands at the exits.
pub struct Backbone {
    decoder: Decoder,
    kv: KvCache,
    exits: Vec<usize>,
    longest: usize,
}

/// What one pass over some windows gives. Rows are positions, window after window.
pub struct Pass {
    /// Rows.
    pub rows: usize,
    /// The residual stream at each exit, `[rows, hidden]`.
    pub exits: Vec<Vec<f32>>,
    /// The residual stream after the last layer, `[rows, hidden]`.
    pub last: Vec<f32>,
}

/// What the whole model says of some rows.
pub struct Teacher {
    /// Probabilities at temperature 1, `[rows, vocabulary]`.
    pub probabilities: Vec<f32>,
    /// Summaries of the logits, `[rows]`.
    pub summaries: Vec<Summary>,
}

impl Backbone {
    /// Loads all layers; `exits` are layers in rising order below the last one. Passes take at
    /// most `windows` windows of at most `longest` tokens.
    ///
    /// # Errors
    /// If a tensor is unfit, an exit is not inside the model, or the device fails.
    pub fn load(
        checkpoint: &Checkpoint,
        machine: &Machine,
        exits: &[usize],
        windows: usize,
        longest: usize,
    ) -> Result<Self> {
        let mut band_ends = exits.to_vec();
        band_ends.push(checkpoint.config().layers);
        let options = DecoderOptions {
            band_ends,
            compute: None::<WeightType>,
            max_context: longest,
        };
        let kernels = Arc::clone(&machine.kernels);
        let mut decoder = Decoder::load_on(&machine.device, checkpoint, kernels, options)?;
        let layout = decoder.kv_layout();
        let bytes = windows * layout.blocks_for(longest) * layout.block_bytes();
        Ok(Self {
            kv: decoder.kv_cache(bytes)?,
            decoder,
            exits: exits.to_vec(),
            longest,
        })
    }

    /// The decoder, for its heads.
    pub fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// The model and an empty cache, for generation.
    pub fn parts(&mut self) -> (&mut Decoder, &mut KvCache) {
        (&mut self.decoder, &mut self.kv)
    }

    /// The kernels that the model runs on.
    pub fn kernels(&self) -> Arc<Kernels> {
        Arc::clone(self.decoder.kernels())
    }

    /// Runs windows through all layers.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, or there are more windows than announced.
    pub fn run(&mut self, windows: &[&[u32]]) -> Result<Pass> {
        let mut spans = Vec::with_capacity(windows.len());
        for &tokens in windows {
            spans.push(Span {
                sequence: self.kv.open(tokens.len().min(self.longest))?,
                end: tokens.len(),
                tokens,
            });
        }
        let states = self.bands(&spans);
        for span in &spans {
            self.kv.close(span.sequence);
        }
        let mut exits = states?;
        let last = exits.pop().unwrap_or_default();
        Ok(Pass {
            rows: windows.iter().map(|window| window.len()).sum(),
            exits,
            last,
        })
    }

    fn bands(&mut self, spans: &[Span<'_>]) -> Result<Vec<Vec<f32>>> {
        (0..=self.exits.len())
            .map(|band| Ok(self.decoder.advance(&mut self.kv, band, spans)?.to_vec()))
            .collect()
    }

    /// What the whole model says of rows of [`Pass::last`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn teach(&mut self, last: &[f32], teacher: &mut Teacher) -> Result<()> {
        let kernels = self.kernels();
        let Teacher {
            probabilities,
            summaries,
        } = teacher;
        self.decoder.logits(last, probabilities)?;
        kernels.summarize(probabilities, self.decoder.vocabulary(), summaries);
        let log_sum_exp: Vec<f32> = summaries.iter().map(|row| row.log_sum_exp).collect();
        kernels.probabilities(probabilities, &log_sum_exp);
        Ok(())
    }
}

impl Teacher {
    /// Buffers for [`Backbone::teach`].
    pub fn new() -> Self {
        Self {
            probabilities: Vec::new(),
            summaries: Vec::new(),
        }
    }
}

impl Default for Teacher {
    fn default() -> Self {
        Self::new()
    }
}
