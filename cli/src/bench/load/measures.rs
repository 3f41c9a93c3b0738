//! What is counted, and how: percentiles out of histograms, sums, and nothing from outside the window.

use super::{
    call::{Arrival, End, Outcome},
    window::Window,
};
use anyhow::Result;
use dssd_proto::v1::{FinishInfo, SpeculativeDecoding};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;
use tonic::Code;

/// Times are kept in microseconds, up to an hour, to three significant digits.
const LONGEST: u64 = 3_600_000_000;
const DIGITS: u8 = 3;

/// Times that a request must keep to be counted as good.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Objectives {
    pub(super) ttft: Option<Duration>,
    /// For the mean time from one token of a request to the next.
    pub(super) itl: Option<Duration>,
}

/// Which calls belong to a window. Tokens always do by their own arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belongs {
    /// Those that ended in it.
    ByEnd,
    /// Those that were due in it.
    ByDue,
}

/// Everything about the calls of one window, and sums over all calls beside it.
#[derive(Clone)]
pub(super) struct Measures {
    belongs: Belongs,
    objectives: Objectives,
    pub(super) ttft: Times,
    pub(super) itl: Times,
    pub(super) e2e: Times,
    /// From the moment that a call was due to its refusal.
    pub(super) refusal: Times,
    pub(super) tokens: u64,
    /// Tokens of calls that finished within the objectives.
    pub(super) good_tokens: u64,
    pub(super) finished: u64,
    pub(super) good: u64,
    pub(super) rejected: u64,
    pub(super) rejected_with_retry_info: u64,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) drafting: Drafting,
    /// Calls of the whole run, warm-up and end included.
    pub(super) totals: Totals,
    /// The first error in words.
    pub(super) first_error: Option<String>,
    /// Calls, of the whole run, with missing, doubled or disordered tokens.
    pub(super) wrong: u64,
    pub(super) first_wrong: Option<String>,
}

/// Sums over the finished calls of a window, as the server reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Drafting {
    pub(super) drafts: u64,
    pub(super) drafted: u64,
    pub(super) accepted: u64,
    pub(super) plain_rounds: BTreeMap<String, u64>,
}

/// Sums over all calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    pub(super) finished: u64,
    pub(super) rejected: u64,
    pub(super) failed: u64,
    /// Of finished calls.
    pub(super) generated_tokens: u64,
    /// The same, and those of calls that failed on their way.
    pub(super) received_tokens: u64,
    pub(super) drafts: u64,
    pub(super) draft_tokens: u64,
    pub(super) accepted_tokens: u64,
}

/// A histogram of times.
#[derive(Clone)]
pub(super) struct Times(Histogram<u64>);

/// Percentiles in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
}

impl Times {
    /// None yet.
    ///
    /// # Errors
    /// If there is no such histogram.
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST, DIGITS)?))
    }

    /// Counts `time` as often as said.
    pub(super) fn add(&mut self, time: Duration, count: u64) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(LONGEST);
        self.0.saturating_record_n(micros, count);
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// None where nothing was counted.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e6;
        (!self.0.is_empty()).then(|| Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
        })
    }
}

impl Measures {
    /// Nothing yet.
    ///
    /// # Errors
    /// If there is no room for histograms.
    pub(super) fn new(belongs: Belongs, objectives: Objectives) -> Result<Self> {
        Ok(Self {
            belongs,
            objectives,
            ttft: Times::new()?,
            itl: Times::new()?,
            e2e: Times::new()?,
            refusal: Times::new()?,
            tokens: 0,
            good_tokens: 0,
            finished: 0,
            good: 0,
            rejected: 0,
            rejected_with_retry_info: 0,
            errors: BTreeMap::new(),
            drafting: Drafting::default(),
            totals: Totals::default(),
            first_error: None,
            wrong: 0,
            first_wrong: None,
        })
    }

    /// Calls of the window, however they ended.
    pub(super) fn ended(&self) -> u64 {
        self.finished + self.rejected + self.failed()
    }

    /// Calls of the window that ended with an error.
    pub(super) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Takes note of a call that has ended.
    pub(super) fn add(&mut self, outcome: &Outcome, window: &Window) {
        let belongs = window.contains(match self.belongs {
            Belongs::ByEnd => outcome.ended,
            Belongs::ByDue => outcome.due,
        });
        let tokens = self.add_arrivals(outcome, window);
        self.tokens += tokens;
        self.totals.add(outcome);
        match &outcome.end {
            End::Finished(finish) => {
                let good = outcome.keeps(self.objectives);
                self.good_tokens += if good { tokens } else { 0 };
                if belongs {
                    self.finished += 1;
                    self.good += u64::from(good);
                    self.e2e.add(outcome.ended - outcome.due, 1);
                    self.drafting.add(finish);
                }
            }
            End::Refused(retry) if belongs => {
                self.rejected += 1;
                self.rejected_with_retry_info += u64::from(retry.is_some());
                self.refusal.add(outcome.ended - outcome.due, 1);
            }
            End::Refused(_) => {}
            End::Failed(code, words) => self.fail(*code, words, belongs),
            End::Wrong(words) => {
                self.wrong += 1;
                self.first_wrong.get_or_insert_with(|| words.clone());
                self.fail(Code::DataLoss, words, belongs);
            }
        }
    }

    fn fail(&mut self, code: Code, words: &str, belongs: bool) {
        self.first_error.get_or_insert_with(|| words.to_owned());
        if belongs {
            *self.errors.entry(name(code)).or_default() += 1;
        }
    }

    /// Times of the tokens that came in the window, and their number.
    fn add_arrivals(&mut self, outcome: &Outcome, window: &Window) -> u64 {
        let mut tokens = 0;
        let mut before: Option<Instant> = None;
        for &Arrival { at, tokens: count } in &outcome.arrivals {
            let previous = before.replace(at);
            if count == 0 || !window.contains(at) {
                continue;
            }
            tokens += u64::from(count);
            match previous {
                None => self.ttft.add(at - outcome.due, 1),
                // Tokens of one message share the time since the one before.
                Some(previous) => self.itl.add((at - previous) / count, count.into()),
            }
        }
        tokens
    }

    /// Adds those of another window.
    ///
    /// # Errors
    /// If histograms do not fit together.
    pub(super) fn merge(&mut self, other: &Self) -> Result<()> {
        self.ttft.merge(&other.ttft)?;
        self.itl.merge(&other.itl)?;
        self.e2e.merge(&other.e2e)?;
        self.refusal.merge(&other.refusal)?;
        self.tokens += other.tokens;
        self.good_tokens += other.good_tokens;
        self.finished += other.finished;
        self.good += other.good;
        self.rejected += other.rejected;
        self.rejected_with_retry_info += other.rejected_with_retry_info;
        for (code, count) in &other.errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
        self.drafting.merge(&other.drafting);
        self.totals.merge(&other.totals);
        self.wrong += other.wrong;
        let first = |mine: &mut Option<String>, other: &Option<String>| {
            *mine = mine.take().or_else(|| other.clone());
        };
        first(&mut self.first_error, &other.first_error);
        first(&mut self.first_wrong, &other.first_wrong);
        Ok(())
    }
}

impl Outcome {
    /// Whether its times were within the objectives.
    fn keeps(&self, objectives: Objectives) -> bool {
        let (Some(first), Some(last)) = (self.arrivals.first(), self.arrivals.last()) else {
            return objectives.ttft.is_none();
        };
        let behind: u32 = self.arrivals[1..]
            .iter()
            .map(|arrival| arrival.tokens)
            .sum();
        let mean = (last.at - first.at) / behind.max(1);
        let within = |limit: Option<Duration>, time| limit.is_none_or(|limit| time <= limit);
        within(objectives.ttft, first.at - self.due) && within(objectives.itl, mean)
    }
}

impl Drafting {
    fn add(&mut self, finish: &FinishInfo) {
        let Some(report) = &finish.speculative_decoding else {
            return;
        };
        self.drafts += report.num_drafts;
        self.drafted += report.num_draft_tokens;
        self.accepted += report.num_accepted_tokens;
        for (reason, count) in plain_rounds(report) {
            *self.plain_rounds.entry(reason).or_default() += count;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.drafts += other.drafts;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
        for (reason, count) in &other.plain_rounds {
            *self.plain_rounds.entry(reason.clone()).or_default() += count;
        }
    }

    /// Accepted share of the drafted tokens; none where nothing was drafted.
    pub(super) fn acceptance(&self) -> Option<f64> {
        (self.drafted > 0).then(|| self.accepted as f64 / self.drafted as f64)
    }
}

fn plain_rounds(report: &SpeculativeDecoding) -> impl Iterator<Item = (String, u64)> + '_ {
    report.plain_rounds.iter().map(|rounds| {
        let name = rounds.reason().as_str_name();
        let name = name.strip_prefix("PLAIN_REASON_").unwrap_or(name);
        (name.to_owned(), rounds.count)
    })
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        let received = outcome.answer.token_ids.len() as u64;
        self.received_tokens += received;
        match &outcome.end {
            End::Finished(finish) => {
                self.finished += 1;
                self.generated_tokens += received;
                let report = finish.speculative_decoding.as_ref();
                self.drafts += report.map_or(0, |report| report.num_drafts);
                self.draft_tokens += report.map_or(0, |report| report.num_draft_tokens);
                self.accepted_tokens += report.map_or(0, |report| report.num_accepted_tokens);
            }
            End::Refused(_) => self.rejected += 1,
            End::Failed(..) | End::Wrong(_) => self.failed += 1,
        }
    }

    /// Adds other calls.
    pub(super) fn merge(&mut self, other: &Self) {
        self.finished += other.finished;
        self.rejected += other.rejected;
        self.failed += other.failed;
        self.generated_tokens += other.generated_tokens;
        self.received_tokens += other.received_tokens;
        self.drafts += other.drafts;
        self.draft_tokens += other.draft_tokens;
        self.accepted_tokens += other.accepted_tokens;
    }
}

/// A code as the protocol's documents spell it, such as `DATA_LOSS`.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}

#[cfg(test)]
mod tests;
