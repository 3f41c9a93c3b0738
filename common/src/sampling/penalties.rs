//! Changes to single logits: penalties on what was said, and the request's biases.

use super::{History, SamplingParams};

/// Applies the repetition, presence and frequency penalties, then the logit biases, in f64.
pub(super) fn apply(values: &mut [f64], params: &SamplingParams, history: &History) {
    if penalizes(params) {
        let repetition = f64::from(params.repetition_penalty);
        let presence = f64::from(params.presence_penalty);
        let frequency = f64::from(params.frequency_penalty);
        for (id, seen) in history.occurrences() {
            let Some(value) = values.get_mut(id as usize) else {
                continue;
            };
            *value = if *value > 0.0 {
                *value / repetition
            } else {
                *value * repetition
            };
            if seen.generated > 0 {
                *value -= presence + frequency * f64::from(seen.generated);
            }
        }
    }
    for &(id, bias) in &params.logit_bias {
        values[id as usize] += f64::from(bias);
    }
}

/// Whether the tokens so far can change a logit.
pub(super) fn penalizes(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0
        || params.presence_penalty != 0.0
        || params.frequency_penalty != 0.0
}

#[cfg(test)]
mod tests {
    use super::apply;
    use crate::sampling::{History, SamplingParams};

    fn applied(params: &SamplingParams, history: &History) -> Vec<f64> {
        let mut values = vec![2.0, -2.0, 2.0, -2.0, 2.0];
        apply(&mut values, params, history);
        values
    }

    #[test]
    fn repetition_counts_prompt_and_output() {
        let params = SamplingParams {
            repetition_penalty: 4.0,
            ..SamplingParams::default()
        };
        let history = History::new(&[0, 1, 0], &[2, 3, 2]);
        assert_eq!(applied(&params, &history), [0.5, -8.0, 0.5, -8.0, 2.0]);
    }

    #[test]
    fn presence_and_frequency_count_the_output_only() {
        let params = SamplingParams {
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..SamplingParams::default()
        };
        let history = History::new(&[0, 1, 2], &[2, 3, 2]);
        assert_eq!(applied(&params, &history), [2.0, -2.0, 1.0, -2.75, 2.0]);
    }

    #[test]
    fn the_repetition_penalty_comes_before_the_others_and_the_bias_last() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 1.5,
            logit_bias: vec![(0, 3.0), (4, -1.0)],
            ..SamplingParams::default()
        };
        let history = History::new(&[], &[0]);
        assert_eq!(applied(&params, &history), [2.5, -2.0, 2.0, -2.0, 1.0]);
    }

    #[test]
    fn an_impossible_id_stays_impossible() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            frequency_penalty: -2.0,
            ..SamplingParams::default()
        };
        let mut values = [f64::NEG_INFINITY, 0.0];
        apply(&mut values, &params, &History::new(&[0], &[0]));
        assert_eq!(values[0], f64::NEG_INFINITY);
    }
}
