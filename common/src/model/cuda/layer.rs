//! One transformer layer of either family, on the device.

use super::{GpuLinear, Rotary, places::LayerPlaces, upload_norm};
use crate::{
    Result,
    kernels::{
        Activation, AttentionShape, Gpu,
        cuda::{Attention, Floats, GpuNorm, Projected},
    },
    model::{attention, layer::Layer, mlp},
};

pub(super) struct GpuLayer {
    attention_norm: GpuNorm,
    projections: Projections,
    project: GpuLinear,
    output: GpuLinear,
    shape: AttentionShape,
    mlp_norm: GpuNorm,
    gate: Option<GpuLinear>,
    up: GpuLinear,
    down: GpuLinear,
    activation: Activation,
    parallel_residual: bool,
}

/// How queries, keys and values come out of their one matrix.
#[derive(Clone, Copy)]
enum Projections {
    /// Rows laid out `[heads, 3, head_dim]`.
    Interleaved,
    /// All queries, then all keys, then all values.
    Stacked,
}

/// Buffers of [`GpuLayer::apply`], kept between calls.
pub(super) struct LayerBuffers {
    attention_normed: Floats,
    mlp_normed: Floats,
    projected: Floats,
    queries: Floats,
    scores: Floats,
    mixed: Floats,
    gate: Floats,
    up: Floats,
}

impl LayerBuffers {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let none = || gpu.room(0);
        Ok(Self {
            attention_normed: none()?,
            mlp_normed: none()?,
            projected: none()?,
            queries: none()?,
            scores: none()?,
            mixed: none()?,
            gate: none()?,
            up: none()?,
        })
    }
}

impl GpuLayer {
    pub(super) fn upload(gpu: &Gpu, layer: &Layer) -> Result<Self> {
        let linear = |linear: &mlp::Linear| GpuLinear::upload(gpu, linear);
        let Layer { attention, mlp, .. } = layer;
        let (projections, project) = match &attention.projections {
            attention::Projections::Fused(qkv) => (Projections::Interleaved, linear(qkv)?),
            attention::Projections::Separate { query, key, value } => {
                let stack = GpuLinear::stack(gpu, &[query, key, value])?;
                (Projections::Stacked, stack)
            }
        };
        Ok(Self {
            attention_norm: upload_norm(gpu, &layer.attention_norm)?,
            projections,
            project,
            output: linear(&attention.output)?,
            shape: attention.shape(),
            mlp_norm: upload_norm(gpu, &layer.mlp_norm)?,
            gate: mlp.gate.as_ref().map(linear).transpose()?,
            up: linear(&mlp.up)?,
            down: linear(&mlp.down)?,
            activation: mlp.activation,
            parallel_residual: layer.parallel_residual,
        })
    }

    /// Bytes of its matrices.
    pub(super) fn byte_len(&self) -> usize {
        let all = [&self.project, &self.output, &self.up, &self.down];
        let all = all.into_iter().chain(&self.gate);
        all.map(|linear| linear.weight.byte_len()).sum()
    }

    /// Takes the step's rows of `x`, `[rows, hidden]`, through the layer in place.
    pub(super) fn apply(
        &self,
        gpu: &Gpu,
        places: &LayerPlaces,
        rotary: &Rotary,
        buffers: &mut LayerBuffers,
        cache: &mut Floats,
        x: &mut Floats,
    ) -> Result<()> {
        let rows = places.rows;
        let count = rows * self.attention_norm.weight.len();
        let LayerBuffers {
            attention_normed,
            mlp_normed,
            ..
        } = buffers;
        gpu.reserve(attention_normed, count)?;
        gpu.reserve(mlp_normed, count)?;
        let (first, second) = (&self.attention_norm, &self.mlp_norm);
        if self.parallel_residual {
            gpu.norm(first, x, attention_normed, Some((second, mlp_normed)), rows)?;
            self.attend(gpu, places, rotary, buffers, cache, x)?;
        } else {
            gpu.norm(first, x, attention_normed, None, rows)?;
            self.attend(gpu, places, rotary, buffers, cache, x)?;
            gpu.norm(second, x, &mut buffers.mlp_normed, None, rows)?;
        }
        self.feed(gpu, buffers, x, rows)
    }

    /// From `attention_normed` onto `x`.
    fn attend(
        &self,
        gpu: &Gpu,
        places: &LayerPlaces,
        rotary: &Rotary,
        buffers: &mut LayerBuffers,
        cache: &mut Floats,
        x: &mut Floats,
    ) -> Result<()> {
        let LayerPlaces {
            places,
            rows,
            most_keys,
        } = *places;
        let shape = &self.shape;
        let from = self.project(gpu, buffers, rows)?;
        let features = rows * shape.heads * shape.head_dim;
        gpu.reserve(&mut buffers.queries, features)?;
        gpu.reserve(&mut buffers.mixed, features)?;
        let angles = (&rotary.cos, &rotary.sin);
        let targets = (&mut buffers.queries, &mut *cache);
        let heads = (shape, rotary.half);
        // SAFETY: the projections are of these rows; positions are below the context, for which there are
        // angles; the tables have a block of the cache for every position up to each row's.
        unsafe { gpu.rotate_and_append(&from, &places, heads, angles, targets, rows)? };
        let attention = Attention {
            places,
            shape,
            most_keys,
            rows,
        };
        let LayerBuffers {
            queries,
            scores,
            mixed,
            ..
        } = buffers;
        // SAFETY: as above; the keys and values of these rows were appended just now, others before.
        unsafe { gpu.attend(&attention, queries, cache, scores, mixed)? };
        self.output.apply_onto(gpu, mixed, x, rows)
    }

    fn project(&self, gpu: &Gpu, buffers: &mut LayerBuffers, rows: usize) -> Result<Projected> {
        let LayerBuffers {
            attention_normed,
            projected,
            ..
        } = buffers;
        self.project.apply(gpu, attention_normed, projected, rows)?;
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.shape;
        // Floats from the first query to the first key, from there to the first value, and from head to head.
        let (keys, values, head) = match self.projections {
            Projections::Interleaved => (head_dim, head_dim, 3 * head_dim),
            Projections::Stacked => (heads * head_dim, kv_heads * head_dim, head_dim),
        };
        let query = gpu.address(projected);
        let after = |floats: usize| query + (floats * size_of::<f32>()) as u64;
        Ok(Projected {
            query,
            key: after(keys),
            value: after(keys + values),
            row: self.project.weight.n() as u64,
            head: head as u32,
        })
    }

    /// From `mlp_normed` onto `x`.
    fn feed(
        &self,
        gpu: &Gpu,
        buffers: &mut LayerBuffers,
        x: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        let LayerBuffers {
            mlp_normed: normed,
            gate,
            up,
            ..
        } = buffers;
        let Some(gated) = &self.gate else {
            let (up_of, finish) = (&self.up, (self.activation, None));
            up_of.apply_activated(gpu, normed, finish, up, rows)?;
            return self.down.apply_onto(gpu, up, x, rows);
        };
        self.up.apply(gpu, normed, up, rows)?;
        gated.apply_activated(gpu, normed, (self.activation, Some(up)), gate, rows)?;
        self.down.apply_onto(gpu, gate, x, rows)
    }
}
