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
    output: GpuLinear,
    shape: AttentionShape,
    mlp_norm: GpuNorm,
    gate: Option<GpuLinear>,
    up: GpuLinear,
    down: GpuLinear,
    activation: Activation,
    parallel_residual: bool,
}

enum Projections {
    /// One matrix with rows laid out `[heads, 3, head_dim]`.
    Fused(GpuLinear),
    /// Queries, keys and values.
    Separate(Box<[GpuLinear; 3]>),
}

/// Buffers of [`GpuLayer::apply`], kept between calls.
pub(super) struct LayerBuffers {
    normed: Floats,
    /// Of the projections: the fused one, or queries, keys, values.
    projected: [Floats; 3],
    queries: Floats,
    scores: Floats,
    mixed: Floats,
    attended: Floats,
    gate: Floats,
    up: Floats,
    fed: Floats,
}

impl LayerBuffers {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let none = || gpu.room(0);
        Ok(Self {
            normed: none()?,
            projected: [none()?, none()?, none()?],
            queries: none()?,
            scores: none()?,
            mixed: none()?,
            attended: none()?,
            gate: none()?,
            up: none()?,
            fed: none()?,
        })
    }
}

impl GpuLayer {
    pub(super) fn upload(gpu: &Gpu, layer: &Layer) -> Result<Self> {
        let linear = |linear: &mlp::Linear| GpuLinear::upload(gpu, linear);
        let Layer { attention, mlp, .. } = layer;
        Ok(Self {
            attention_norm: upload_norm(gpu, &layer.attention_norm)?,
            projections: match &attention.projections {
                attention::Projections::Fused(qkv) => Projections::Fused(linear(qkv)?),
                attention::Projections::Separate { query, key, value } => {
                    let all = [linear(query)?, linear(key)?, linear(value)?];
                    Projections::Separate(Box::new(all))
                }
            },
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
        gpu.reserve(&mut buffers.normed, count)?;
        gpu.norm(&self.attention_norm, x, &mut buffers.normed, rows)?;
        self.attend(gpu, places, rotary, buffers, cache)?;
        if self.parallel_residual {
            gpu.norm(&self.mlp_norm, x, &mut buffers.normed, rows)?;
            gpu.add(x, &buffers.attended, count)?;
        } else {
            gpu.add(x, &buffers.attended, count)?;
            gpu.norm(&self.mlp_norm, x, &mut buffers.normed, rows)?;
        }
        self.feed(gpu, buffers, rows)?;
        gpu.add(x, &buffers.fed, count)
    }

    /// From `normed` to `attended`.
    fn attend(
        &self,
        gpu: &Gpu,
        places: &LayerPlaces,
        rotary: &Rotary,
        buffers: &mut LayerBuffers,
        cache: &mut Floats,
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
            attended,
            ..
        } = buffers;
        // SAFETY: as above; the keys and values of these rows were appended just now, others before.
        unsafe { gpu.attend(&attention, queries, cache, scores, mixed)? };
        self.output.apply(gpu, mixed, attended, rows)
    }

    fn project(&self, gpu: &Gpu, buffers: &mut LayerBuffers, rows: usize) -> Result<Projected> {
        let LayerBuffers {
            normed, projected, ..
        } = buffers;
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.shape;
        match &self.projections {
            Projections::Fused(qkv) => {
                qkv.apply(gpu, normed, &mut projected[0], rows)?;
                let query = gpu.address(&projected[0]);
                let head = (head_dim * size_of::<f32>()) as u64;
                Ok(Projected {
                    query,
                    key: query + head,
                    value: query + 2 * head,
                    query_row: (3 * heads * head_dim) as u64,
                    key_row: (3 * heads * head_dim) as u64,
                    head: 3 * head_dim as u32,
                })
            }
            Projections::Separate(all) => {
                for (linear, out) in all.iter().zip(projected.iter_mut()) {
                    linear.apply(gpu, normed, out, rows)?;
                }
                let [query, key, value] = projected.each_ref().map(|buffer| gpu.address(buffer));
                Ok(Projected {
                    query,
                    key,
                    value,
                    query_row: (heads * head_dim) as u64,
                    key_row: (kv_heads * head_dim) as u64,
                    head: head_dim as u32,
                })
            }
        }
    }

    /// From `normed` to `fed`.
    fn feed(&self, gpu: &Gpu, buffers: &mut LayerBuffers, rows: usize) -> Result<()> {
        let LayerBuffers {
            normed,
            gate,
            up,
            fed,
            ..
        } = buffers;
        let inner = rows * self.up.weight.n();
        self.up.apply(gpu, normed, up, rows)?;
        let Some(gated) = &self.gate else {
            gpu.activate(self.activation, up, None, inner)?;
            return self.down.apply(gpu, up, fed, rows);
        };
        gated.apply(gpu, normed, gate, rows)?;
        gpu.activate(self.activation, gate, Some(up), inner)?;
        self.down.apply(gpu, gate, fed, rows)
    }
}
