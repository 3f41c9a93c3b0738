//! The sampling parameters of a request.

use std::collections::HashSet;

use crate::{Error, Result};

/// How a request wants its tokens chosen. The default is plain greedy decoding.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; at least 0, and 0 means greedy.
    pub temperature: f32,
    /// Keeps the ids with the `top_k` highest logits; 0 keeps all.
    pub top_k: u32,
    /// Keeps the most probable ids that together reach this probability, the one that crosses it included; in (0, 1],
    /// and 1 keeps all.
    pub top_p: f32,
    /// Keeps the ids at least this many times as probable as the most probable one; in [0, 1], and 0 keeps all.
    pub min_p: f32,
    /// Seed of the noise.
    pub seed: u64,
    /// Divides positive and multiplies other logits of ids in the prompt or the output (Keskar et al. 2019); above 0,
    /// and 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of ids in the output; in [−2, 2].
    pub presence_penalty: f32,
    /// Subtracted from a logit once for every time that its id is in the output; in [−2, 2].
    pub frequency_penalty: f32,
    /// (id, value added to its logit); values are finite and no id occurs twice.
    pub logit_bias: Vec<(u32, f32)>,
    /// Ids that would end the sequence are masked until this many tokens were generated.
    pub min_new_tokens: u32,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            min_new_tokens: 0,
        }
    }
}

impl SamplingParams {
    /// Checks every field for a model with `vocabulary` ids.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] with the name of the first field that is out of its range.
    pub fn validate(&self, vocabulary: usize) -> Result<()> {
        let ranges = [
            (
                "temperature",
                self.temperature,
                self.temperature >= 0.0,
                "at least 0",
            ),
            (
                "top_p",
                self.top_p,
                self.top_p > 0.0 && self.top_p <= 1.0,
                "above 0 and at most 1",
            ),
            (
                "min_p",
                self.min_p,
                (0.0..=1.0).contains(&self.min_p),
                "between 0 and 1",
            ),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0,
                "above 0",
            ),
            (
                "presence_penalty",
                self.presence_penalty,
                self.presence_penalty.abs() <= 2.0,
                "between -2 and 2",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                self.frequency_penalty.abs() <= 2.0,
                "between -2 and 2",
            ),
        ];
        for (field, value, in_range, range) in ranges {
            if !(in_range && value.is_finite()) {
                return Err(invalid(
                    field,
                    format!("must be {range} and finite, not {value}"),
                ));
            }
        }
        self.validate_bias(vocabulary)
    }

    fn validate_bias(&self, vocabulary: usize) -> Result<()> {
        let mut seen = HashSet::new();
        for &(id, bias) in &self.logit_bias {
            check_id("logit_bias", id, vocabulary)?;
            if !bias.is_finite() {
                return Err(invalid(
                    "logit_bias",
                    format!("the value of id {id} must be finite, not {bias}"),
                ));
            }
            if !seen.insert(id) {
                return Err(invalid("logit_bias", format!("id {id} occurs twice")));
            }
        }
        Ok(())
    }
}

/// Refuses an id outside the vocabulary.
pub(super) fn check_id(field: &'static str, id: u32, vocabulary: usize) -> Result<()> {
    if (id as usize) < vocabulary {
        return Ok(());
    }
    Err(invalid(
        field,
        format!("id {id} is outside the vocabulary of {vocabulary}"),
    ))
}

pub(super) fn invalid(field: &'static str, reason: String) -> Error {
    Error::InvalidParameter { field, reason }
}

#[cfg(test)]
mod tests {
    use super::SamplingParams;

    fn refused(change: impl FnOnce(&mut SamplingParams)) -> String {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.validate(100).unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_valid() {
        SamplingParams::default().validate(1).unwrap();
    }

    #[test]
    fn the_edges_of_the_ranges_are_valid() {
        let params = SamplingParams {
            temperature: f32::MIN_POSITIVE,
            top_k: u32::MAX,
            top_p: f32::MIN_POSITIVE,
            min_p: 1.0,
            presence_penalty: -2.0,
            frequency_penalty: 2.0,
            logit_bias: vec![(99, -100.0), (0, 100.0)],
            ..SamplingParams::default()
        };
        params.validate(100).unwrap();
    }

    #[test]
    fn a_refusal_names_its_field() {
        assert!(refused(|p| p.temperature = -0.5).contains("`temperature`"));
        assert!(refused(|p| p.temperature = f32::NAN).contains("`temperature`"));
        assert!(refused(|p| p.temperature = f32::INFINITY).contains("`temperature`"));
        assert!(refused(|p| p.top_p = 0.0).contains("`top_p`"));
        assert!(refused(|p| p.top_p = 1.5).contains("`top_p`"));
        assert!(refused(|p| p.min_p = -0.1).contains("`min_p`"));
        assert!(refused(|p| p.repetition_penalty = 0.0).contains("`repetition_penalty`"));
        assert!(refused(|p| p.presence_penalty = 2.5).contains("`presence_penalty`"));
        assert!(refused(|p| p.frequency_penalty = f32::NAN).contains("`frequency_penalty`"));
        assert!(refused(|p| p.logit_bias = vec![(100, 1.0)]).contains("id 100"));
        assert!(refused(|p| p.logit_bias = vec![(1, f32::NAN)]).contains("finite"));
        assert!(refused(|p| p.logit_bias = vec![(1, 1.0), (1, 2.0)]).contains("twice"));
    }
}
