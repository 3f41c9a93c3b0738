//! What a device does of a pass.

use super::{Readout, attention::RowPlaces, head::Head};
use crate::{Error, Result, kernels::Gpu, kv::Step, sampling::Choice};
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

/// What is read of a step's rows once they are through its layers.
#[derive(Clone, Copy, Debug)]
pub struct Reads<'a> {
    /// The layer of the exit whose head reads, or none for the model's own.
    pub exit: Option<usize>,
    /// Which rows of the step.
    pub rows: &'a [u32],
    /// One for each of these, where its token needs no more than that; none where logits are needed.
    pub choices: &'a [Option<Choice>],
    /// Whether summaries are wanted, too.
    pub summaries: bool,
}

impl Reads<'_> {
    /// # Errors
    /// If it is not for steps of so many rows.
    pub(super) fn check(&self, rows: usize) -> Result<()> {
        let found = self.rows.iter().find(|&&row| row as usize >= rows);
        let reason = match found {
            Some(row) => format!("row {row} is read of {rows}"),
            None if self.rows.len() != self.choices.len() => {
                format!(
                    "{} choices for {} rows",
                    self.choices.len(),
                    self.rows.len()
                )
            }
            None => return Ok(()),
        };
        Err(Error::InvalidParameter {
            field: "reads",
            reason,
        })
    }
}

/// What a step took, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepSeconds {
    /// Its layers.
    pub layers: f64,
    /// Reading its rows. On a GPU, where nothing waits between the two, this is the part of the whole that the
    /// head has of all weights.
    pub reads: f64,
}

/// What is wanted of a step.
pub(super) struct Wanted<'a> {
    /// The states of its rows.
    pub(super) states: bool,
    pub(super) reads: Option<(Reads<'a>, &'a mut Readout)>,
}

/// Layers and heads on a device. Every device gives the same bits.
pub(super) trait Pass: Send {
    /// Takes the memory of a KV cache of so many floats, if this device keeps it: the steps are of that one.
    fn allocate(&mut self, floats: usize) -> Result<()>;

    /// Takes the rows of `hidden`, `[rows, hidden]`, through `layers`, in place if the states are wanted, and appends
    /// their keys and values in `step`, which has room for them.
    fn run(
        &mut self,
        layers: Range<usize>,
        rows: &RowPlaces,
        step: &mut Step<'_>,
        hidden: &mut [f32],
        wanted: Wanted<'_>,
    ) -> Result<StepSeconds>;

    /// Replaces the trained exits: each with the layer after which it is.
    fn attach_exits(&mut self, exits: Vec<(usize, Head)>) -> Result<()>;

    /// The logits of an exit after a layer, or of the model's own head: that one where no exit is
    /// attached. `hidden` is `[rows, hidden]`, `out` becomes `[rows, vocabulary]`.
    fn logits(&mut self, exit: Option<usize>, hidden: &[f32], out: &mut Vec<f32>) -> Result<()>;

    /// Rows of logits that were copied from the device so far.
    fn copied_rows(&self) -> u64;
}

#[cfg(test)]
mod tests {
    use super::Reads;

    #[test]
    fn rows_that_a_step_does_not_have_are_refused() {
        let reads = |rows, choices| Reads {
            exit: None,
            rows,
            choices,
            summaries: false,
        };
        assert!(reads(&[2, 0], &[None, None]).check(3).is_ok());
        let beyond = reads(&[0, 3], &[None, None]).check(3).unwrap_err();
        assert_eq!(beyond.to_string(), "`reads`: row 3 is read of 3");
        let unlike = reads(&[0, 1], &[None]).check(3).unwrap_err();
        assert_eq!(unlike.to_string(), "`reads`: 1 choices for 2 rows");
    }
}
