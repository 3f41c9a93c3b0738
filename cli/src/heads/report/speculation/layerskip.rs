//! The paper's comparison: drafts that end by entropy against drafts of a fixed length.

use super::{
    candidates::Role,
    comparison::SplitB,
    paired::{acceptance, mean_acceptance_length},
    tuning::{Tuning, rate},
};
use crate::bench::pair::PolicyRuns;
use dssd_common::policy::PolicySpec;
use dssd_heads::interval::Estimate;
use serde::Serialize;

/// DSSD over LayerSkip, each at its setting of split A, on split B.
#[derive(Serialize)]
pub(in crate::heads::report) struct LayerSkip {
    pub(in crate::heads::report) layerskip: Side,
    pub(in crate::heads::report) dssd: Side,
    pub(in crate::heads::report) dssd_over_layerskip_acceptance: Estimate,
    /// The least ratio that bears the paper out: 1.66, or what is left up to an acceptance of .95.
    pub(in crate::heads::report) wanted: f64,
    /// Tokens per second.
    pub(in crate::heads::report) dssd_over_layerskip_rate: Option<Estimate>,
    pub(in crate::heads::report) dssd_over_plain_rate: Option<Estimate>,
    /// On split A, the ratio to what fixed lengths of LayerSkip's head accept at DSSD's mean
    /// acceptance length; none where none of them reaches it.
    pub(in crate::heads::report) ratio_at_matched_length: Option<f64>,
    /// The same to the most that any head accepts, however dear it is.
    pub(in crate::heads::report) ratio_at_matched_length_of_any_head: Option<f64>,
}

/// One of the two.
#[derive(Serialize)]
pub(in crate::heads::report) struct Side {
    pub(in crate::heads::report) settings: String,
    #[serde(flatten)]
    pub(in crate::heads::report) drafts: Drafts,
}

/// What drafts were like.
#[derive(Serialize)]
pub(in crate::heads::report) struct Drafts {
    pub(in crate::heads::report) temperature: f32,
    pub(in crate::heads::report) generations: usize,
    pub(in crate::heads::report) tokens_per_second: f64,
    pub(in crate::heads::report) draft_acceptance_rate: f64,
    pub(in crate::heads::report) mean_acceptance_length: f64,
    pub(in crate::heads::report) wasted_per_token: f64,
    pub(in crate::heads::report) coverage: f64,
}

/// One head and one draft length on split A.
#[derive(Serialize)]
pub(in crate::heads::report) struct LayerSkipRow {
    pub(in crate::heads::report) head: usize,
    pub(in crate::heads::report) layer: usize,
    pub(in crate::heads::report) tokens: usize,
    #[serde(flatten)]
    pub(in crate::heads::report) drafts: Drafts,
}

/// One target agreement on split A, with the longest draft that LayerSkip was tuned to.
#[derive(Serialize)]
pub(in crate::heads::report) struct DssdRow {
    pub(in crate::heads::report) epsilon: f64,
    pub(in crate::heads::report) max_draft_tokens: Option<u32>,
    #[serde(flatten)]
    pub(in crate::heads::report) drafts: Drafts,
}

impl LayerSkip {
    /// `fixed` and `tuned` are split A's of fixed lengths and of DSSD. None where there is no
    /// DSSD, or either never drafted.
    pub(super) fn new(split: &SplitB, fixed: &Tuning, tuned: &Tuning) -> Option<Self> {
        let (layerskip, dssd) = (split.runs(Role::LayerSkip)?, split.runs(Role::Dssd)?);
        let turns = &split.turns;
        let of_layerskip = acceptance(&layerskip.total())?;
        let tuned = tuned.winner(Role::Dssd)?;
        let head = fixed_at(layerskip).map(|(head, _)| head);
        Some(Self {
            layerskip: Side::new(layerskip),
            dssd: Side::new(dssd),
            dssd_over_layerskip_acceptance: turns.acceptance_ratio(dssd, layerskip)?,
            wanted: f64::min(1.66, 0.95 / of_layerskip),
            dssd_over_layerskip_rate: turns.median_ratio(&dssd.rates, &layerskip.rates),
            dssd_over_plain_rate: turns.median_ratio(&dssd.rates, &dssd.plain_rates),
            ratio_at_matched_length: at_matched_length(fixed, tuned, |of| Some(of) == head),
            ratio_at_matched_length_of_any_head: at_matched_length(fixed, tuned, |_| true),
        })
    }
}

impl Side {
    fn new(runs: &PolicyRuns) -> Self {
        Self {
            settings: runs.setting.policy.to_string(),
            drafts: Drafts::of(runs),
        }
    }
}

impl Drafts {
    fn of(runs: &PolicyRuns) -> Self {
        let total = runs.total();
        Self {
            temperature: runs.setting.temperature,
            generations: runs.rates.len(),
            tokens_per_second: rate(runs),
            draft_acceptance_rate: acceptance(&total).unwrap_or_default(),
            mean_acceptance_length: mean_acceptance_length(&total).unwrap_or(1.0),
            wasted_per_token: total.wasted() as f64 / total.tokens.max(1) as f64,
            coverage: total.drafts as f64 / total.passes.max(1.0),
        }
    }
}

/// Head and length of a fixed draft.
pub(super) fn fixed_at(runs: &PolicyRuns) -> Option<(usize, usize)> {
    match runs.setting.policy {
        PolicySpec::Fixed { head, tokens } => Some((head, tokens)),
        _ => None,
    }
}

/// Every fixed length that was tried, each on the same prompts; `layers` are those of the heads.
pub(super) fn layerskip_grid(tuning: &Tuning, layers: &[usize]) -> Vec<LayerSkipRow> {
    let common = tuning.common();
    let row = |runs: &PolicyRuns| {
        let (head, tokens) = fixed_at(runs)?;
        Some(LayerSkipRow {
            head,
            layer: *layers.get(head)?,
            tokens,
            drafts: Drafts::of(&runs.first(common)),
        })
    };
    tuning.tried.iter().filter_map(row).collect()
}

/// Every target agreement that was tried, each on the same prompts.
pub(super) fn dssd_grid(tuning: &Tuning) -> Vec<DssdRow> {
    let common = tuning.common();
    let row = |runs: &PolicyRuns| match runs.setting.policy {
        PolicySpec::Agreement { epsilon } => Some(DssdRow {
            epsilon,
            max_draft_tokens: runs.setting.max_draft_tokens,
            drafts: Drafts::of(&runs.first(common)),
        }),
        _ => None,
    };
    tuning.tried.iter().filter_map(row).collect()
}

/// DSSD's acceptance over the best that fixed lengths of some heads have at its mean acceptance
/// length, between two lengths of one head on a straight line. Only the prompts that all were
/// tried on count.
fn at_matched_length(
    tuning: &Tuning,
    dssd: &PolicyRuns,
    admits: impl Fn(usize) -> bool,
) -> Option<f64> {
    let common = tuning.common().min(dssd.rates.len());
    let point = |runs: &PolicyRuns| {
        let total = runs.first(common).total();
        Some((mean_acceptance_length(&total)?, acceptance(&total)?))
    };
    let (length, accepted) = point(dssd)?;
    let fixed = |runs: &PolicyRuns| Some((fixed_at(runs)?, point(runs)?));
    let mut points: Vec<_> = tuning.tried.iter().filter_map(fixed).collect();
    points.retain(|((head, _), _)| admits(*head));
    points.sort_by_key(|(at, _)| *at);
    let of_one_head = points.windows(2).filter(|pair| pair[0].0.0 == pair[1].0.0);
    let best = of_one_head
        .filter_map(|pair| on_line(pair[0].1, pair[1].1, length))
        .reduce(f64::max)?;
    (best > 0.0).then(|| accepted / best)
}

/// The height at `x` of the line between two points; none outside.
fn on_line(a: (f64, f64), b: (f64, f64), x: f64) -> Option<f64> {
    let inside = a.0.min(b.0) <= x && x <= a.0.max(b.0);
    let share = if a.0 == b.0 {
        0.0
    } else {
        (x - a.0) / (b.0 - a.0)
    };
    inside.then_some(a.1 + share * (b.1 - a.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::pair::{Setting, Totals};

    fn tried(policy: &str, drafts: u64, drafted: u64, accepted: u64) -> PolicyRuns {
        PolicyRuns {
            setting: Setting::greedy(policy.parse().unwrap()),
            rates: vec![1.0],
            plain_rates: vec![1.0],
            generations: vec![Totals {
                drafts,
                drafted,
                accepted,
                ..Totals::default()
            }],
        }
    }

    #[test]
    fn the_match_is_on_the_line_between_two_lengths_of_the_better_head() {
        let tuning = Tuning {
            tried: vec![
                // Length 1.6 at .6, and 2.0 at .5 for the first head; the second is worse.
                tried("fixed:0:1", 10, 10, 6),
                tried("fixed:0:2", 10, 20, 10),
                tried("fixed:1:1", 10, 10, 2),
                tried("fixed:1:4", 10, 40, 12),
            ],
        };
        // A length of 2.8, which no fixed length reaches.
        let longer = tried("entropy@0.8", 10, 20, 18);
        assert_eq!(at_matched_length(&tuning, &longer, |_| true), None);
        // At 1.8 the first head has .55, the second .2 + .6·.1.
        let shorter = tried("entropy@0.9", 10, 10, 8);
        let ratio = at_matched_length(&tuning, &shorter, |_| true).unwrap();
        assert!((ratio - 0.8 / 0.55).abs() < 1e-12, "{ratio}");
        // The second head is at 1.2 and .2, and at 2.2 and .3.
        let ratio = at_matched_length(&tuning, &shorter, |head| head == 1).unwrap();
        assert!((ratio - 0.8 / 0.26).abs() < 1e-12, "{ratio}");
    }
}
