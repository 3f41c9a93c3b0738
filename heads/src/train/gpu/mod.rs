//! Learning on a GPU: parameters, gradients and moments stay there.

mod head;

use super::{
    head::TrainableHead,
    learning::{Learning, Parameter},
    lesson::{Lesson, rows_within},
    optimizer::step_on_gpu,
    quality::Tally,
};
use crate::Result;
use candle_core::{Device, Tensor};
use dssd_common::kernels::{Gpu, GpuParameter, GpuRows};
use head::GpuHead;
use std::sync::Arc;

/// Logits of this size are held at once on the GPU, and as many probabilities.
const LOGITS_BYTES: usize = 256 << 20;

/// Rows of a lesson on a GPU, for a vocabulary.
pub(super) fn rows_at_once(vocabulary: usize) -> usize {
    rows_within(LOGITS_BYTES, vocabulary)
}

/// All heads, and the rows that they learn from.
pub(super) struct GpuLearning {
    gpu: Arc<Gpu>,
    heads: Vec<GpuHead>,
    /// Of the head that is at it.
    rows: LessonRows,
    /// The whole model's probabilities, `[rows, vocabulary]`.
    teacher: GpuRows,
    weight_decay: f64,
    steps: i32,
}

/// What one head makes of a lesson; the first `count` rows of each are in use.
struct LessonRows {
    count: usize,
    /// Normalised without gain and bias, `[rows, hidden]`.
    normalised: GpuRows,
    /// With them.
    normed: GpuRows,
    /// The gradient for `normed`.
    gradient: GpuRows,
    /// Logits, then their gradient, `[rows, vocabulary]`.
    logits: GpuRows,
}

impl GpuLearning {
    pub(super) fn new(gpu: &Arc<Gpu>, heads: &[TrainableHead], weight_decay: f64) -> Result<Self> {
        let (vocabulary, hidden) = heads.first().map_or((1, 1), |head| {
            (head.vocabulary(), head.numbers().norm_weight.elem_count())
        });
        let most = rows_at_once(vocabulary);
        let states = || gpu.zeros(most, hidden);
        let mut unembedding = None;
        let upload = |head| GpuHead::upload(gpu, head, most, &mut unembedding);
        Ok(Self {
            heads: heads.iter().map(upload).collect::<Result<_>>()?,
            rows: LessonRows {
                count: 0,
                normalised: states()?,
                normed: states()?,
                gradient: states()?,
                logits: gpu.zeros(most, vocabulary)?,
            },
            teacher: gpu.zeros(most, vocabulary)?,
            gpu: Arc::clone(gpu),
            weight_decay,
            steps: 0,
        })
    }

    /// Lets a head answer a lesson, after which the logits are their gradient.
    fn judge(&mut self, lesson: &Lesson<'_>, head: usize, tally: &mut Tally) -> Result<()> {
        let Self { gpu, rows, .. } = self;
        rows.count = lesson.rows();
        gpu.replace(&mut rows.normalised, &lesson.normalised[head])?;
        self.heads[head].logits(gpu, rows)?;
        let (summaries, cross_entropy) =
            gpu.cross_entropy(&self.teacher, &mut rows.logits, rows.count)?;
        tally.count(&summaries, &lesson.teacher.summaries, &cross_entropy);
        Ok(())
    }
}

impl Learning for GpuLearning {
    fn lesson_rows(&self) -> usize {
        self.teacher.rows()
    }

    fn answer(&mut self, lesson: &Lesson<'_>, tallies: &mut [Tally]) -> Result<()> {
        self.gpu
            .replace(&mut self.teacher, &lesson.teacher.probabilities)?;
        for (head, tally) in tallies.iter_mut().enumerate() {
            self.judge(lesson, head, tally)?;
        }
        Ok(())
    }

    fn learn(&mut self, lesson: &Lesson<'_>, tallies: &mut [Tally]) -> Result<()> {
        self.gpu
            .replace(&mut self.teacher, &lesson.teacher.probabilities)?;
        for (head, tally) in tallies.iter_mut().enumerate() {
            self.judge(lesson, head, tally)?;
            self.heads[head].gather(&self.gpu, &mut self.rows)?;
        }
        Ok(())
    }

    fn step(&mut self, rows: usize, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        for head in &mut self.heads {
            let mut square = 0.0;
            for parameter in head.parameters() {
                square += self.gpu.sum_squares(&parameter.gradient)?;
            }
            let step = step_on_gpu(self.steps, rows, square, self.weight_decay, learning_rate);
            for parameter in head.parameters_mut() {
                self.gpu.adamw(parameter, step)?;
            }
        }
        Ok(())
    }

    fn steps(&self) -> i32 {
        self.steps
    }

    fn parameters(&self, head: usize) -> Result<Vec<Parameter>> {
        let tensor = |rows: &GpuRows, shape: &[usize]| -> Result<Tensor> {
            let values = self.gpu.values(rows)?;
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
        };
        let head = &self.heads[head];
        let both = head.parameters().into_iter().zip(head.shapes());
        let copies = both.map(|(parameter, shape)| {
            Ok(Parameter {
                value: tensor(&parameter.value, shape)?,
                first: tensor(&parameter.first, shape)?,
                second: tensor(&parameter.second, shape)?,
            })
        });
        copies.collect()
    }

    fn restore(&mut self, steps: i32, heads: &[Vec<Parameter>]) -> Result<()> {
        self.steps = steps;
        for (head, stored) in self.heads.iter_mut().zip(heads) {
            for (parameter, stored) in head.parameters_mut().into_iter().zip(stored) {
                let GpuParameter {
                    value,
                    first,
                    second,
                    ..
                } = parameter;
                let pairs = [
                    (value, &stored.value),
                    (first, &stored.first),
                    (second, &stored.second),
                ];
                for (rows, tensor) in pairs {
                    self.gpu.replace(rows, &numbers(tensor)?)?;
                }
            }
        }
        Ok(())
    }
}

/// The numbers of a tensor on the host.
fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}
