//! What drafts from one head would bring, replayed on recorded positions.
//!
//! A round at a position reads the head there and at the positions behind it. Its draft ends at the
//! longest length, or at the first entropy above a threshold, whose token is dropped or kept. The
//! round then brings the leading tokens on which head and model agree, and one more of the model's
//! own. Behind a wrong token the head is taken to be as sure as it was on the recorded text. Rounds
//! are a renewal process: its rate is Σ tokens / Σ seconds.

use crate::calibrate::{HeadSamples, Samples};
use serde::Serialize;
use std::{fmt, ops::Range};

/// Entropy quantiles that are tried as thresholds, beside none.
const THRESHOLDS: usize = 24;

/// Measured seconds.
#[derive(Clone, Copy, Debug)]
pub struct RoundCosts<'a> {
    /// A token of plain decoding, as a client sees it.
    pub plain: f64,
    /// Waiting for a draft for which the head reads 1, 2, … positions.
    pub drafts: &'a [f64],
    /// Passes of the whole model over 1, 2, … rows.
    pub passes: &'a [f64],
}

/// How drafts end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DraftRule {
    /// The largest entropy that a draft goes on at, in nats; none where only the length ends it.
    pub threshold: Option<f32>,
    /// Whether the token that ends a draft is drafted itself.
    pub keep: bool,
    /// Longest draft.
    pub longest: usize,
}

impl fmt::Display for DraftRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "up to {}", self.longest)?;
        match (self.threshold, self.keep) {
            (Some(nats), false) => write!(f, ", while H ≤ {nats:.2}"),
            (Some(nats), true) => write!(f, ", up to the first H > {nats:.2}"),
            (None, _) => Ok(()),
        }
    }
}

/// What the fastest rule brings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Replay {
    /// The rule.
    #[serde(flatten)]
    pub rule: DraftRule,
    /// Tokens per second over those of plain decoding.
    pub speedup: f64,
    /// Accepted over drafted tokens.
    pub draft_acceptance_rate: f64,
    /// Share of rounds with a draft.
    pub coverage: f64,
}

/// Sums over rounds.
#[derive(Clone, Copy, Debug, Default)]
struct Rounds {
    rounds: usize,
    drafts: usize,
    drafted: usize,
    accepted: usize,
    seconds: f64,
}

/// The fastest for a head of rules with 24 entropy quantiles as thresholds, or none, chosen on the very
/// positions that it is judged on, which flatters it a little. Drafts are as long as the costs tell.
/// `head` must be one of `samples`. None without positions or costs.
pub fn fastest(samples: &Samples, head: &HeadSamples, costs: &RoundCosts<'_>) -> Option<Replay> {
    let documents = documents(samples);
    let longest = costs.drafts.len().min(costs.passes.len().saturating_sub(1));
    let replays = thresholds(head).into_iter().flat_map(|threshold| {
        let keeps = if threshold.is_some() { 2 } else { 1 };
        (0..keeps).flat_map(move |keep| {
            (1..=longest).map(move |longest| DraftRule {
                threshold,
                keep: keep == 1,
                longest,
            })
        })
    });
    replays
        .filter_map(|rule| replay(&documents, head, rule, costs))
        .max_by(|a, b| a.speedup.total_cmp(&b.speedup))
}

fn thresholds(head: &HeadSamples) -> Vec<Option<f32>> {
    let mut sorted = head.entropy.clone();
    sorted.sort_by(f32::total_cmp);
    let quantile = |i: usize| sorted.get(i * sorted.len() / (THRESHOLDS + 1)).copied();
    let mut all: Vec<Option<f32>> = (1..=THRESHOLDS).map(quantile).collect();
    all.push(None);
    all.dedup();
    all
}

/// The positions of each document.
fn documents(samples: &Samples) -> Vec<Range<usize>> {
    let mut begin = 0;
    let same = samples.documents.chunk_by(|a, b| a == b);
    same.map(|document| {
        let range = begin..begin + document.len();
        begin = range.end;
        range
    })
    .collect()
}

fn replay(
    documents: &[Range<usize>],
    head: &HeadSamples,
    rule: DraftRule,
    costs: &RoundCosts<'_>,
) -> Option<Replay> {
    let mut rounds = Rounds::default();
    for document in documents {
        let mut position = document.start;
        while position < document.end {
            position += rounds.round(head, position..document.end, rule, costs);
        }
    }
    let tokens = rounds.rounds + rounds.accepted;
    (rounds.rounds > 0).then(|| Replay {
        rule,
        speedup: tokens as f64 * costs.plain / rounds.seconds,
        draft_acceptance_rate: rounds.accepted as f64 / rounds.drafted.max(1) as f64,
        coverage: rounds.drafts as f64 / rounds.rounds as f64,
    })
}

impl Rounds {
    /// Runs a round at the first of `positions`. Returns the tokens that it brings.
    fn round(
        &mut self,
        head: &HeadSamples,
        positions: Range<usize>,
        rule: DraftRule,
        costs: &RoundCosts<'_>,
    ) -> usize {
        let (mut read, mut drafted, mut accepted) = (0, 0, 0);
        for position in positions.take(rule.longest) {
            read += 1;
            let unsure = rule.threshold.is_some_and(|t| head.entropy[position] > t);
            if unsure && !rule.keep {
                break;
            }
            if accepted == drafted && head.agrees[position] {
                accepted += 1;
            }
            drafted += 1;
            if unsure {
                break;
            }
        }
        // Medians of near equals may lie the other way round.
        let rows = (costs.passes[drafted] - costs.passes[0]).max(0.0);
        self.seconds += costs.plain + rows + costs.drafts[read - 1];
        self.rounds += 1;
        self.drafts += usize::from(drafted > 0);
        self.drafted += drafted;
        self.accepted += accepted;
        accepted + 1
    }
}
