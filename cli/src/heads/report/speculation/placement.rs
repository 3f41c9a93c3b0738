//! What drafts from each head alone would bring at best, with the costs that this run measured.

use super::{layerskip::fixed_at, tuning::Tuning};
use crate::bench::pair::PolicyRuns;
use dssd_heads::{
    calibrate::Samples,
    report::{Replay, RoundCosts, fastest},
};
use serde::Serialize;

/// Longest draft that is replayed.
const LONGEST: usize = 10;
/// Least difference of the lengths between which costs are taken to lie on a line, in tokens.
const LEAST_APART: f64 = 0.5;

/// One head by itself.
#[derive(Serialize)]
pub(in crate::heads::report) struct Placement {
    pub(in crate::heads::report) layer: usize,
    #[serde(flatten)]
    pub(in crate::heads::report) costs: HeadCosts,
    /// The fastest rule to end drafts by.
    pub(in crate::heads::report) optimum: Replay,
    /// The same if the way there and back took no time.
    pub(in crate::heads::report) optimum_without_wire: Replay,
}

/// What drafts cost, by the fixed lengths that were tried.
#[derive(Clone, Debug, Serialize)]
pub(in crate::heads::report) struct HeadCosts {
    /// Of drafts of 1, 2, … tokens, the way there and back included.
    pub(in crate::heads::report) draft_seconds: Vec<f64>,
    /// The way there and back.
    pub(in crate::heads::report) wire_seconds: f64,
}

/// Costs of each of `heads` heads; none of one that was tried with fewer than two lengths.
pub(super) fn head_costs(tuning: &Tuning, heads: usize) -> Vec<Option<HeadCosts>> {
    let of_head = |head: usize| {
        let fixed = |runs: &&PolicyRuns| fixed_at(runs).is_some_and(|(of, _)| of == head);
        let tried = || tuning.tried.iter().filter(fixed).map(PolicyRuns::total);
        let waits = tried().filter(|total| total.drafts > 0).map(|total| {
            let drafts = total.drafts as f64;
            (
                total.drafted as f64 / drafts,
                total.draft_wait_seconds / drafts,
            )
        });
        let drafts: u64 = tried().map(|total| total.drafts).sum();
        let wire: f64 = tried().map(|total| total.wire_seconds).sum();
        HeadCosts::new(waits.collect(), wire / drafts as f64)
    };
    (0..heads).map(of_head).collect()
}

impl HeadCosts {
    /// From (tokens of a draft, its seconds), on straight lines between them, up to the longest of them.
    /// A longer draft is never cheaper than a shorter one.
    fn new(mut waits: Vec<(f64, f64)>, wire_seconds: f64) -> Option<Self> {
        waits.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Drafts of nearly one length tell nothing of the slope.
        waits.dedup_by(|next, kept| next.0 - kept.0 < LEAST_APART);
        let last = waits.len().checked_sub(2)?;
        let longest = (waits[last + 1].0.round() as usize).min(LONGEST);
        let seconds = |tokens: f64| {
            let below = waits.partition_point(|wait| wait.0 <= tokens);
            let segment = below.saturating_sub(1).min(last);
            let (from, to) = (waits[segment], waits[segment + 1]);
            let share = (tokens - from.0) / (to.0 - from.0);
            (from.1 + share * (to.1 - from.1)).max(0.0)
        };
        let mut draft_seconds: Vec<f64> = Vec::with_capacity(longest);
        for tokens in 1..=longest {
            let shorter = draft_seconds.last().copied().unwrap_or(0.0);
            draft_seconds.push(seconds(tokens as f64).max(shorter));
        }
        Some(Self {
            draft_seconds,
            wire_seconds,
        })
    }
}

/// The best of every head with known costs, on the model's own continuations.
pub(in crate::heads::report) fn placements(
    samples: &Samples,
    costs: &[Option<HeadCosts>],
    plain_rate: f64,
    passes: &[f64],
) -> Vec<Placement> {
    let both = samples.heads.iter().zip(costs);
    both.filter_map(|(head, costs)| {
        let costs = costs.clone()?;
        let best = |drafts: &[f64]| {
            let costs = RoundCosts {
                plain: 1.0 / plain_rate,
                drafts,
                passes,
            };
            fastest(samples, head, &costs)
        };
        let drafting = costs
            .draft_seconds
            .iter()
            .map(|wait| wait - costs.wire_seconds);
        let drafting: Vec<f64> = drafting.map(|seconds| seconds.max(0.0)).collect();
        Some(Placement {
            layer: head.layer,
            optimum: best(&costs.draft_seconds)?,
            optimum_without_wire: best(&drafting)?,
            costs,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::HeadCosts;

    #[test]
    fn costs_lie_on_the_lines_between_what_was_measured() {
        let waits = vec![(5.0, 2.0), (1.0, 0.75), (3.0, 1.0)];
        let costs = HeadCosts::new(waits, 0.5).unwrap();
        assert_eq!(costs.draft_seconds, [0.75, 0.875, 1.0, 1.5, 2.0]);
        assert!(HeadCosts::new(vec![(2.0, 1.0), (2.1, 1.5)], 0.5).is_none());
        let falling = HeadCosts::new(vec![(1.0, 1.0), (3.0, 0.5)], 0.5).unwrap();
        assert_eq!(falling.draft_seconds, [1.0; 3], "no token is free of time");
    }
}
