//! The choice of a token from a row of logits.

use super::filter::Filter;
use super::noise::Noise;
use super::params::{check_id, invalid};
use super::{Choice, History, SamplingParams, penalties};
use crate::{Result, model::Reading};

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

    /// The token that follows `history`, from what is known of its row: a token chosen by
    /// [`Sampler::plain_choice`], or the logits.
    ///
    /// # Errors
    /// As [`Sampler::choose`].
    pub fn choose_of(
        &self,
        reading: Reading<'_>,
        history: &History,
        scratch: &mut Scratch,
    ) -> Result<u32> {
        match reading {
            Reading::Token(token) => Ok(token),
            Reading::Logits(logits) => self.choose(logits, history, scratch),
        }
    }

    /// How the token is chosen that follows `history` and `ahead` more tokens, whatever they are; none where
    /// the choice takes penalties, masks or filters.
    #[must_use]
    pub fn plain_choice(&self, history: &History, ahead: usize) -> Option<Choice> {
        let edits = self.edits_after(history.generated().len() + ahead);
        let temperature = f64::from(self.params.temperature);
        let filters = temperature > 0.0 && !self.filter.keeps_all(self.vocabulary);
        (!edits && !filters).then(|| Choice {
            seed: self.params.seed,
            index: (history.len() + ahead) as u64,
            temperature,
        })
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
        self.suppresses_after(history.generated().len())
    }

    /// Whether the next token may not end the sequence, of which `generated` tokens are there.
    fn suppresses_after(&self, generated: usize) -> bool {
        !self.suppressed.is_empty() && generated < self.params.min_new_tokens as usize
    }

    /// Whether the row is changed before the choice.
    fn edits(&self, history: &History) -> bool {
        self.edits_after(history.generated().len())
    }

    fn edits_after(&self, generated: usize) -> bool {
        penalties::penalizes(&self.params)
            || !self.params.logit_bias.is_empty()
            || self.suppresses_after(generated)
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

#[cfg(test)]
mod tests {
    use super::{Sampler, Scratch};
    use crate::sampling::{History, SamplingParams};

    fn choose(params: &SamplingParams, logits: &[f32], history: &History) -> u32 {
        let sampler = Sampler::new(params.clone(), logits.len(), Vec::new()).unwrap();
        sampler
            .choose(logits, history, &mut Scratch::default())
            .unwrap()
    }

    fn refused(logits: &[f32], temperature: f32) -> String {
        let params = SamplingParams {
            temperature,
            ..SamplingParams::default()
        };
        let sampler = Sampler::new(params, 3, Vec::new()).unwrap();
        let refused = sampler.choose(logits, &History::default(), &mut Scratch::default());
        refused.unwrap_err().to_string()
    }

    #[test]
    fn greedy_is_the_lowest_of_the_best_ids() {
        let mut logits = vec![-1.0f32; 100];
        for id in [97, 38, 55] {
            logits[id] = 4.5;
        }
        assert_eq!(
            choose(&SamplingParams::default(), &logits, &History::default()),
            38
        );
        assert_eq!(
            choose(
                &SamplingParams::default(),
                &[-0.0, 0.0],
                &History::default()
            ),
            0
        );
    }

    #[test]
    fn greedy_sees_penalties_and_biases() {
        let logits = [3.0, 2.9, 2.8];
        let penalized = SamplingParams {
            repetition_penalty: 1.2,
            ..SamplingParams::default()
        };
        assert_eq!(choose(&penalized, &logits, &History::new(&[0], &[])), 1);
        assert_eq!(choose(&penalized, &logits, &History::new(&[0], &[1])), 2);
        let biased = SamplingParams {
            logit_bias: vec![(2, 0.3)],
            ..SamplingParams::default()
        };
        assert_eq!(choose(&biased, &logits, &History::default()), 2);
    }

    #[test]
    fn the_end_waits_for_enough_tokens() {
        let params = SamplingParams {
            min_new_tokens: 2,
            ..SamplingParams::default()
        };
        let sampler = Sampler::new(params, 3, vec![2]).unwrap();
        let mut history = History::new(&[0, 0, 0, 0], &[]);
        let mut chosen = Vec::new();
        for _ in 0..4 {
            chosen.push(
                sampler
                    .choose(&[1.0, 2.0, 3.0], &history, &mut Scratch::default())
                    .unwrap(),
            );
            history.push(0);
        }
        assert_eq!(chosen, [1, 1, 2, 2]);
    }

    #[test]
    fn tiny_temperatures_are_greedy_and_finite() {
        let params = SamplingParams {
            temperature: f32::from_bits(1),
            seed: 8,
            ..SamplingParams::default()
        };
        let logits = [f32::MAX, f32::MIN, f32::MAX, f32::NEG_INFINITY];
        assert_eq!(choose(&params, &logits, &History::default()), 0);
        let filtered = SamplingParams {
            top_k: 3,
            top_p: 0.9,
            min_p: 0.1,
            repetition_penalty: 1.5,
            ..params
        };
        assert_eq!(choose(&filtered, &logits, &History::new(&[0], &[])), 2);
    }

    /// The noise belongs to the absolute index: what the earlier tokens are, and which of them were the prompt, is
    /// nothing to it; the next index has other noise.
    #[test]
    fn noise_is_keyed_by_the_absolute_index() {
        let params = SamplingParams {
            temperature: 1.0,
            seed: 6,
            ..SamplingParams::default()
        };
        let logits = [0.0f32; 64];
        let along: Vec<u32> = (0..200)
            .map(|len| choose(&params, &logits, &History::new(&vec![1; len], &[])))
            .collect();
        for (len, &expected) in along.iter().enumerate() {
            assert_eq!(
                choose(&params, &logits, &History::new(&[], &vec![2; len])),
                expected
            );
        }
        let repeated = along.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert!(
            repeated < 15,
            "{repeated} of 199 neighbours are equal, about 3 are expected"
        );
    }

    #[test]
    fn rows_without_a_choice_are_refused() {
        for temperature in [0.0, 1.0] {
            assert!(refused(&[0.0, f32::NAN, 1.0], temperature).contains("`logits`"));
            assert!(refused(&[0.0, f32::INFINITY, 1.0], temperature).contains("+inf"));
            assert!(refused(&[f32::NEG_INFINITY; 3], temperature).contains("finite"));
            assert!(refused(&[0.0; 2], temperature).contains("3"));
        }
        let params = SamplingParams {
            min_new_tokens: 1,
            ..SamplingParams::default()
        };
        let sampler = Sampler::new(params, 2, vec![0, 1]).unwrap();
        assert!(
            sampler
                .choose(&[0.0; 2], &History::default(), &mut Scratch::default())
                .is_err()
        );
    }

    #[test]
    fn bad_parameters_are_refused() {
        let params = SamplingParams {
            top_p: 2.0,
            ..SamplingParams::default()
        };
        assert!(Sampler::new(params, 2, Vec::new()).is_err());
        let refused = Sampler::new(SamplingParams::default(), 2, vec![2])
            .unwrap_err()
            .to_string();
        assert!(refused.contains("`stop_token_ids`"));
    }
}
