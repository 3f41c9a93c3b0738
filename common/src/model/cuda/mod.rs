//! The pass on a GPU.
//!
//! Weights, keys and values are there; the states of rows go there and come back with every band.

mod head;
mod layer;
mod places;

use super::{
    Readout,
    attention::RowPlaces,
    head::Head,
    layer::Layer,
    mlp::Linear,
    pass::{Pass, Rows},
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
use head::{GpuHead, HeadBuffers};
use layer::{GpuLayer, LayerBuffers};
use places::StepPlaces;
use std::{ops::Range, sync::Arc};

/// Layers and heads on a GPU, with the buffers of a pass.
pub(super) struct CudaPass {
    gpu: Arc<Gpu>,
    layers: Vec<GpuLayer>,
    head: GpuHead,
    /// What the head was made of.
    source: Arc<Head>,
    exits: Vec<(usize, GpuHead)>,
    rotary: Rotary,
    /// `[blocks, block_floats]` of the one KV cache whose steps are run.
    cache: Floats,
    hidden: Floats,
    logits: Floats,
    places: StepPlaces,
    buffers: LayerBuffers,
    head_buffers: HeadBuffers,
    readout: GpuReadout,
    graphs: Graphs<Recorded>,
    copied_rows: u64,
}

/// Launches that are alike.
#[derive(PartialEq, Eq, Hash)]
enum Recorded {
    /// The layers, and [`StepPlaces::shape`].
    Layers(Range<usize>, [usize; 3]),
    /// The head after a layer, or the model's own, the rows, and what is read of their logits.
    Head(Option<usize>, usize, Reads),
}

/// What is read of rows of logits on the device.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Reads {
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
            head: GpuHead::upload(gpu, head, None)?,
            source: Arc::clone(head),
            exits: Vec::new(),
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
    ) -> Result<()> {
        if hidden.is_empty() {
            return Ok(());
        }
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
        run(&mut self.graphs, gpu, rows.positions.len(), key, launches)?;
        gpu.read(&self.hidden, hidden)
    }

    fn attach_exits(&mut self, exits: Vec<(usize, Head)>) -> Result<()> {
        let gpu = &self.gpu;
        let upload = |(layer, head): &(usize, Head)| {
            let shared = Arc::ptr_eq(&head.unembedding, &self.source.unembedding);
            let shared = shared.then_some(&self.head);
            Ok((*layer, GpuHead::upload(gpu, head, shared)?))
        };
        self.exits = exits.iter().map(upload).collect::<Result<_>>()?;
        self.graphs.clear();
        Ok(())
    }

    fn logits(&mut self, exit: Option<usize>, hidden: &[f32], out: &mut Vec<f32>) -> Result<()> {
        let rows = self.launch_head(exit, hidden, Reads::Logits)?;
        self.copied_rows += rows as u64;
        out.resize(rows * self.head.vocabulary(), 0.0);
        self.gpu.read(&self.logits, out)
    }

    fn read(&mut self, rows: Rows<'_>, out: &mut Readout) -> Result<()> {
        self.readout.take(&self.gpu, rows.choices)?;
        self.launch_head(rows.exit, rows.hidden, Reads::Tokens)?;
        let vocabulary = self.head.vocabulary();
        out.begin(vocabulary);
        let found = self.readout.read(&self.gpu, &mut out.summaries)?;
        let chosen = found.zip(rows.choices);
        out.set_tokens(chosen.map(|(token, choice)| token.filter(|_| choice.is_some())));
        for (row, logits) in out.missing() {
            // SAFETY: what is copied here stays where it is until the wait below.
            unsafe { self.gpu.copy_part(&self.logits, row * vocabulary, logits)? };
            self.copied_rows += 1;
        }
        self.gpu.wait()
    }

    fn copied_rows(&self) -> u64 {
        self.copied_rows
    }
}

impl CudaPass {
    /// Takes rows of `hidden` through a head, into `logits` and what is read of them; returns how many.
    fn launch_head(&mut self, exit: Option<usize>, hidden: &[f32], reads: Reads) -> Result<usize> {
        let Self { gpu, logits, .. } = self;
        let trained = self.exits.iter().find(|(at, _)| Some(*at) == exit);
        let (place, head) = trained.map_or((None, &self.head), |(at, head)| (Some(*at), head));
        let rows = hidden.len() / head.features();
        if rows == 0 {
            return Ok(0);
        }
        gpu.reserve(&mut self.hidden, hidden.len())?;
        gpu.write(hidden, &mut self.hidden)?;
        let (x, buffers, readout) = (&self.hidden, &mut self.head_buffers, &mut self.readout);
        let launches = || {
            head.apply(gpu, x, buffers, logits, rows)?;
            match reads {
                Reads::Logits => Ok(()),
                Reads::Tokens => readout.launch(gpu, logits, head.vocabulary()),
            }
        };
        let key = Recorded::Head(place, rows, reads);
        run(&mut self.graphs, gpu, rows, key, launches)?;
        Ok(rows)
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

    /// Several, one below the other.
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
