//! What `dssd bench load` tells.

use super::{
    buckets::Within,
    closed,
    counters::Count,
    measures::{Measures, Percentiles, Totals},
    open::{self, Plan},
    table,
};
use crate::bench::timing::median;
use dssd_common::policy::PolicySpec;
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// The keys of `--json`. Times in seconds, rates in tokens per second unless the name says otherwise.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    /// None where the services ran in this process.
    pub(super) endpoints: Vec<String>,
    pub(super) policy: String,
    pub(super) seed: u64,
    pub(super) repeats: u16,
    /// With drafts and without, for every number of streams.
    pub(super) rungs: Vec<Rung>,
    pub(super) ratios: Vec<Ratio>,
    /// The rung with drafts that had most tokens per second; null without a ladder.
    pub(super) saturation: Option<Saturation>,
    pub(super) open_loop: Option<OpenLoop>,
    /// Null unless --verify was given.
    pub(super) verified: Option<Verified>,
    /// Calls with missing, doubled or disordered tokens.
    pub(super) wrong: u64,
    /// All calls of the run, those outside the windows included.
    pub(super) totals: Totals,
    /// What the servers counted, beside `totals`; empty where nobody asked them.
    pub(super) counters: Vec<Count>,
    /// How late the servers were with refusals by their own clocks, as they were asked for `counters`.
    pub(super) server_refusal_delay: Option<Within>,
}

/// One number of streams, drafted or not.
#[derive(Serialize)]
pub(super) struct Rung {
    pub(super) streams: usize,
    /// The policy, or `off`.
    pub(super) speculation: String,
    /// Median over the repeats.
    pub(super) tokens_per_second: f64,
    pub(super) samples: Vec<f64>,
    /// Median over the repeats: tokens of calls that finished within the objectives.
    pub(super) goodput: f64,
    #[serde(flatten)]
    pub(super) calls: Calls,
}

/// What calls took, and how they ended.
#[derive(Serialize)]
pub(super) struct Calls {
    /// To the first token.
    pub(super) ttft: Option<Percentiles>,
    /// From token to token.
    pub(super) itl: Option<Percentiles>,
    /// To the end.
    pub(super) e2e: Option<Percentiles>,
    pub(super) finished: u64,
    /// Those of `finished` within the objectives.
    pub(super) good: u64,
    pub(super) rejected: u64,
    pub(super) rejected_with_retry_info: u64,
    /// To the refusal.
    pub(super) refusal: Option<Percentiles>,
    pub(super) errors: u64,
    pub(super) errors_by_code: BTreeMap<String, u64>,
    pub(super) num_drafts: u64,
    pub(super) num_draft_tokens: u64,
    pub(super) num_accepted_tokens: u64,
    pub(super) draft_acceptance_rate: Option<f64>,
    /// Rounds without a draft, by reason.
    pub(super) plain_rounds: BTreeMap<String, u64>,
}

/// Tokens per second with drafts over those without, measured side by side.
#[derive(Serialize)]
pub(super) struct Ratio {
    pub(super) streams: usize,
    /// Median over the repeats.
    pub(super) ratio: f64,
    pub(super) lowest: f64,
    pub(super) highest: f64,
    pub(super) samples: Vec<f64>,
}

/// What the servers can take.
#[derive(Clone, Serialize)]
pub(super) struct Saturation {
    pub(super) streams: usize,
    pub(super) tokens_per_second: f64,
    /// By the mean length of the answers.
    pub(super) requests_per_second: f64,
    pub(super) itl: Option<Percentiles>,
    pub(super) ttft: Option<Percentiles>,
}

/// Requests that waited for nobody. Each that was offered is either unsent, finished, rejected or an error.
#[derive(Serialize)]
pub(super) struct OpenLoop {
    pub(super) speculation: String,
    pub(super) requests_per_second: f64,
    pub(super) seconds: f64,
    pub(super) offered: u64,
    pub(super) unsent: u64,
    /// From when a request was due to when it was sent: how late the client itself was.
    pub(super) client_lateness: Option<Percentiles>,
    pub(super) tokens_per_second: f64,
    pub(super) goodput: f64,
    /// `goodput` over the saturated rate of the ladder.
    pub(super) goodput_over_saturation: Option<f64>,
    /// 99th percentile of the inter-token latency over that of the saturated rung.
    pub(super) itl_p99_over_saturation: Option<f64>,
    #[serde(flatten)]
    pub(super) calls: Calls,
}

/// Answers of equal requests with drafts and without.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Verified {
    pub(super) compared: u64,
    pub(super) differing: u64,
}

impl From<&Measures> for Calls {
    fn from(measures: &Measures) -> Self {
        let drafting = &measures.drafting;
        Self {
            ttft: measures.ttft.percentiles(),
            itl: measures.itl.percentiles(),
            e2e: measures.e2e.percentiles(),
            finished: measures.finished,
            good: measures.good,
            rejected: measures.rejected,
            rejected_with_retry_info: measures.rejected_with_retry_info,
            refusal: measures.refusal.percentiles(),
            errors: measures.failed(),
            errors_by_code: measures.errors.clone(),
            num_drafts: drafting.drafts,
            num_draft_tokens: drafting.drafted,
            num_accepted_tokens: drafting.accepted,
            draft_acceptance_rate: drafting.acceptance(),
            plain_rounds: drafting.plain_rounds.clone(),
        }
    }
}

/// All repeats of one rung.
pub(super) struct Repeats {
    pub(super) streams: usize,
    pub(super) policy: PolicySpec,
    pub(super) rates: Vec<f64>,
    goodputs: Vec<f64>,
    pub(super) measures: Measures,
}

impl Repeats {
    /// None yet; `measures` is empty.
    pub(super) fn new(streams: usize, policy: PolicySpec, measures: Measures) -> Self {
        Self {
            streams,
            policy,
            rates: Vec::new(),
            goodputs: Vec::new(),
            measures,
        }
    }

    /// One more.
    ///
    /// # Errors
    /// If histograms do not fit together.
    pub(super) fn add(&mut self, measured: &closed::Measured) -> anyhow::Result<()> {
        let rate = |tokens: u64| tokens as f64 / measured.seconds.max(f64::MIN_POSITIVE);
        self.rates.push(rate(measured.measures.tokens));
        self.goodputs.push(rate(measured.measures.good_tokens));
        self.measures.merge(&measured.measures)
    }

    pub(super) fn rung(&self) -> Rung {
        Rung {
            streams: self.streams,
            speculation: self.policy.to_string(),
            tokens_per_second: median(&self.rates),
            samples: self.rates.clone(),
            goodput: median(&self.goodputs),
            calls: (&self.measures).into(),
        }
    }
}

impl Ratio {
    /// Of samples that were taken side by side; none where there were no tokens to compare.
    pub(super) fn new(streams: usize, on: &[f64], off: &[f64]) -> Option<Self> {
        let samples: Vec<f64> = on.iter().zip(off).map(|(on, off)| on / off).collect();
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (&lowest, &highest) = (sorted.first()?, sorted.last()?);
        let known = samples.iter().all(|ratio| ratio.is_finite());
        known.then(|| Self {
            streams,
            ratio: median(&samples),
            lowest,
            highest,
            samples,
        })
    }
}

impl Saturation {
    /// The rung with most tokens per second; `mean_tokens` is the mean length of an answer.
    pub(super) fn of<'a>(rungs: impl Iterator<Item = &'a Rung>, mean_tokens: f64) -> Option<Self> {
        let best = rungs.max_by(|a, b| a.tokens_per_second.total_cmp(&b.tokens_per_second))?;
        Some(Self {
            streams: best.streams,
            tokens_per_second: best.tokens_per_second,
            requests_per_second: best.tokens_per_second / mean_tokens.max(1.0),
            itl: best.calls.itl,
            ttft: best.calls.ttft,
        })
    }
}

impl OpenLoop {
    pub(super) fn new(
        plan: Plan,
        policy: PolicySpec,
        measured: &open::Measured,
        saturation: Option<&Saturation>,
    ) -> Self {
        let rate = |tokens: u64| tokens as f64 / measured.seconds.max(f64::MIN_POSITIVE);
        let calls = Calls::from(&measured.measures);
        let goodput = rate(measured.measures.good_tokens);
        let p99 = |times: Option<Percentiles>| times.map(|times| times.p99);
        let saturated = saturation.and_then(|saturation| p99(saturation.itl));
        Self {
            speculation: policy.to_string(),
            requests_per_second: plan.rate,
            seconds: measured.seconds,
            offered: measured.offered,
            unsent: measured.unsent,
            client_lateness: measured.lateness.percentiles(),
            tokens_per_second: rate(measured.measures.tokens),
            goodput,
            goodput_over_saturation: saturation.map(|s| goodput / s.tokens_per_second),
            itl_p99_over_saturation: p99(calls.itl)
                .zip(saturated)
                .map(|(open, rung)| open / rung),
            calls,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        table::write(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::Ratio;

    #[test]
    fn ratios_are_paired_and_tell_their_spread() {
        // The machine was ten times slower in the second repeat.
        let ratio = Ratio::new(4, &[110.0, 12.0, 90.0], &[100.0, 10.0, 100.0]).unwrap();
        assert_eq!((ratio.lowest, ratio.ratio, ratio.highest), (0.9, 1.1, 1.2));
        assert!(Ratio::new(4, &[1.0], &[0.0]).is_none());
        assert!(Ratio::new(4, &[], &[]).is_none());
    }
}
