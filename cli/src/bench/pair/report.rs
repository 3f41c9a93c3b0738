//! What `dssd bench pair` tells.

use super::{
    costs::{self, Costs},
    runs::PolicyRuns,
};
use crate::bench::{
    device::Computer,
    timing::{median, median_ratio},
};
use serde::Serialize;
use std::fmt;

/// The keys of `--json`.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) shape: String,
    pub(super) dtype: &'static str,
    #[serde(flatten)]
    pub(super) computer: Computer,
    pub(super) acceptance: Option<f64>,
    pub(super) plain_tokens_per_second: f64,
    pub(super) policies: Vec<PolicyReport>,
    pub(super) round_trip_seconds: f64,
}

/// One policy.
#[derive(Serialize)]
pub(crate) struct PolicyReport {
    pub(crate) policy: String,
    pub(crate) tokens_per_second: f64,
    /// Median over pairs with the plain runs beside.
    pub(crate) speedup: f64,
    pub(crate) draft_acceptance_rate: f64,
    pub(crate) mean_acceptance_length: f64,
    /// Tokens drafted and not accepted, those drafted ahead in vain included, per emitted token.
    pub(crate) wasted_per_token: f64,
    /// Share of rounds that had a draft.
    pub(crate) coverage: f64,
    /// Seconds of drafting per draft.
    pub(crate) draft_seconds: f64,
    /// Seconds of a pass of the whole model, plain ones included.
    pub(crate) verify_seconds: f64,
    /// Seconds of a proposal and its commit on the way, per draft.
    pub(crate) wire_seconds: f64,
    pub(crate) tokens_per_pass: f64,
    pub(crate) optimum_draft_tokens: usize,
    pub(crate) optimum_speedup: f64,
    /// The speed-up to the optimum, if anything was drafted.
    pub(crate) share_of_optimum: Option<f64>,
    /// By the renewal model, for the drafts as they were.
    pub(crate) modelled_speedup: f64,
}

impl PolicyReport {
    /// `passes`: seconds of passes of 1, 2, … rows; `plain_rate`: tokens per second.
    pub(crate) fn new(runs: &PolicyRuns, passes: &[f64], plain_rate: f64) -> Self {
        let total = runs.total();
        let per = |sum: f64, count: f64| if count > 0.0 { sum / count } else { 0.0 };
        let drafts = total.drafts as f64;
        let (drafted, accepted) = (total.drafted as f64, total.accepted as f64);
        let drafting = (total.draft_wait_seconds - total.wire_seconds).max(0.0);
        let costs = Costs {
            plain: 1.0 / plain_rate,
            draft: per(drafting, drafted),
            wire: per(total.wire_seconds, drafts),
            passes,
        };
        let acceptance = costs::acceptance(per(accepted, drafts), per(drafted, drafts));
        let (optimum_draft_tokens, optimum_speedup) = match total.drafts {
            0 => (0, 1.0),
            _ => costs.optimum(acceptance),
        };
        let speedup = median_ratio(&runs.rates, &runs.plain_rates);
        Self {
            policy: runs.setting.policy.to_string(),
            tokens_per_second: median(&runs.rates),
            speedup,
            draft_acceptance_rate: per(accepted, drafted),
            mean_acceptance_length: 1.0 + per(accepted, drafts),
            wasted_per_token: per(total.wasted() as f64, total.tokens as f64),
            coverage: per(drafts, total.passes),
            draft_seconds: per(drafting, drafts),
            verify_seconds: per(total.verify_seconds, total.passes),
            wire_seconds: costs.wire,
            tokens_per_pass: per(total.decoded as f64, total.passes),
            optimum_draft_tokens,
            optimum_speedup,
            share_of_optimum: (total.drafts > 0).then(|| speedup / optimum_speedup),
            modelled_speedup: costs.modelled(
                per(drafts, total.passes),
                per(drafted, drafts),
                per(accepted, drafts),
            ),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shape,
            dtype,
            computer,
            ..
        } = self;
        writeln!(f, "{shape}, {dtype}, {computer}")?;
        writeln!(
            f,
            "plain        {:.1} tokens/s",
            self.plain_tokens_per_second
        )?;
        writeln!(
            f,
            "round trip   {:.0} us without model work",
            1e6 * self.round_trip_seconds
        )?;
        writeln!(
            f,
            "\npolicy       tokens/s speed-up optimum  share accepted length wasted coverage   draft  verify    wire ms"
        )?;
        self.policies.iter().try_for_each(|policy| policy.fmt(f))
    }
}

impl fmt::Display for PolicyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:12} {:8.1} {:8.2} {:7.2} {:4.0} % {:6.0} % {:6.2} {:6.2} {:6.0} % {:7.2} {:7.2} {:7.2}",
            self.policy,
            self.tokens_per_second,
            self.speedup,
            self.optimum_speedup,
            100.0 * self.share_of_optimum.unwrap_or(f64::NAN),
            100.0 * self.draft_acceptance_rate,
            self.mean_acceptance_length,
            self.wasted_per_token,
            100.0 * self.coverage,
            1e3 * self.draft_seconds,
            1e3 * self.verify_seconds,
            1e3 * self.wire_seconds
        )
    }
}
