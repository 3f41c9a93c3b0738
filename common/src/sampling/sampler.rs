//! The choice of a token from a row of logits.

use super::filter::Filter;
use super::noise::Noise;
use super::params::{check_id, invalid};
use super::{History, SamplingParams, penalties};
use crate::Result;

/// Chooses the tokens of one request. The drafter and the verifier build it from the same values, and a choice depends
/// only on those, the row's logits and the row's history.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    vocabulary: usize,
    suppressed: Vec<u32>,
    filter: Filter,
    noise: Noise,
}

/// Memory that [`Sampler::choose`] uses again from row to row; holds no state.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    values: Vec<f64>,
    kept: Vec<u32>,
}

impl Sampler {
    /// A sampler for rows of `vocabulary` logits. `suppressed` are the ids that would end the sequence (end of sequence,
    /// stop tokens): they are masked until `min_new_tokens` were generated.
    ///
    /// # Errors
    /// [`crate::Error::InvalidParameter`] for a parameter out of its range or an id outside the vocabulary.
    pub fn new(params: SamplingParams, vocabulary: usize, suppressed: Vec<u32>) -> Result<Self> {
        params.validate(vocabulary)?;
        for &id in &suppressed {
            check_id("stop_token_ids", id, vocabulary)?;
        }
        let (filter, noise) = (Filter::new(&params), Noise::new(params.seed));
        Ok(Self {
            params,
            vocabulary,
            suppressed,
            filter,
            noise,
        })
    }

    /// The parameters it was built from.
    #[must_use]
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The token that follows `history`, from its row of `vocabulary` logits.
    ///
    /// # Errors
    /// [`crate::Error::InvalidParameter`] (`logits`) for a row of another length, a row with NaN or +∞, and a row
    /// where nothing that may be chosen is finite.
    pub fn choose(&self, logits: &[f32], history: &History, scratch: &mut Scratch) -> Result<u32> {
        self.check(logits)?;
        if self.params.temperature == 0.0 && !self.edits(history) {
            return argmax(logits, f32::NEG_INFINITY).ok_or_else(nothing_to_choose);
        }
        let Scratch { values, kept } = scratch;
        values.clear();
        values.extend(logits.iter().map(|&logit| f64::from(logit)));
        penalties::apply(values, &self.params, history);
        if self.suppresses(history) {
            self.suppressed
                .iter()
                .for_each(|&id| values[id as usize] = f64::NEG_INFINITY);
        }
        // No filter drops the first arg-max, and dividing keeps the order, so it serves greedy and noisy choices alike.
        let best = argmax(values, f64::NEG_INFINITY).ok_or_else(nothing_to_choose)?;
        if self.params.temperature == 0.0 {
            return Ok(best);
        }
        let temperature = f64::from(self.params.temperature);
        values.iter_mut().for_each(|value| *value /= temperature);
        let index = history.len() as u64;
        if self.filter.keeps_all(values.len()) {
            return Ok(self.noise.argmax_all(values, best, index));
        }
        self.filter.keep(values, values[best as usize], kept);
        Ok(self.noise.argmax_of(values, kept, best, index))
    }

    fn check(&self, logits: &[f32]) -> Result<()> {
        if logits.len() != self.vocabulary {
            let reason = format!(
                "a row of {} was expected, not of {}",
                self.vocabulary,
                logits.len()
            );
            return Err(invalid("logits", reason));
        }
        // No early exit, so that the loop vectorises.
        let sound = logits
            .iter()
            .fold(true, |sound, &logit| sound & (logit < f32::INFINITY));
        if !sound {
            return Err(invalid(
                "logits",
                "the row holds NaN or +inf: the model pass is broken".into(),
            ));
        }
        Ok(())
    }

    fn suppresses(&self, history: &History) -> bool {
        !self.suppressed.is_empty()
            && history.generated().len() < self.params.min_new_tokens as usize
    }

    /// Whether the row is changed before the choice.
    fn edits(&self, history: &History) -> bool {
        penalties::penalizes(&self.params)
            || !self.params.logit_bias.is_empty()
            || self.suppresses(history)
    }
}

fn nothing_to_choose() -> crate::Error {
    invalid(
        "logits",
        "no id that may be chosen has a finite logit".into(),
    )
}

/// The lowest id with the greatest value, or none if no value is above `least`.
fn argmax<T: PartialOrd + Copy>(values: &[T], least: T) -> Option<u32> {
    const LANES: usize = 16;
    let larger = |a: T, b: T| if b > a { b } else { a };
    let mut lanes = [least; LANES];
    for block in values.chunks(LANES) {
        lanes
            .iter_mut()
            .zip(block)
            .for_each(|(lane, &value)| *lane = larger(*lane, value));
    }
    let maximum = lanes.into_iter().fold(least, larger);
    let id = values
        .iter()
        .position(|&value| value == maximum && value > least)?;
    Some(id as u32)
}
