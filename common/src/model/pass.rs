//! What a device does of a pass.

use super::{Readout, attention::RowPlaces, head::Head};
use crate::{Result, kernels::Gpu, kv::Step, sampling::Choice};
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

/// Rows of which the logits are read.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The layer after which they are, or none at the end of the model.
    pub(super) exit: Option<usize>,
    /// `[rows, hidden]`.
    pub(super) hidden: &'a [f32],
    /// Of each row, where its token needs no more than that.
    pub(super) choices: &'a [Option<Choice>],
    /// Whether summaries are wanted, too.
    pub(super) summaries: bool,
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

    /// What the same rows of logits say: see [`Readout`]. There is a choice for each row.
    fn read(&mut self, rows: Rows<'_>, out: &mut Readout) -> Result<()>;

    /// Rows of logits that were copied from the device so far.
    fn copied_rows(&self) -> u64;
}
