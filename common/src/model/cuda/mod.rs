//! The pass on a GPU.
//!
//! Weights, keys and values are there. The states of rows go there with every band, and come back where rows
//! may go on from there.

mod head;
mod layer;
mod places;

use super::{
    Readout,
    attention::RowPlaces,
    head::Head,
    layer::Layer,
    mlp::Linear,
    pass::{Pass, Reads, StepSeconds, Wanted},
    rotary::RotaryTable,
};
use crate::{
    Error, Result,
    kernels::{
        Activation, Gpu, Matrix,
        cuda::{Finish, Floats, GpuMatrix, GpuNorm, GpuReadout, Graphs, check_vocabulary},
    },
    kv::Step,
};
use cudarc::driver::CudaSlice;
use head::{GpuHeads, HeadBuffers};
use layer::{GpuLayer, LayerBuffers};
use places::StepPlaces;
use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

/// Layers and heads on a GPU, with the buffers of a pass.
pub(super) struct CudaPass {
    gpu: Arc<Gpu>,
    layers: Vec<GpuLayer>,
    heads: GpuHeads,
    rotary: Rotary,
    /// `[blocks, block_floats]` of the one KV cache whose steps are run.
    cache: Floats,
    hidden: Floats,
    logits: Floats,
    places: StepPlaces,
    buffers: LayerBuffers,
    head_buffers: HeadBuffers,
    chosen: Chosen,
    readout: GpuReadout,
    graphs: Graphs<Recorded>,
    copied_rows: u64,
}

/// Launches that are alike.
#[derive(PartialEq, Eq, Hash)]
enum Recorded {
    /// The layers, and [`StepPlaces::shape`].
    Layers(Range<usize>, [usize; 3]),
    /// The head after a layer, or the model's own, the rows, and how far they go.
    Head(Option<usize>, usize, Until),
}

/// How far rows go on the device.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Until {
    Logits,
    Tokens,
}

/// Rows of a step beyond which launching it costs less than it does.
const MOST_RECORDED_ROWS: usize = 32;

/// Angles of every position, `[positions, half]` each.
struct Rotary {
    cos: Floats,
    sin: Floats,
    half: usize,
}

impl CudaPass {
    pub(super) fn new(
        gpu: &Arc<Gpu>,
        layers: &[Layer],
        head: &Arc<Head>,
        rotary: &RotaryTable,
    ) -> Result<Self> {
        check_vocabulary(head.vocabulary())?;
        Ok(Self {
            layers: layers
                .iter()
                .map(|layer| GpuLayer::upload(gpu, layer))
                .collect::<Result<_>>()?,
            heads: GpuHeads::new(gpu, head)?,
            rotary: Rotary {
                cos: gpu.upload(&rotary.cos)?,
                sin: gpu.upload(&rotary.sin)?,
                half: rotary.half,
            },
            cache: gpu.room(0)?,
            hidden: gpu.room(0)?,
            logits: gpu.room(0)?,
            places: StepPlaces::new(gpu)?,
            buffers: LayerBuffers::new(gpu)?,
            head_buffers: HeadBuffers::new(gpu)?,
            chosen: Chosen {
                rows: gpu.room(0)?,
                staged: Vec::new(),
            },
            readout: GpuReadout::new(gpu)?,
            graphs: Graphs::new(),
            copied_rows: 0,
            gpu: Arc::clone(gpu),
        })
    }
}

impl Pass for CudaPass {
    fn allocate(&mut self, floats: usize) -> Result<()> {
        self.graphs.clear();
        // Not beside the one before.
        self.cache = self.gpu.room(0)?;
        self.cache = self.gpu.room(floats)?;
        Ok(())
    }

    fn run(
        &mut self,
        layers: Range<usize>,
        rows: &RowPlaces,
        step: &mut Step<'_>,
        hidden: &mut [f32],
        wanted: Wanted<'_>,
    ) -> Result<StepSeconds> {
        if hidden.is_empty() {
            if let Some((_, out)) = wanted.reads {
                out.begin(self.heads.own.vocabulary());
            }
            return Ok(StepSeconds::default());
        }
        let begun = Instant::now();
        if let Some((reads, _)) = &wanted.reads {
            self.readout.take(&self.gpu, reads.choices)?;
            self.chosen.take(&self.gpu, reads.rows)?;
        }
        self.launch_layers(layers.clone(), rows, step, hidden)?;
        let mut head = None;
        if let Some((reads, _)) = wanted
            .reads
            .as_ref()
            .filter(|(reads, _)| !reads.rows.is_empty())
        {
            self.launch_head(reads.exit, reads.rows.len(), Until::Tokens)?;
            head = Some(self.heads.of(reads.exit).1.byte_len());
        }
        // Only now: a copy to the host waits for all before.
        if wanted.states {
            // SAFETY: the states stay where they are until the wait below.
            unsafe { self.gpu.copy_part(&self.hidden, 0, hidden)? };
        }
        let collected = match wanted.reads {
            Some((reads, out)) => self.collect(reads, out),
            None => Ok(()),
        };
        // Also after a failure: copies may be under way.
        self.gpu.wait()?;
        collected?;
        Ok(self.share(begun.elapsed(), layers, head.unwrap_or(0)))
    }

    fn attach_exits(&mut self, exits: Vec<(usize, Head)>) -> Result<()> {
        self.heads.attach(&self.gpu, &exits)?;
        self.graphs.clear();
        Ok(())
    }

    fn logits(&mut self, exit: Option<usize>, hidden: &[f32], out: &mut Vec<f32>) -> Result<()> {
        let rows = hidden.len() / self.heads.own.features();
        out.resize(rows * self.heads.own.vocabulary(), 0.0);
        if rows == 0 {
            return Ok(());
        }
        let all: Vec<u32> = (0..rows as u32).collect();
        self.gpu.reserve(&mut self.hidden, hidden.len())?;
        self.gpu.write(hidden, &mut self.hidden)?;
        self.chosen.take(&self.gpu, &all)?;
        self.launch_head(exit, rows, Until::Logits)?;
        self.copied_rows += rows as u64;
        self.gpu.read(&self.logits, out)
    }

    fn copied_rows(&self) -> u64 {
        self.copied_rows
    }
}

impl CudaPass {
    /// Takes the rows of `hidden` there and through layers. They must live until the next wait.
    fn launch_layers(
        &mut self,
        layers: Range<usize>,
        rows: &RowPlaces,
        step: &Step<'_>,
        hidden: &[f32],
    ) -> Result<()> {
        let Self { gpu, cache, .. } = self;
        if step.floats() > cache.len() {
            return Err(Error::Mismatch {
                what: "KV cache",
                expected: format!("the one of this decoder, of {} floats", cache.len()),
                found: format!("one of {}", step.floats()),
            });
        }
        self.places.upload(gpu, rows, step, layers.clone())?;
        gpu.reserve(&mut self.hidden, hidden.len())?;
        gpu.write(hidden, &mut self.hidden)?;
        let key = Recorded::Layers(layers.clone(), self.places.shape());
        let (x, buffers) = (&mut self.hidden, &mut self.buffers);
        let launches = || {
            for (index, layer) in self.layers[layers.clone()].iter().enumerate() {
                let places = self.places.layer(gpu, index);
                layer.apply(gpu, &places, &self.rotary, buffers, cache, x)?;
            }
            Ok(())
        };
        run(&mut self.graphs, gpu, rows.positions.len(), key, launches)
    }

    /// Takes the chosen rows of the device's `hidden`, so many, through a head, into `logits` and what is read of them.
    fn launch_head(&mut self, exit: Option<usize>, rows: usize, until: Until) -> Result<()> {
        let Self { gpu, logits, .. } = self;
        let (place, head) = self.heads.of(exit);
        let (x, chosen) = (&self.hidden, &self.chosen.rows);
        let (buffers, readout) = (&mut self.head_buffers, &mut self.readout);
        let launches = || {
            // SAFETY: the rows were checked against those of the step, or are all of them.
            unsafe { head.apply(gpu, (x, chosen), buffers, logits, rows)? };
            match until {
                Until::Logits => Ok(()),
                Until::Tokens => readout.launch(gpu, logits, head.vocabulary()),
            }
        };
        let key = Recorded::Head(place, rows, until);
        run(&mut self.graphs, gpu, rows, key, launches)
    }

    /// What was read of rows; the logits that are copied are there after the next wait.
    fn collect(&mut self, reads: Reads<'_>, out: &mut Readout) -> Result<()> {
        let vocabulary = self.heads.own.vocabulary();
        out.begin(vocabulary);
        if reads.rows.is_empty() {
            return Ok(());
        }
        let found = self.readout.read(&self.gpu, &mut out.summaries)?;
        let chosen = found.zip(reads.choices);
        out.set_tokens(chosen.map(|(token, choice)| token.filter(|_| choice.is_some())));
        for (row, logits) in out.missing() {
            // SAFETY: the caller waits before anybody reads or moves them.
            unsafe { self.gpu.copy_part(&self.logits, row * vocabulary, logits)? };
            self.copied_rows += 1;
        }
        Ok(())
    }

    /// The parts of a step's time, as the weights have them; `head`: bytes.
    fn share(&self, whole: Duration, layers: Range<usize>, head: usize) -> StepSeconds {
        let layers: usize = self.layers[layers].iter().map(GpuLayer::byte_len).sum();
        let seconds = whole.as_secs_f64();
        let reads = seconds * head as f64 / (head + layers).max(1) as f64;
        StepSeconds {
            layers: seconds - reads,
            reads,
        }
    }
}

/// Which rows are read, on the device.
struct Chosen {
    rows: CudaSlice<u32>,
    /// The same on the host, until they are there.
    staged: Vec<u32>,
}

impl Chosen {
    fn take(&mut self, gpu: &Gpu, rows: &[u32]) -> Result<()> {
        self.staged.clear();
        self.staged.extend_from_slice(rows);
        gpu.reserve(&mut self.rows, rows.len())?;
        gpu.write(&self.staged, &mut self.rows)
    }
}

/// Runs launches as a recording where that pays.
fn run(
    graphs: &mut Graphs<Recorded>,
    gpu: &Gpu,
    rows: usize,
    key: Recorded,
    mut launches: impl FnMut() -> Result<()>,
) -> Result<()> {
    if rows > MOST_RECORDED_ROWS {
        return launches();
    }
    graphs.run(gpu, key, launches)
}

/// A matrix with an optional bias, on the device.
struct GpuLinear {
    weight: GpuMatrix,
    bias: Option<Floats>,
}

impl GpuLinear {
    fn upload(gpu: &Gpu, linear: &Linear) -> Result<Self> {
        let bias = linear.bias.as_deref();
        Ok(Self {
            weight: GpuMatrix::upload(gpu, &linear.weight)?,
            bias: bias.map(|bias| gpu.upload(bias)).transpose()?,
        })
    }

    /// Several, one below the other; all have a bias, or none has.
    fn stack(gpu: &Gpu, parts: &[&Linear]) -> Result<Self> {
        let weights: Vec<&Matrix> = parts.iter().map(|part| &part.weight).collect();
        let bias: Option<Vec<&[f32]>> = parts.iter().map(|part| part.bias.as_deref()).collect();
        Ok(Self {
            weight: GpuMatrix::stack(gpu, &weights)?,
            bias: bias.map(|bias| gpu.upload(&bias.concat())).transpose()?,
        })
    }

    /// `x`: `[rows, inputs]`; `out` becomes `[rows, outputs]`.
    fn apply(&self, gpu: &Gpu, x: &Floats, out: &mut Floats, rows: usize) -> Result<()> {
        self.finish(gpu, x, Finish::default(), out, rows)
    }

    /// The same, added to `out`.
    fn apply_onto(&self, gpu: &Gpu, x: &Floats, out: &mut Floats, rows: usize) -> Result<()> {
        let finish = Finish {
            onto: true,
            ..Finish::default()
        };
        self.finish(gpu, x, finish, out, rows)
    }

    /// The same with an activation, and multiplied by `factor`, `[rows, outputs]`.
    fn apply_activated(
        &self,
        gpu: &Gpu,
        x: &Floats,
        (activation, factor): (Activation, Option<&Floats>),
        out: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        let finish = Finish {
            activation: Some(activation),
            factor,
            ..Finish::default()
        };
        self.finish(gpu, x, finish, out, rows)
    }

    fn finish(
        &self,
        gpu: &Gpu,
        x: &Floats,
        finish: Finish<'_>,
        out: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        let bias = self.bias.as_ref();
        gpu.reserve(out, rows * self.weight.n())?;
        gpu.product(x, &self.weight, Finish { bias, ..finish }, out, rows)
    }
}

fn upload_norm(gpu: &Gpu, norm: &super::norm::Norm) -> Result<GpuNorm> {
    Ok(GpuNorm {
        weight: gpu.upload(&norm.weight)?,
        bias: norm
            .bias
            .as_deref()
            .map(|bias| gpu.upload(bias))
            .transpose()?,
        eps: norm.eps,
        centred: norm.is_centred(),
    })
}
