//! Where heads learn: on the CPU or on a GPU, by the same arithmetic.

use super::{
    cpu::CpuLearning, gpu::GpuLearning, head::TrainableHead, lesson::Lesson, quality::Tally,
};
use crate::Result;
use candle_core::Tensor;
use dssd_common::model::Device;

/// All heads with their optimizers.
pub(super) trait Learning {
    /// Rows that a lesson may have.
    fn lesson_rows(&self) -> usize;

    /// Counts what each head says to a lesson into its tally.
    fn answer(&mut self, lesson: &Lesson<'_>, tallies: &mut [Tally]) -> Result<()>;

    /// The same, and gathers the gradients of each head.
    fn learn(&mut self, lesson: &Lesson<'_>, tallies: &mut [Tally]) -> Result<()>;

    /// Moves every head by what was gathered over so many rows.
    fn step(&mut self, rows: usize, learning_rate: f64) -> Result<()>;

    /// Steps so far.
    fn steps(&self) -> i32;

    /// Copies the parameters of a head, in the order of [`TrainableHead::parameters`], to the host.
    fn parameters(&self, head: usize) -> Result<Vec<Parameter>>;

    /// Goes on from what was copied of all heads after so many steps.
    fn restore(&mut self, steps: i32, heads: &[Vec<Parameter>]) -> Result<()>;
}

/// A parameter in the midst of learning, on the host.
pub(super) struct Parameter {
    pub(super) value: Tensor,
    /// Running mean of its gradient.
    pub(super) first: Tensor,
    /// Running mean of the gradient's square.
    pub(super) second: Tensor,
}

/// Lets copies of `heads` learn on a device.
///
/// # Errors
/// If they have no room there.
pub(super) fn learning_on(
    device: &Device,
    heads: &[TrainableHead],
    weight_decay: f64,
) -> Result<Box<dyn Learning>> {
    Ok(match device {
        Device::Cpu => Box::new(CpuLearning::new(heads, weight_decay)?),
        Device::Cuda(gpu) => Box::new(GpuLearning::new(gpu, heads, weight_decay)?),
    })
}
