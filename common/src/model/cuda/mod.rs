//! The pass on a GPU.
//!
//! Weights, keys and values are there; the states of rows go there and come back with every band.

mod head;
mod layer;
mod places;

use super::{attention::RowPlaces, head::Head, layer::Layer, pass::Pass, rotary::RotaryTable};
use crate::{
    Error, Result,
    kernels::{
        Gpu,
        cuda::{Floats, GpuMatrix, GpuNorm},
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
}

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
            gpu: Arc::clone(gpu),
        })
    }
}

impl Pass for CudaPass {
    fn allocate(&mut self, floats: usize) -> Result<()> {
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
        for (index, layer) in self.layers[layers].iter().enumerate() {
            let places = self.places.layer(gpu, index);
            let x = &mut self.hidden;
            layer.apply(gpu, &places, &self.rotary, &mut self.buffers, cache, x)?;
        }
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
        Ok(())
    }

    fn logits(&mut self, exit: Option<usize>, hidden: &[f32], out: &mut Vec<f32>) -> Result<()> {
        let Self { gpu, .. } = self;
        let trained = self.exits.iter().find(|(at, _)| Some(*at) == exit);
        let head = trained.map_or(&self.head, |(_, head)| head);
        let rows = hidden.len() / head.features();
        out.resize(rows * head.vocabulary(), 0.0);
        if rows == 0 {
            return Ok(());
        }
        gpu.reserve(&mut self.hidden, hidden.len())?;
        gpu.write(hidden, &mut self.hidden)?;
        head.apply(
            gpu,
            &self.hidden,
            &mut self.head_buffers,
            &mut self.logits,
            rows,
        )?;
        gpu.read(&self.logits, out)
    }
}

/// A matrix with an optional bias, on the device.
struct GpuLinear {
    weight: GpuMatrix,
    bias: Option<Floats>,
}

impl GpuLinear {
    fn upload(gpu: &Gpu, linear: &super::mlp::Linear) -> Result<Self> {
        let bias = linear.bias.as_deref();
        Ok(Self {
            weight: GpuMatrix::upload(gpu, &linear.weight)?,
            bias: bias.map(|bias| gpu.upload(bias)).transpose()?,
        })
    }

    /// `x`: `[rows, inputs]`; `out` becomes `[rows, outputs]`.
    fn apply(&self, gpu: &Gpu, x: &Floats, out: &mut Floats, rows: usize) -> Result<()> {
        gpu.reserve(out, rows * self.weight.n())?;
        gpu.product(x, &self.weight, self.bias.as_ref(), out, rows)
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
