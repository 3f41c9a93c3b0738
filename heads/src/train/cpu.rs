//! Learning on the CPU, by candle.

use super::{
    head::TrainableHead,
    learning::{Learning, Parameter},
    lesson::Lesson,
    optimizer::{AdamW, Moments},
    quality::Tally,
};
use crate::Result;
use candle_core::{Device, Tensor};

/// All heads, with gradients in the midst of a step.
pub(super) struct CpuLearning {
    heads: Vec<CpuHead>,
}

struct CpuHead {
    head: TrainableHead,
    optimizer: AdamW,
    /// Summed gradients, parameter by parameter; none before the first lesson of a step.
    sums: Vec<Tensor>,
}

impl CpuLearning {
    pub(super) fn new(heads: &[TrainableHead], weight_decay: f64) -> Result<Self> {
        let heads = heads.iter().map(|head| {
            Ok(CpuHead {
                head: head.copy()?,
                optimizer: AdamW::new(head.parameters(), weight_decay)?,
                sums: Vec::new(),
            })
        });
        Ok(Self {
            heads: heads.collect::<Result<_>>()?,
        })
    }
}

impl CpuHead {
    /// Its logits on a lesson's rows, `[rows, vocabulary]`.
    fn logits(&self, lesson: &Lesson<'_>, normalised: &[f32]) -> Result<Tensor> {
        let shape = (lesson.rows(), normalised.len() / lesson.rows());
        let states = Tensor::from_slice(normalised, shape, &Device::Cpu)?;
        self.head.logits(&states)
    }

    fn gather(&mut self, gradients: Vec<Tensor>) -> Result<()> {
        if self.sums.is_empty() {
            self.sums = gradients;
            return Ok(());
        }
        for (sum, gradient) in self.sums.iter_mut().zip(gradients) {
            *sum = (&*sum + gradient)?;
        }
        Ok(())
    }
}

impl Learning for CpuLearning {
    fn lesson_rows(&self) -> usize {
        let vocabulary = self.heads.first().map_or(1, |head| head.head.vocabulary());
        Lesson::rows_at_once(vocabulary)
    }

    fn answer(&mut self, lesson: &Lesson<'_>, tallies: &mut [Tally]) -> Result<()> {
        let all = self.heads.iter().zip(&lesson.normalised).zip(tallies);
        for ((head, normalised), tally) in all {
            let logits = head.logits(lesson, normalised)?;
            lesson.judge(logits.flatten_all()?.to_vec1()?, tally);
        }
        Ok(())
    }

    fn learn(&mut self, lesson: &Lesson<'_>, tallies: &mut [Tally]) -> Result<()> {
        let all = self.heads.iter_mut().zip(&lesson.normalised).zip(tallies);
        for ((head, normalised), tally) in all {
            let logits = head.logits(lesson, normalised)?;
            let gradient = lesson.judge(logits.flatten_all()?.to_vec1()?, tally);
            let gradient = Tensor::from_vec(gradient, logits.dims2()?, logits.device())?;
            let gradients = head.head.gradients(&logits, &gradient)?;
            head.gather(gradients)?;
        }
        Ok(())
    }

    fn step(&mut self, rows: usize, learning_rate: f64) -> Result<()> {
        for head in &mut self.heads {
            let sums = std::mem::take(&mut head.sums).into_iter();
            let means = sums.map(|sum| Ok((sum / rows as f64)?));
            let means = means.collect::<Result<Vec<_>>>()?;
            let parameters = head.head.parameters();
            head.optimizer.step(parameters, &means, learning_rate)?;
        }
        Ok(())
    }

    fn steps(&self) -> i32 {
        self.heads.first().map_or(0, |head| head.optimizer.steps())
    }

    fn parameters(&self, head: usize) -> Result<Vec<Parameter>> {
        let CpuHead {
            head, optimizer, ..
        } = &self.heads[head];
        let both = head.parameters().iter().zip(optimizer.moments());
        let copies = both.map(|((_, var), moments)| {
            Ok(Parameter {
                value: var.copy()?,
                first: moments.first.clone(),
                second: moments.second.clone(),
            })
        });
        copies.collect()
    }

    fn restore(&mut self, steps: i32, heads: &[Vec<Parameter>]) -> Result<()> {
        for (head, parameters) in self.heads.iter_mut().zip(heads) {
            head.head
                .set(parameters.iter().map(|parameter| &parameter.value))?;
            let moments = parameters.iter().map(|parameter| Moments {
                first: parameter.first.clone(),
                second: parameter.second.clone(),
            });
            head.optimizer.restore(steps, moments.collect());
        }
        Ok(())
    }
}
