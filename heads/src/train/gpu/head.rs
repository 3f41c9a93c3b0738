//! A head that learns on a GPU: forward, and the gradients back.

use super::{LessonRows, numbers};
use crate::{
    Result,
    train::head::{Map, Start, TrainableHead},
};
use candle_core::Tensor;
use dssd_common::kernels::{Gpu, GpuParameter, GpuProduct as Product, GpuRows, Store};
use std::sync::Arc;

/// The parameters of one head.
pub(super) struct GpuHead {
    norm: Norm,
    map: GpuMap,
    /// Of the parameters.
    shapes: Vec<Vec<usize>>,
}

/// Gain and bias.
enum Norm {
    Moves(Box<(GpuParameter, Option<GpuParameter>)>),
    Stays(GpuRows, Option<GpuRows>),
}

enum GpuMap {
    Linear(Box<GpuParameter>),
    Adapter(Box<Adapter>),
}

/// A low-rank map added to its input, before the model's own unembedding.
struct Adapter {
    down: GpuParameter,
    up: GpuParameter,
    unembedding: Arc<GpuRows>,
    /// Behind `down`, `[rows, rank]`.
    inner: GpuRows,
    /// Behind SiLU.
    active: GpuRows,
    /// The gradient for `active`, then for `inner`.
    gradient: GpuRows,
    /// The input with the map's output added, `[rows, hidden]`.
    mapped: GpuRows,
}

impl GpuHead {
    /// Uploads a head that takes `most` rows at once; adapters share the one `unembedding`.
    pub(super) fn upload(
        gpu: &Gpu,
        head: &TrainableHead,
        most: usize,
        unembedding: &mut Option<Arc<GpuRows>>,
    ) -> Result<Self> {
        let numbers = head.numbers();
        Ok(Self {
            norm: Norm::upload(gpu, head)?,
            map: match &numbers.map {
                Map::Linear(weight) => GpuMap::Linear(Box::new(parameter(gpu, weight)?)),
                Map::Adapter {
                    down,
                    up,
                    unembedding: own,
                } => {
                    let shared = match unembedding {
                        Some(shared) => Arc::clone(shared),
                        None => Arc::clone(unembedding.insert(Arc::new(rows(gpu, own)?))),
                    };
                    GpuMap::Adapter(Box::new(Adapter::upload(gpu, (down, up), shared, most)?))
                }
            },
            shapes: head
                .parameters()
                .iter()
                .map(|(_, var)| var.dims().to_vec())
                .collect(),
        })
    }

    /// What moves, in the order of [`TrainableHead::parameters`].
    pub(super) fn parameters(&self) -> Vec<&GpuParameter> {
        let mut all = Vec::new();
        if let Norm::Moves(moving) = &self.norm {
            all.push(&moving.0);
            all.extend(&moving.1);
        }
        match &self.map {
            GpuMap::Linear(weight) => all.push(weight),
            GpuMap::Adapter(adapter) => all.extend([&adapter.down, &adapter.up]),
        }
        all
    }

    /// The same, to move it.
    pub(super) fn parameters_mut(&mut self) -> Vec<&mut GpuParameter> {
        let mut all = Vec::new();
        if let Norm::Moves(moving) = &mut self.norm {
            all.push(&mut moving.0);
            all.extend(&mut moving.1);
        }
        match &mut self.map {
            GpuMap::Linear(weight) => all.push(weight),
            GpuMap::Adapter(adapter) => all.extend([&mut adapter.down, &mut adapter.up]),
        }
        all
    }

    /// The shape of each parameter.
    pub(super) fn shapes(&self) -> impl Iterator<Item = &[usize]> {
        self.shapes.iter().map(Vec::as_slice)
    }

    /// From normalised rows to logits.
    pub(super) fn logits(&mut self, gpu: &Gpu, lesson: &mut LessonRows) -> Result<()> {
        let LessonRows {
            count,
            normalised,
            normed,
            logits,
            ..
        } = lesson;
        let gain_and_bias = self.norm.vectors();
        gpu.scale(normalised, gain_and_bias, *count, normed)?;
        match &mut self.map {
            GpuMap::Linear(weight) => {
                let factors = (&*normed, &weight.value);
                gpu.multiply(Product::Nt, factors, *count, logits, Store::Over)?;
            }
            GpuMap::Adapter(adapter) => {
                gpu.scale(normalised, gain_and_bias, *count, &mut adapter.mapped)?;
                adapter.map(gpu, normed, *count)?;
                let factors = (&adapter.mapped, &*adapter.unembedding);
                gpu.multiply(Product::Nt, factors, *count, logits, Store::Over)?;
            }
        }
        Ok(())
    }

    /// Adds the gradients of the parameters, given that of the logits, which [`GpuHead::logits`] came to on the
    /// same rows.
    pub(super) fn gather(&mut self, gpu: &Gpu, lesson: &mut LessonRows) -> Result<()> {
        let LessonRows {
            count,
            normed,
            gradient,
            logits,
            ..
        } = lesson;
        let moves = matches!(self.norm, Norm::Moves(_));
        match &mut self.map {
            GpuMap::Linear(weight) => {
                let factors = (&*logits, &*normed);
                gpu.multiply(
                    Product::Tn,
                    factors,
                    *count,
                    &mut weight.gradient,
                    Store::Onto,
                )?;
                if moves {
                    let factors = (&*logits, &weight.value);
                    gpu.multiply(Product::Nn, factors, *count, gradient, Store::Over)?;
                }
            }
            GpuMap::Adapter(adapter) => {
                let factors = (&*logits, &*adapter.unembedding);
                gpu.multiply(Product::Nn, factors, *count, gradient, Store::Over)?;
                adapter.gather(gpu, normed, gradient, *count)?;
            }
        }
        self.norm.gather(gpu, lesson)
    }
}

impl Norm {
    fn upload(gpu: &Gpu, head: &TrainableHead) -> Result<Self> {
        let (gain, bias) = (
            &head.numbers().norm_weight,
            head.numbers().norm_bias.as_ref(),
        );
        Ok(match head.start() {
            Start::Model => Self::Moves(Box::new((
                parameter(gpu, gain)?,
                bias.map(|bias| parameter(gpu, bias)).transpose()?,
            ))),
            Start::Random => Self::Stays(
                rows(gpu, gain)?,
                bias.map(|bias| rows(gpu, bias)).transpose()?,
            ),
        })
    }

    fn vectors(&self) -> (&GpuRows, Option<&GpuRows>) {
        match self {
            Self::Moves(moving) => {
                let (gain, bias) = &**moving;
                (&gain.value, bias.as_ref().map(|bias| &bias.value))
            }
            Self::Stays(gain, bias) => (gain, bias.as_ref()),
        }
    }

    fn gather(&mut self, gpu: &Gpu, lesson: &LessonRows) -> Result<()> {
        let Self::Moves(moving) = self else {
            return Ok(());
        };
        let (gain, bias) = &mut **moving;
        let (g, x, count) = (&lesson.gradient, &lesson.normalised, lesson.count);
        gpu.sum_columns(g, Some(x), count, &mut gain.gradient)?;
        if let Some(bias) = bias {
            gpu.sum_columns(g, None, count, &mut bias.gradient)?;
        }
        Ok(())
    }
}

impl Adapter {
    fn upload(
        gpu: &Gpu,
        (down, up): (&Tensor, &Tensor),
        unembedding: Arc<GpuRows>,
        most: usize,
    ) -> Result<Self> {
        let (hidden, rank) = up.dims2()?;
        Ok(Self {
            down: parameter(gpu, down)?,
            up: parameter(gpu, up)?,
            unembedding,
            inner: gpu.zeros(most, rank)?,
            active: gpu.zeros(most, rank)?,
            gradient: gpu.zeros(most, rank)?,
            mapped: gpu.zeros(most, hidden)?,
        })
    }

    /// Adds the map of `normed` to `mapped`.
    fn map(&mut self, gpu: &Gpu, normed: &GpuRows, count: usize) -> Result<()> {
        let factors = (normed, &self.down.value);
        gpu.multiply(Product::Nt, factors, count, &mut self.inner, Store::Over)?;
        gpu.silu(&self.inner, count, &mut self.active)?;
        let factors = (&self.active, &self.up.value);
        gpu.multiply(Product::Nt, factors, count, &mut self.mapped, Store::Onto)?;
        Ok(())
    }

    /// Adds the gradients of both matrices; `gradient`, that for `mapped`, becomes that for `normed`.
    fn gather(
        &mut self,
        gpu: &Gpu,
        normed: &GpuRows,
        gradient: &mut GpuRows,
        count: usize,
    ) -> Result<()> {
        let Self { down, up, .. } = self;
        let factors = (&*gradient, &self.active);
        gpu.multiply(Product::Tn, factors, count, &mut up.gradient, Store::Onto)?;
        let factors = (&*gradient, &up.value);
        gpu.multiply(Product::Nn, factors, count, &mut self.gradient, Store::Over)?;
        gpu.silu_back(&self.inner, count, &mut self.gradient)?;
        let factors = (&self.gradient, normed);
        gpu.multiply(Product::Tn, factors, count, &mut down.gradient, Store::Onto)?;
        let factors = (&self.gradient, &down.value);
        gpu.multiply(Product::Nn, factors, count, gradient, Store::Onto)?;
        Ok(())
    }
}

/// A tensor on the GPU: rows of its last dimension.
fn rows(gpu: &Gpu, tensor: &Tensor) -> Result<GpuRows> {
    Ok(gpu.rows(&numbers(tensor)?, columns(tensor))?)
}

/// The same as a parameter.
fn parameter(gpu: &Gpu, tensor: &Tensor) -> Result<GpuParameter> {
    Ok(gpu.parameter(&numbers(tensor)?, columns(tensor))?)
}

fn columns(tensor: &Tensor) -> usize {
    tensor.dims().last().copied().unwrap_or(1)
}
