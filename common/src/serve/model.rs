//! From a model folder to a decoder that is ready to run.

use super::{DeviceName, Dtype, KvMemory};
use crate::{
    Error, Result,
    checkpoint::{Checkpoint, demo, expected_tensors},
    kernels::Kernels,
    kv::{BLOCK_POSITIONS, KvCache, KvLayout},
    model::{Decoder, DecoderOptions, Device, Span},
    tokenizer::Tokenizer,
};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Rows of the passes that are timed at the start, up to the first that is dear or long.
const TIMED_ROWS: [usize; 11] = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
/// Passes of each size; the fastest counts.
const TIMED_PASSES: usize = 3;
/// What a pass may take, over one of a single row, for its rows to count as free.
const FREE: f64 = 1.25;
/// Time after which no more passes are timed.
const TIMING: Duration = Duration::from_secs(3);

/// Rows of the warm-up passes: a single one, and those of a short draft.
const WARM_UP_ROWS: [usize; 3] = [1, 4, 8];

/// Held while a model is loaded.
static LOADING: Mutex<()> = Mutex::new(());

/// What a GPU's context and the buffers of a pass may take: 1 GiB.
const GPU_BUFFERS: u64 = 1 << 30;

/// Opens a model folder, or the demo model if none is named.
///
/// # Errors
/// If the folder holds no model that is understood, or a tokenizer of another one.
pub fn open_model(dir: Option<&Path>) -> Result<(Arc<Checkpoint>, Option<Arc<Tokenizer>>)> {
    let dir = dir.map_or_else(demo::folder, |dir| Ok(dir.to_owned()))?;
    let checkpoint = Checkpoint::open(&dir)?;
    let tokenizer = Tokenizer::open(&dir)?;
    let vocabulary = checkpoint.config().vocabulary;
    if let Some(tokens) = tokenizer.as_ref().map(Tokenizer::vocabulary)
        && tokens > vocabulary
    {
        return Err(Error::Mismatch {
            what: "vocabulary of tokenizer.json",
            expected: format!("at most {vocabulary} ids, as the model"),
            found: format!("{tokens} ids"),
        });
    }
    Ok((Arc::new(checkpoint), tokenizer.map(Arc::new)))
}

/// How a service holds its model.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// Where it runs.
    pub device: DeviceName,
    /// Threads of a pass; as many as the machine runs at once if unset.
    pub threads: Option<usize>,
    /// The type of all matrices.
    pub dtype: Dtype,
    /// Budget of the KV cache.
    pub kv_memory: Option<KvMemory>,
    /// Whether the system gives that memory now, instead of with the first use of each part.
    pub preallocate_kv: bool,
    /// Sequences at once, for the default of that budget.
    pub max_sequences: usize,
    /// Most tokens of a sequence; what the model is made for if unset.
    pub max_context: Option<usize>,
    /// The layer after each band.
    pub band_ends: Vec<usize>,
}

/// A model in memory, with its cache.
pub struct LoadedModel {
    /// The layers.
    pub decoder: Decoder,
    /// Room for their keys and values.
    pub kv: KvCache,
    /// Most tokens that a sequence can have: by setting, by model, and by the cache's budget.
    pub max_context: usize,
}

impl ModelSettings {
    /// Loads the layers up to the last band's end.
    ///
    /// # Errors
    /// If a setting does not fit the checkpoint, or the budget not even one block a layer.
    pub fn load(self, checkpoint: &Checkpoint) -> Result<LoadedModel> {
        let positions = checkpoint.config().max_positions;
        let wanted = self.max_context.unwrap_or(positions);
        if wanted == 0 || wanted > positions {
            return Err(Error::InvalidParameter {
                field: "--max-context",
                reason: format!("is {wanted}, must be 1 to {positions}, as the model"),
            });
        }
        // The context first: nothing is made for positions that the cache has no room for, however
        // many the configuration claims.
        let layout = KvLayout::new(checkpoint.config(), self.band_ends.clone());
        let useful = layout
            .blocks_for(wanted)
            .saturating_mul(layout.block_bytes()) as u64;
        let useful = useful.saturating_mul(self.max_sequences as u64);
        let device = self.device.open()?;
        // Services of one process that share a GPU must not all count on the same free memory.
        let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        let kv = self.cache(&device, checkpoint, layout, useful)?;
        let max_context = longest(&kv, wanted);
        if max_context < wanted {
            tracing::warn!(max_context, wanted, "the KV budget shortens the context");
        }
        let threads = self
            .threads
            .or_else(|| thread::available_parallelism().ok().map(usize::from));
        let kernels = Arc::new(Kernels::new(threads.unwrap_or(1)));
        let options = DecoderOptions {
            band_ends: self.band_ends,
            compute: self.dtype.compute(),
            max_context,
        };
        let mut decoder = Decoder::load_on(&device, checkpoint, kernels, options)?;
        decoder.allocate(&kv)?;
        Ok(LoadedModel {
            decoder,
            kv,
            max_context,
        })
    }
}

impl ModelSettings {
    /// The cache; on a GPU, in what the weights leave of its memory.
    fn cache(
        &self,
        device: &Device,
        checkpoint: &Checkpoint,
        layout: KvLayout,
        useful: u64,
    ) -> Result<KvCache> {
        let bytes = |budget: u64| usize::try_from(budget).unwrap_or(usize::MAX);
        match device {
            Device::Cpu => {
                let budget = KvMemory::budget(self.kv_memory, useful)?;
                let mut kv = KvCache::new(layout, bytes(budget))?;
                if self.preallocate_kv {
                    kv.touch();
                }
                Ok(kv)
            }
            Device::Cuda(gpu) => {
                let taken = self.weight_bytes(checkpoint)? + GPU_BUFFERS;
                let free = gpu.free_bytes()?.saturating_sub(taken);
                let budget = KvMemory::budget_on_gpu(self.kv_memory, useful, free)?;
                KvCache::elsewhere(layout, bytes(budget))
            }
        }
    }

    /// Bytes of the weights that this device will hold.
    fn weight_bytes(&self, checkpoint: &Checkpoint) -> Result<u64> {
        let layers = self.band_ends.last().copied().unwrap_or(0);
        let mut sum = 0;
        for (name, shape) in expected_tensors(checkpoint.config(), layers) {
            let stored = checkpoint.tensor(&name)?.dtype;
            let dtype = self.dtype.compute().unwrap_or(stored);
            let weights = shape.iter().product::<usize>();
            sum += (weights * dtype.bytes_per_weight()) as u64;
        }
        Ok(sum)
    }
}

/// The most positions, up to `wanted`, that a single sequence can have in an empty cache.
fn longest(kv: &KvCache, wanted: usize) -> usize {
    let total = kv.usage().total_blocks;
    let fits = |positions: &usize| kv.layout().blocks_for(*positions) <= total;
    if fits(&wanted) {
        return wanted;
    }
    let (mut most, mut beyond) = (0, wanted / BLOCK_POSITIONS + 1);
    while most + 1 < beyond {
        let middle = most.midpoint(beyond);
        match fits(&(middle * BLOCK_POSITIONS)) {
            true => most = middle,
            false => beyond = middle,
        }
    }
    most * BLOCK_POSITIONS
}

impl LoadedModel {
    /// Runs a few passes, so that the first request finds weights in memory and threads awake.
    ///
    /// # Errors
    /// If a pass cannot be run.
    pub fn warm_up(&mut self) -> Result<()> {
        let mut logits = Vec::new();
        let most = self.max_context;
        for rows in WARM_UP_ROWS.into_iter().filter(|&rows| rows <= most) {
            self.run_pass(rows, |decoder, layer, hidden| {
                decoder.exit_logits(layer, hidden, &mut logits)
            })?;
        }
        Ok(())
    }

    /// Runs new rows through every band, and has `read` the hidden states at the end of each.
    fn run_pass(
        &mut self,
        rows: usize,
        mut read: impl FnMut(&mut Decoder, usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let Self { decoder, kv, .. } = self;
        let sequence = kv.open(rows)?;
        let span = Span {
            sequence,
            end: rows,
            tokens: &vec![0; rows],
        };
        for band in 0..decoder.band_ends().len() {
            let hidden = decoder.advance(kv, band, &[span])?.to_vec();
            let layer = decoder.band_ends()[band];
            read(decoder, layer, &hidden)?;
        }
        kv.close(sequence);
        Ok(())
    }

    /// Rows, 1 to 64, that a pass over the whole model computes in little more time than one: the
    /// weights are read once for all of them. It is measured, and is so of this machine.
    ///
    /// # Errors
    /// If a pass cannot be run.
    pub fn free_rows(&mut self) -> Result<usize> {
        let begun = Instant::now();
        // A GPU's buffers grow once, and recordings of launches stay.
        if let Some(&most) = TIMED_ROWS
            .iter()
            .rev()
            .find(|&&rows| rows <= self.max_context)
        {
            self.time_passes(most, 1)?;
        }
        let limit = self.time_pass(1)?.mul_f64(FREE);
        let mut free = 1;
        for rows in TIMED_ROWS {
            let late = begun.elapsed() > TIMING;
            if late || rows > self.max_context || self.time_pass(rows)? > limit {
                break;
            }
            free = rows;
        }
        Ok(free)
    }

    fn time_pass(&mut self, rows: usize) -> Result<Duration> {
        self.time_passes(rows, TIMED_PASSES)
    }

    fn time_passes(&mut self, rows: usize, passes: usize) -> Result<Duration> {
        let (mut fastest, mut logits) = (Duration::MAX, Vec::new());
        for _ in 0..passes {
            let begun = Instant::now();
            self.run_pass(rows, |decoder, layer, hidden| {
                match layer == decoder.config().layers {
                    true => decoder.logits(hidden, &mut logits),
                    false => Ok(()),
                }
            })?;
            fastest = fastest.min(begun.elapsed());
        }
        Ok(fastest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkpoint::random_checkpoint, kernels::WeightType};

    fn settings() -> ModelSettings {
        ModelSettings {
            device: DeviceName::Cpu,
            threads: Some(1),
            dtype: Dtype::Auto,
            kv_memory: None,
            preallocate_kv: false,
            max_sequences: 2,
            max_context: Some(64),
            band_ends: vec![2, 12],
        }
    }

    #[test]
    fn a_small_budget_shortens_the_context_to_what_fits() {
        let layout = KvLayout {
            kv_heads: 1,
            head_dim: 4,
            hidden: 4,
            band_ends: vec![3],
        };
        let two_blocks_a_layer = 6 * layout.block_bytes();
        let kv = KvCache::new(layout, two_blocks_a_layer).unwrap();
        assert_eq!(longest(&kv, 20), 20);
        assert_eq!(longest(&kv, 100), 2 * BLOCK_POSITIONS);
    }

    #[test]
    fn positions_that_no_cache_holds_take_no_memory() {
        let mut config = open_model(None).unwrap().0.config().clone();
        config.max_positions = 1 << 28;
        config.vocabulary = 8;
        let checkpoint = random_checkpoint(config, WeightType::Bf16, 1).unwrap();
        let mut settings = settings();
        settings.kv_memory = Some(KvMemory::Bytes(8 << 20));
        settings.max_context = None;
        let mut model = settings.load(&checkpoint).unwrap();
        assert!(model.max_context < 4096, "{}", model.max_context);
        model.warm_up().unwrap();
    }

    #[test]
    fn a_context_beyond_the_model_is_refused() {
        let (checkpoint, tokenizer) = open_model(None).unwrap();
        assert!(tokenizer.is_some());
        let mut model = settings().load(&checkpoint).unwrap();
        assert_eq!(model.max_context, 64);
        model.warm_up().unwrap();
        assert!((1..=64).contains(&model.free_rows().unwrap()));
        assert_eq!(
            model.kv.usage().reserved_blocks,
            0,
            "the warm-up leaves nothing"
        );
        for wrong in [0, 1025] {
            let mut settings = settings();
            settings.max_context = Some(wrong);
            let error = settings.load(&checkpoint).err().unwrap();
            let named = matches!(
                error,
                Error::InvalidParameter {
                    field: "--max-context",
                    ..
                }
            );
            assert!(named, "{error}");
        }
    }
}
