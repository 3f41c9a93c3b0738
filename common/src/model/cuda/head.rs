//! Heads on the device.

use super::{GpuLinear, upload_norm};
use crate::{
    Result,
    kernels::{
        Activation, Gpu,
        cuda::{Floats, GpuNorm},
    },
    model::head::Head,
};
use cudarc::driver::CudaSlice;
use std::sync::Arc;

/// The model's own head, and the trained ones.
pub(super) struct GpuHeads {
    pub(super) own: GpuHead,
    /// What the model's own was made of.
    source: Arc<Head>,
    /// Each with the layer after which it is.
    exits: Vec<(usize, GpuHead)>,
}

impl GpuHeads {
    pub(super) fn new(gpu: &Gpu, head: &Arc<Head>) -> Result<Self> {
        Ok(Self {
            own: GpuHead::upload(gpu, head, None)?,
            source: Arc::clone(head),
            exits: Vec::new(),
        })
    }

    /// Replaces the trained ones.
    pub(super) fn attach(&mut self, gpu: &Gpu, exits: &[(usize, Head)]) -> Result<()> {
        let upload = |(layer, head): &(usize, Head)| {
            let shared = Arc::ptr_eq(&head.unembedding, &self.source.unembedding);
            let shared = shared.then_some(&self.own);
            Ok((*layer, GpuHead::upload(gpu, head, shared)?))
        };
        self.exits = exits.iter().map(upload).collect::<Result<_>>()?;
        Ok(())
    }

    /// The head after a layer with its place, or the model's own where none is trained.
    pub(super) fn of(&self, exit: Option<usize>) -> (Option<usize>, &GpuHead) {
        let trained = self.exits.iter().find(|(at, _)| Some(*at) == exit);
        trained.map_or((None, &self.own), |(at, head)| (Some(*at), head))
    }
}

/// Norm, then (for an adapter) a small residual map, then the unembedding.
pub(super) struct GpuHead {
    norm: GpuNorm,
    /// Down and up.
    adapter: Option<(GpuLinear, GpuLinear)>,
    unembedding: Arc<GpuLinear>,
}

/// Buffers of [`GpuHead::apply`], kept between calls.
pub(super) struct HeadBuffers {
    normed: Floats,
    inner: Floats,
}

impl HeadBuffers {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        Ok(Self {
            normed: gpu.room(0)?,
            inner: gpu.room(0)?,
        })
    }
}

impl GpuHead {
    /// Uploads a head, without its unembedding where it is that of `shared`.
    pub(super) fn upload(gpu: &Gpu, head: &Head, shared: Option<&Self>) -> Result<Self> {
        let linear = |linear| GpuLinear::upload(gpu, linear);
        let adapter = head.adapter.as_ref();
        Ok(Self {
            norm: upload_norm(gpu, &head.norm)?,
            adapter: adapter
                .map(|adapter| Ok((linear(&adapter.down)?, linear(&adapter.up)?)))
                .transpose()?,
            unembedding: match shared {
                Some(shared) => Arc::clone(&shared.unembedding),
                None => Arc::new(linear(&head.unembedding)?),
            },
        })
    }

    pub(super) fn features(&self) -> usize {
        self.norm.weight.len()
    }

    /// Bytes of its unembedding, which is nearly all that it reads.
    pub(super) fn byte_len(&self) -> usize {
        self.unembedding.weight.byte_len()
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.unembedding.weight.n()
    }

    /// `out` becomes `[rows, vocabulary]`: of the rows of `hidden` that are `chosen`.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Safety
    /// All that is in `chosen` is below the rows of `hidden`.
    pub(super) unsafe fn apply(
        &self,
        gpu: &Gpu,
        (hidden, chosen): (&Floats, &CudaSlice<u32>),
        buffers: &mut HeadBuffers,
        out: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        let HeadBuffers { normed, inner } = buffers;
        gpu.reserve(normed, rows * self.features())?;
        let from = (hidden, Some(chosen));
        // SAFETY: the caller vouches for it.
        unsafe { gpu.norm_of(&self.norm, from, normed, None, rows)? };
        if let Some((down, up)) = &self.adapter {
            down.apply_activated(gpu, normed, (Activation::Silu, None), inner, rows)?;
            up.apply_onto(gpu, inner, normed, rows)?;
        }
        self.unembedding.apply(gpu, normed, out, rows)
    }
}
