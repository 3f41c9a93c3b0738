//! What a device does of a pass.

use super::{attention::RowPlaces, head::Head};
use crate::{Result, kernels::Gpu, kv::Step};
use std::{fmt, ops::Range, sync::Arc};

/// Where a decoder runs.
#[derive(Clone, Default)]
pub enum Device {
    /// On the processor.
    #[default]
    Cpu,
    /// On a GPU.
    Cuda(Arc<Gpu>),
}

impl Device {
    /// Its class in a [`super::numerics_id`].
    pub fn class(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(gpu) => write!(f, "cuda {}", gpu.name()),
        }
    }
}

/// Layers and heads on a device. Every device gives the same bits.
pub(super) trait Pass: Send {
    /// Takes the memory of a KV cache of so many floats, if this device keeps it: the steps are of that one.
    fn allocate(&mut self, floats: usize) -> Result<()>;

    /// Takes the rows of `hidden`, `[rows, hidden]`, through `layers` in place, and appends their keys and
    /// values in `step`, which has room for them.
    fn run(
        &mut self,
        layers: Range<usize>,
        rows: &RowPlaces,
        step: &mut Step<'_>,
        hidden: &mut [f32],
    ) -> Result<()>;

    /// Replaces the trained exits: each with the layer after which it is.
    fn attach_exits(&mut self, exits: Vec<(usize, Head)>) -> Result<()>;

    /// The logits of an exit after a layer, or of the model's own head: that one where no exit is
    /// attached. `hidden` is `[rows, hidden]`, `out` becomes `[rows, vocabulary]`.
    fn logits(&mut self, exit: Option<usize>, hidden: &[f32], out: &mut Vec<f32>) -> Result<()>;
}
