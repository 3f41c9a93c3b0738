//! How much room a training takes.

use super::{
    gpu,
    head::Kind,
    lesson::Lesson,
    material::{Material, windows_at_once},
    settings::TrainSettings,
};
use crate::{Error, Result};
use dssd_common::{
    checkpoint::{Checkpoint, ModelConfig, expected_tensors},
    model::Device,
};

const FLOAT: usize = size_of::<f32>();
/// Most bytes of attention scores that a GPU holds at once.
const SCORES: usize = 8 << 20;

/// What is known of the work before it starts.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Numbers that move, over all heads.
    pub parameters: usize,
    /// Most memory that training needs beside the mapped weights of the model, in bytes.
    pub peak_bytes: usize,
    /// Most memory that it needs on the GPU, with the model, in bytes; 0 where there is none.
    pub gpu_bytes: usize,
}

/// Upper estimates.
pub(super) fn size(material: &Material, settings: &TrainSettings) -> Result<Size> {
    let shapes = Shapes::of(material.checkpoint.config(), settings);
    let (peak_bytes, gpu_bytes) = match material.machine.device {
        Device::Cpu => (shapes.on_cpu(), 0),
        Device::Cuda(_) => (
            shapes.beside_gpu(),
            weight_bytes(&material.checkpoint)? + shapes.on_gpu(),
        ),
    };
    Ok(Size {
        parameters: shapes.parameters,
        peak_bytes,
        gpu_bytes,
    })
}

/// Refuses a training for which the GPU has no room.
///
/// # Errors
/// Names both numbers, and what to do; and if the device fails.
pub fn check_room(material: &Material, settings: &TrainSettings) -> Result<()> {
    let Device::Cuda(gpu) = &material.machine.device else {
        return Ok(());
    };
    let size = size(material, settings)?;
    let free = gpu.free_bytes()?;
    if size.gpu_bytes as u64 <= free {
        return Ok(());
    }
    let reason = format!(
        "the model and the heads that learn need up to {} MiB on the GPU, {} MiB are free: train fewer heads at once, \
         or adapters of a low --rank, or on the CPU",
        size.gpu_bytes.div_ceil(1 << 20),
        free >> 20
    );
    Err(Error::setting("device", reason))
}

fn weight_bytes(checkpoint: &Checkpoint) -> Result<usize> {
    let tensors = expected_tensors(checkpoint.config(), checkpoint.layers_held());
    let sizes = tensors
        .iter()
        .map(|(name, _)| Ok(checkpoint.tensor(name)?.byte_len()));
    sizes.sum()
}

/// Numbers of what takes room.
struct Shapes<'a> {
    config: &'a ModelConfig,
    heads: usize,
    rank: usize,
    /// Of the larger of a head's maps.
    map: usize,
    /// Over all heads.
    parameters: usize,
    /// Positions that go through the model at once.
    rows: usize,
}

impl<'a> Shapes<'a> {
    fn of(config: &'a ModelConfig, settings: &TrainSettings) -> Self {
        let heads = settings.layers.len();
        let (rank, map) = match settings.kind {
            Kind::Linear => (0, config.vocabulary * config.hidden),
            Kind::Adapter { rank } => (rank, 2 * rank * config.hidden),
        };
        Self {
            config,
            heads,
            rank,
            map,
            parameters: heads * (map + 2 * config.hidden),
            rows: windows_at_once(settings.window) * settings.window,
        }
    }

    fn unembedding(&self) -> usize {
        self.config.vocabulary * self.config.hidden
    }

    /// The states of one pass at the exits, and as they are normalised.
    fn states(&self) -> usize {
        self.rows * self.config.hidden * (2 * self.heads + 4)
    }

    /// Keys and values of one pass.
    fn kv(&self) -> usize {
        2 * self.rows * self.config.layers * self.config.kv_features()
    }

    fn cpu_logits(&self) -> usize {
        8 * Lesson::rows_at_once(self.config.vocabulary) * self.config.vocabulary
    }

    fn on_cpu(&self) -> usize {
        // Value, best value, two moments, summed gradient, and what a step holds for a moment.
        let of_parameters = 5 * self.parameters + 3 * self.map + self.unembedding();
        let of_pass = 3 * self.rows * self.config.intermediate + self.kv();
        FLOAT * (of_parameters + self.states() + of_pass + self.cpu_logits())
    }

    /// On the host, while heads learn on a GPU.
    fn beside_gpu(&self) -> usize {
        // The best value; value and moments while they are written down.
        let of_parameters = 4 * self.parameters + 3 * self.map + self.unembedding();
        let of_teacher = 2 * gpu::rows_at_once(self.config.vocabulary) * self.config.vocabulary;
        FLOAT * (of_parameters + self.states() + of_teacher + self.cpu_logits())
    }

    /// On a GPU, without the model's weights.
    fn on_gpu(&self) -> usize {
        let ModelConfig {
            hidden,
            vocabulary,
            intermediate,
            ..
        } = *self.config;
        // Value, gradient and two moments; then, beside them, the heads as they are stored.
        let of_parameters = 5 * self.parameters + self.unembedding();
        let rows = gpu::rows_at_once(vocabulary);
        // Logits and the teacher's probabilities.
        let of_lesson =
            rows * (2 * vocabulary + 3 * hidden + self.heads * (hidden + 3 * self.rank));
        let of_row = 8 * hidden + 3 * self.config.query_features() + 2 * intermediate;
        // The model's buffers grow by powers of two.
        let of_pass = 2 * (self.rows * of_row + rows * vocabulary) + self.kv();
        FLOAT * (of_parameters + of_lesson + of_pass) + SCORES
    }
}
