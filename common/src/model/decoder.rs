//! The decoder, which takes rows through its bands.

use super::{
    Readout,
    attention::RowPlaces,
    cpu::CpuPass,
    head::Head,
    layer::Layer,
    pass::{Device, Pass, Reads, StepSeconds, Wanted},
    rotary::RotaryTable,
    weights::WeightLoader,
};
use crate::{
    Error, Result,
    checkpoint::{Architecture, Checkpoint, ModelConfig},
    exit::ExitHeads,
    kernels::{Kernels, Matrix, WeightType},
    kv::{KvCache, KvLayout, SequenceId},
};
use std::sync::Arc;

/// How a checkpoint is made into a decoder.
#[derive(Clone, Debug)]
pub struct DecoderOptions {
    /// The layer after the last one of each band, in rising order. Layers beyond are not touched.
    pub band_ends: Vec<usize>,
    /// The type of all matrices; `None` keeps them as they are stored.
    pub compute: Option<WeightType>,
    /// Positions that a sequence may have.
    pub max_context: usize,
}

/// One sequence's part of a step: the positions `kv.len(sequence, band)..end`.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// The position after the last one.
    pub end: usize,
    /// The tokens of these positions; read by the first band only.
    pub tokens: &'a [u32],
}

/// Layers, embedding and heads of a checkpoint, on the device that computes them.
pub struct Decoder {
    config: ModelConfig,
    kernels: Arc<Kernels>,
    band_ends: Vec<usize>,
    embedding: Matrix,
    head: Arc<Head>,
    bytes_per_pass: usize,
    max_context: usize,
    pass: Box<dyn Pass>,
    device: Device,
    hidden: Vec<f32>,
}

impl Decoder {
    /// Loads the layers up to the last band's end, the embedding and the model's own head, for the CPU.
    ///
    /// # Errors
    /// If the bands do not rise or go beyond the layers that the checkpoint holds, or a tensor is unfit.
    pub fn load(
        checkpoint: &Checkpoint,
        kernels: Arc<Kernels>,
        options: DecoderOptions,
    ) -> Result<Self> {
        Self::load_on(&Device::Cpu, checkpoint, kernels, options)
    }

    /// The same for any device. `kernels` compute what is left to the CPU.
    ///
    /// # Errors
    /// As [`Decoder::load`], and if the device has no room for the weights, or fails.
    pub fn load_on(
        device: &Device,
        checkpoint: &Checkpoint,
        kernels: Arc<Kernels>,
        options: DecoderOptions,
    ) -> Result<Self> {
        let config = checkpoint.config().clone();
        check_bands(&options.band_ends, checkpoint.layers_held())?;
        let loader = WeightLoader {
            checkpoint,
            compute: options.compute,
        };
        let depth = options.band_ends.last().copied().unwrap_or(0);
        let embedding = match config.architecture {
            Architecture::GptNeoX => "gpt_neox.embed_in.weight",
            Architecture::Llama => "model.embed_tokens.weight",
        };
        let layers: Vec<Layer> = (0..depth)
            .map(|index| Layer::load(&loader, &config, index))
            .collect::<Result<_>>()?;
        let head = Arc::new(Head::of_model(&loader, &config)?);
        let rotary = RotaryTable::new(&config, options.max_context);
        let bytes_per_pass = layers.iter().map(Layer::byte_len).sum::<usize>() + head.byte_len();
        Ok(Self {
            embedding: loader.matrix(embedding)?,
            pass: match device {
                Device::Cpu => Box::new(CpuPass::new(&kernels, layers, &head, rotary)),
                Device::Cuda(gpu) => {
                    Box::new(super::cuda::CudaPass::new(gpu, &layers, &head, &rotary)?)
                }
            },
            device: device.clone(),
            head,
            bytes_per_pass,
            max_context: options.max_context,
            band_ends: options.band_ends,
            config,
            kernels,
            hidden: Vec::new(),
        })
    }

    /// Replaces the untrained exits by trained heads, one for each band that has one.
    ///
    /// # Errors
    /// If a head's tensors do not fit this model.
    pub fn attach_heads(&mut self, heads: &ExitHeads, compute: Option<WeightType>) -> Result<()> {
        let trained = heads
            .heads
            .iter()
            .map(|head| Ok((head.layer, self.head.trained(&self.config, head, compute)?)));
        self.pass.attach_exits(trained.collect::<Result<_>>()?)
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The kernels that this decoder runs on.
    pub fn kernels(&self) -> &Arc<Kernels> {
        &self.kernels
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The layer after each band.
    pub fn band_ends(&self) -> &[usize] {
        &self.band_ends
    }

    /// The shape of a cache for this decoder.
    pub fn kv_layout(&self) -> KvLayout {
        KvLayout::new(&self.config, self.band_ends.clone())
    }

    /// A cache of at most `budget_bytes` for this decoder, where it runs. On a GPU there is one at a time.
    ///
    /// # Errors
    /// If the budget does not hold a single block in every layer, or the device has no room for it.
    pub fn kv_cache(&mut self, budget_bytes: usize) -> Result<KvCache> {
        let kv = match self.device {
            Device::Cpu => KvCache::new(self.kv_layout(), budget_bytes)?,
            Device::Cuda(_) => KvCache::elsewhere(self.kv_layout(), budget_bytes)?,
        };
        self.allocate(&kv)?;
        Ok(kv)
    }

    /// Takes the memory of a cache on the device; on a GPU, of the only one that this decoder runs with.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub(crate) fn allocate(&mut self, kv: &KvCache) -> Result<()> {
        self.pass.allocate(kv.floats())
    }

    /// Width of a row of logits.
    pub fn vocabulary(&self) -> usize {
        self.head.vocabulary()
    }

    /// Bytes that a pass over all layers and the head must read, whatever the number of rows.
    pub fn bytes_per_pass(&self) -> usize {
        self.bytes_per_pass
    }

    /// Takes the rows of all spans through one band. Spans must be of different sequences.
    ///
    /// Positions that lack the band enter it in order, with the state in which they left the
    /// band before. Returns the states at the band's end, `[rows, hidden]`, span after span.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, a position is beyond the context or the sequence's
    /// capacity, or a row has not been through the band before. The cache is then unchanged.
    pub fn advance(&mut self, kv: &mut KvCache, band: usize, spans: &[Span<'_>]) -> Result<&[f32]> {
        let wanted = Wanted {
            states: true,
            reads: None,
        };
        self.run(kv, band, spans, wanted)?;
        Ok(&self.hidden)
    }

    /// The same, but what comes of it are the tokens, logits and summaries of some of the rows. On a GPU
    /// nothing waits between the layers and the head, and no state comes back without need.
    ///
    /// # Errors
    /// As of [`Decoder::advance`], and if a row is read that the step does not have.
    pub fn step(
        &mut self,
        kv: &mut KvCache,
        band: usize,
        spans: &[Span<'_>],
        reads: Reads<'_>,
        out: &mut Readout,
    ) -> Result<StepSeconds> {
        let wanted = Wanted {
            states: false,
            reads: Some((reads, out)),
        };
        self.run(kv, band, spans, wanted)
    }

    fn run(
        &mut self,
        kv: &mut KvCache,
        band: usize,
        spans: &[Span<'_>],
        mut wanted: Wanted<'_>,
    ) -> Result<StepSeconds> {
        self.hidden.clear();
        let mut rows = RowPlaces {
            sequences: Vec::new(),
            positions: Vec::new(),
        };
        for span in spans {
            let start = kv.len(span.sequence, band);
            self.check_position(span.end.saturating_sub(1))?;
            self.enter(kv, band, start, span)?;
            rows.positions.extend(start..span.end);
            rows.sequences.resize(rows.positions.len(), span.sequence);
        }
        if let Some((reads, _)) = &wanted.reads {
            reads.check(rows.positions.len())?;
        }
        let mut step = kv.begin();
        for span in spans {
            step.extend(span.sequence, band, span.end)?;
        }
        let first = if band == 0 {
            0
        } else {
            self.band_ends[band - 1]
        };
        let layers = first..self.band_ends[band];
        let goes_on = band + 1 < self.band_ends.len();
        wanted.states |= goes_on;
        let hidden = &mut self.hidden;
        let seconds = self.pass.run(layers, &rows, &mut step, hidden, wanted)?;
        if goes_on {
            let mut rest = self.hidden.as_slice();
            for (i, span) in spans.iter().enumerate() {
                let count = rows
                    .sequences
                    .iter()
                    .filter(|&&id| id == span.sequence)
                    .count();
                let (states, others) = rest.split_at(count * self.config.hidden);
                step.set_states(i, states);
                rest = others;
            }
        }
        step.commit();
        Ok(seconds)
    }

    /// Appends the states with which a span's rows enter a band.
    fn enter(&mut self, kv: &KvCache, band: usize, start: usize, span: &Span<'_>) -> Result<()> {
        if band > 0 {
            if span.end > kv.len(span.sequence, band - 1) {
                let reason = format!("{} has not been through band {}", span.end, band - 1);
                return Err(Error::InvalidParameter {
                    field: "position",
                    reason,
                });
            }
            self.hidden
                .extend_from_slice(kv.pending(span.sequence, start, span.end.max(start)));
            return Ok(());
        }
        if start + span.tokens.len() != span.end {
            let reason = format!(
                "{} tokens given for positions {start}..{}",
                span.tokens.len(),
                span.end
            );
            return Err(Error::InvalidParameter {
                field: "tokens",
                reason,
            });
        }
        for &token in span.tokens {
            if token as usize >= self.config.vocabulary {
                let reason = format!(
                    "{token} is not below the vocabulary of {}",
                    self.config.vocabulary
                );
                return Err(Error::InvalidParameter {
                    field: "token_ids",
                    reason,
                });
            }
            let at = self.hidden.len();
            self.hidden.resize(at + self.config.hidden, 0.0);
            self.embedding
                .row_f32(token as usize, &mut self.hidden[at..]);
        }
        Ok(())
    }

    fn check_position(&self, position: usize) -> Result<()> {
        if position < self.max_context {
            return Ok(());
        }
        let reason = format!(
            "{position} is beyond the context of {} tokens",
            self.max_context
        );
        Err(Error::InvalidParameter {
            field: "position",
            reason,
        })
    }

    /// The model's logits of hidden states after the last layer: `hidden` is `[rows, hidden]`,
    /// `out` becomes `[rows, vocabulary]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn logits(&mut self, hidden: &[f32], out: &mut Vec<f32>) -> Result<()> {
        self.pass.logits(None, hidden, out)
    }

    /// The logits of an exit after `layer`: a trained head if one is attached there, else the
    /// model's own head applied early. Shapes as in [`Decoder::logits`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn exit_logits(&mut self, layer: usize, hidden: &[f32], out: &mut Vec<f32>) -> Result<()> {
        self.pass.logits(Some(layer), hidden, out)
    }

    /// Rows of logits that were copied from a GPU so far; none on the CPU, which has them at hand.
    pub fn copied_rows(&self) -> u64 {
        self.pass.copied_rows()
    }
}

fn check_bands(band_ends: &[usize], layers: usize) -> Result<()> {
    let rising = band_ends.windows(2).all(|pair| pair[0] < pair[1]);
    let fits = band_ends.first().is_some_and(|&first| first > 0)
        && band_ends.last().is_some_and(|&last| last <= layers);
    if rising && fits {
        return Ok(());
    }
    let reason = format!(
        "{band_ends:?} must rise from 1 to at most the {layers} layers that the checkpoint holds"
    );
    Err(Error::InvalidParameter {
        field: "exits",
        reason,
    })
}
