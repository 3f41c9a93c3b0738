//! Which ids may be chosen: top-k, top-p and min-p.

use std::cmp::Ordering;

use super::SamplingParams;
use crate::math::{exp, ln};

/// Ids sorted at first in the search for the nucleus; each further part is `NUCLEUS_GROWTH` times as long.
const NUCLEUS_START: usize = 64;
const NUCLEUS_GROWTH: usize = 4;

/// The filters of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filter {
    /// `usize::MAX` keeps all.
    top_k: usize,
    top_p: f64,
    /// ln of `min_p`: the least distance to the greatest value that is kept.
    min_distance: f64,
}

impl Filter {
    pub(super) fn new(params: &SamplingParams) -> Self {
        Self {
            top_k: if params.top_k == 0 {
                usize::MAX
            } else {
                params.top_k as usize
            },
            top_p: f64::from(params.top_p),
            min_distance: ln(f64::from(params.min_p)),
        }
    }

    /// Whether a vocabulary of this size is kept whole.
    pub(super) fn keeps_all(&self, vocabulary: usize) -> bool {
        self.top_k >= vocabulary && self.top_p >= 1.0 && self.min_distance == f64::NEG_INFINITY
    }

    /// Leaves in `kept` the ids that pass top-k, then top-p, then min-p, in no particular order. `values` are logits
    /// over temperature without NaN, and `maximum`, the greatest of them, is finite.
    pub(super) fn keep(&self, values: &[f64], maximum: f64, kept: &mut Vec<u32>) {
        kept.clear();
        kept.extend(
            (0u32..)
                .zip(values)
                .filter(|(_, value)| **value > f64::NEG_INFINITY)
                .map(|(id, _)| id),
        );
        if self.top_k < kept.len() {
            kept.select_nth_unstable_by(self.top_k - 1, by_rank(values));
            kept.truncate(self.top_k);
            kept.sort_unstable();
        }
        if self.top_p < 1.0 {
            keep_nucleus(values, maximum, self.top_p, kept);
        }
        kept.retain(|&id| values[id as usize] - maximum >= self.min_distance);
    }
}

/// The order of filtering and ranking: value descending, id ascending.
pub(super) fn by_rank(values: &[f64]) -> impl Fn(&u32, &u32) -> Ordering {
    |a, b| {
        let (left, right) = (values[*a as usize], values[*b as usize]);
        right
            .partial_cmp(&left)
            .unwrap_or(Ordering::Equal)
            .then(a.cmp(b))
    }
}

/// Keeps the shortest prefix, by rank, whose weights reach `top_p` of all weights. `kept` comes in ascending order, the
/// order in which all weights are added; the prefix is added by rank.
fn keep_nucleus(values: &[f64], maximum: f64, top_p: f64, kept: &mut Vec<u32>) {
    let weight = |id: u32| exp(values[id as usize] - maximum);
    let all = kept.iter().map(|&id| weight(id)).sum::<f64>();
    let target = top_p * all;
    // All ids below this distance have together less than half of the weight that may be dropped, so the prefix ends
    // before them, whatever the rounding of the sums; they need no sorting.
    let distance = ln((1.0 - top_p) * all / (2.0 * kept.len() as f64));
    kept.retain(|&id| values[id as usize] - maximum >= distance);
    let (mut sorted, mut part, mut reached) = (0, NUCLEUS_START, 0.0);
    while sorted < kept.len() {
        let rest = &mut kept[sorted..];
        let part_len = part.min(rest.len());
        rest.select_nth_unstable_by(part_len - 1, by_rank(values));
        rest[..part_len].sort_unstable_by(by_rank(values));
        for i in sorted..sorted + part_len {
            reached += weight(kept[i]);
            if reached >= target {
                kept.truncate(i + 1);
                return;
            }
        }
        sorted += part_len;
        part *= NUCLEUS_GROWTH;
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, by_rank};
    use crate::math::{exp, ln};
    use crate::sampling::SamplingParams;
    use proptest::prelude::*;

    fn kept(params: &SamplingParams, values: &[f64]) -> Vec<u32> {
        let maximum = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut kept = vec![42];
        Filter::new(params).keep(values, maximum, &mut kept);
        kept.sort_unstable();
        kept
    }

    /// The definition, word for word: everything sorted, every weight added.
    fn kept_slowly(params: &SamplingParams, values: &[f64]) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..values.len() as u32)
            .filter(|&id| values[id as usize].is_finite())
            .collect();
        let maximum = ids
            .iter()
            .map(|&id| values[id as usize])
            .fold(f64::NEG_INFINITY, f64::max);
        let weight = |id: u32| exp(values[id as usize] - maximum);
        ids.sort_by(by_rank(values));
        if params.top_k > 0 {
            ids.truncate(params.top_k as usize);
        }
        if params.top_p < 1.0 {
            let mut ascending = ids.clone();
            ascending.sort_unstable();
            let target = f64::from(params.top_p) * ascending.into_iter().map(weight).sum::<f64>();
            let mut before = 0.0;
            ids.retain(|&id| {
                let keep = before < target;
                before += weight(id);
                keep
            });
        }
        ids.retain(|&id| values[id as usize] - maximum >= ln(f64::from(params.min_p)));
        ids.sort_unstable();
        ids
    }

    fn log(weights: &[f64]) -> Vec<f64> {
        weights.iter().map(|w| w.ln()).collect()
    }

    #[test]
    fn top_k_breaks_ties_by_id() {
        let params = SamplingParams {
            top_k: 2,
            ..SamplingParams::default()
        };
        assert_eq!(kept(&params, &[1.0, 3.0, 2.0, 3.0, 3.0]), [1, 3]);
        assert_eq!(kept(&params, &[0.0, -0.0, 0.0]), [0, 1]);
    }

    #[test]
    fn top_p_keeps_the_id_that_crosses() {
        let values = log(&[0.05, 0.5, 0.15, 0.3]);
        let at = |top_p| {
            kept(
                &SamplingParams {
                    top_p,
                    ..SamplingParams::default()
                },
                &values,
            )
        };
        assert_eq!(at(0.001), [1]);
        assert_eq!(at(0.45), [1]);
        assert_eq!(at(0.55), [1, 3]);
        assert_eq!(at(0.85), [1, 2, 3]);
        assert_eq!(at(0.96), [0, 1, 2, 3]);
    }

    #[test]
    fn top_p_sees_what_top_k_left() {
        let params = SamplingParams {
            top_k: 2,
            top_p: 0.6,
            ..SamplingParams::default()
        };
        // 0.4 of all, but 4/7 = 0.571 of the two best: one id is not enough, where 0.4/0.7 of three would need two too.
        assert_eq!(kept(&params, &log(&[0.3, 0.4, 0.3])), [0, 1]);
        let params = SamplingParams {
            top_p: 0.55,
            ..params
        };
        assert_eq!(kept(&params, &log(&[0.3, 0.4, 0.3])), [1]);
    }

    #[test]
    fn min_p_is_relative_to_the_best() {
        let params = SamplingParams {
            min_p: 0.25,
            ..SamplingParams::default()
        };
        assert_eq!(kept(&params, &log(&[0.6, 0.2, 0.14, 0.06])), [0, 1]);
        let params = SamplingParams {
            min_p: 1.0,
            ..SamplingParams::default()
        };
        assert_eq!(kept(&params, &[1.0, 2.0, 2.0]), [1, 2]);
    }

    #[test]
    fn impossible_ids_are_never_kept() {
        let params = SamplingParams {
            top_k: 3,
            top_p: 0.999,
            ..SamplingParams::default()
        };
        assert_eq!(
            kept(&params, &[f64::NEG_INFINITY, 0.0, f64::NEG_INFINITY]),
            [1]
        );
    }

    proptest! {
        #[test]
        fn partial_sorting_changes_nothing(
            levels in prop::collection::vec(-12i32..12, 1..700),
            step in prop::sample::select(vec![0.001, 0.3, 1.0, 40.0]),
            top_k in prop::sample::select(vec![0u32, 1, 2, 17, 100, 650]),
            top_p in prop::sample::select(vec![0.1f32, 0.5, 0.9, 0.99, 0.999_999, 1.0]),
            min_p in prop::sample::select(vec![0.0f32, 0.01, 0.3, 1.0]),
        ) {
            let values: Vec<f64> = levels
                .iter()
                .map(|&level| if level == -12 { f64::NEG_INFINITY } else { f64::from(level) * step })
                .collect();
            prop_assume!(values.iter().any(|value| value.is_finite()));
            let params = SamplingParams { top_k, top_p, min_p, ..SamplingParams::default() };
            prop_assert_eq!(kept(&params, &values), kept_slowly(&params, &values));
        }
    }
}
