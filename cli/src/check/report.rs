//! What the check found.

use super::{
    comparison::{Expected, What},
    setting::{Setting, Source},
};
use crate::client::Generated;
use dssd_proto::v1::PlainRoundCount;
use serde::Serialize;

/// Accepted and rejected tokens that a setting must have seen, for its sameness to prove anything.
const ENOUGH: u64 = 1000;
/// Tokens drafted ahead that a setting with work ahead is expected to have used. How far drafters
/// come while a verifier runs depends on the machine, so fewer are no failure.
const ENOUGH_AHEAD: u64 = 100;
/// Drafter losses and stale proposals that a check with faults must have counted.
const ENOUGH_LOSSES: u64 = 100;
const ENOUGH_STALE: u64 = 1000;

/// The whole report; sums over all settings.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    pub(super) prompts: usize,
    pub(crate) tokens_compared: u64,
    pub(crate) differing_tokens: u64,
    pub(super) first_divergence: Option<Divergence>,
    pub(super) settings: Vec<Row>,
    /// Settings that could not be checked here; they count neither way.
    pub(super) left_out: Vec<LeftOut>,
    /// What the check may not have shown.
    pub(super) notes: Vec<String>,
    /// Why the check failed; empty if it did not.
    pub(crate) failures: Vec<String>,
}

/// A setting that was not checked.
#[derive(Serialize)]
pub(super) struct LeftOut {
    pub(super) name: String,
    pub(super) reason: &'static str,
}

/// Where a speculated run first left the plain one.
#[derive(Clone, Serialize)]
pub(super) struct Divergence {
    pub(super) setting: String,
    pub(super) prompt: String,
    pub(super) what: What,
    /// Index among the generated tokens.
    pub(super) position: usize,
    /// The plain run's token; none if it ended before.
    pub(super) plain: Option<u32>,
    /// The speculated run's.
    pub(super) speculated: Option<u32>,
    /// Log-probability of the plain token minus that of the other, in nats; none if unknown.
    pub(super) margin: Option<f64>,
}

/// Sums over the generations of one setting.
#[derive(Default, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) tokens: u64,
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    pub(super) plain_rounds: u64,
    pub(super) stale_proposals: u64,
    pub(super) drafter_losses: u64,
    /// Drafted tokens that had been drafted before they were asked for; none where drafters do
    /// not work ahead.
    pub(super) ahead: Option<u64>,
    /// The policy may choose not to draft, so that few drafted tokens are no failure.
    pub(super) adaptive: bool,
}

impl Row {
    /// An empty row of a setting.
    pub(super) fn new(setting: &Setting) -> Self {
        Self {
            name: setting.name(),
            adaptive: setting.is_adaptive(),
            ahead: (setting.source == Source::Ahead).then_some(0),
            ..Self::default()
        }
    }

    fn add(&mut self, run: &Generated) {
        let speculation = run.finish.speculative_decoding.as_ref();
        let Some(speculation) = speculation else {
            return;
        };
        self.tokens += run.token_ids.len() as u64;
        self.accepted += speculation.num_accepted_tokens;
        self.rejected += speculation.num_draft_tokens - speculation.num_accepted_tokens;
        let count = |rounds: &PlainRoundCount| rounds.count;
        self.plain_rounds += speculation.plain_rounds.iter().map(count).sum::<u64>();
        self.stale_proposals += speculation.stale_proposals;
        if let Some(ahead) = &mut self.ahead {
            *ahead += speculation.num_ahead_tokens;
        }
        self.drafter_losses += speculation.drafter_losses;
    }
}

impl Report {
    /// Compares a speculated run with what it has to give, and adds it to a row. Returns the
    /// divergence if it is the first of all.
    pub(super) fn compare(
        &mut self,
        row: &mut Row,
        prompt: &str,
        expected: &Expected<'_>,
        run: &Generated,
    ) -> Option<&mut Divergence> {
        row.add(run);
        self.tokens_compared += expected.positions(run) as u64;
        let difference = expected.difference(run)?;
        self.differing_tokens += difference.count;
        if self.first_divergence.is_some() {
            return None;
        }
        Some(self.first_divergence.insert(Divergence {
            setting: row.name.clone(),
            prompt: prompt.to_owned(),
            what: difference.what,
            position: difference.position,
            plain: difference.plain,
            speculated: difference.speculated,
            margin: None,
        }))
    }

    /// Tokens that were drafted in all settings.
    pub(crate) fn drafted_tokens(&self) -> u64 {
        let drafted = |row: &Row| row.accepted + row.rejected;
        self.settings.iter().map(drafted).sum()
    }

    /// Fills in `failures` and `notes`. With `quick`, few tokens are no failure.
    pub(super) fn judge(&mut self, quick: bool, faults: bool) {
        if self.differing_tokens > 0 {
            self.failures
                .push(format!("{} tokens differ", self.differing_tokens));
        }
        if quick {
            return;
        }
        for row in self.settings.iter().filter(|row| !row.adaptive) {
            let few = |count: u64, enough: u64, what| {
                let name = &row.name;
                (count < enough).then(|| {
                    format!("`{name}` had {count} {what}; fewer than {enough} prove nothing")
                })
            };
            self.failures
                .extend(few(row.accepted, ENOUGH, "accepted tokens"));
            self.failures
                .extend(few(row.rejected, ENOUGH, "rejected tokens"));
            let ahead = row.ahead.unwrap_or(ENOUGH_AHEAD);
            self.notes
                .extend(few(ahead, ENOUGH_AHEAD, "tokens drafted ahead"));
        }
        let sum = |field: fn(&Row) -> u64| self.settings.iter().map(field).sum::<u64>();
        let counts = [
            (
                sum(|row| row.drafter_losses),
                ENOUGH_LOSSES,
                "drafter losses",
            ),
            (
                sum(|row| row.stale_proposals),
                ENOUGH_STALE,
                "stale proposals",
            ),
        ];
        for (count, enough, what) in counts {
            if faults && count < enough {
                self.failures.push(format!(
                    "{count} {what} were counted; fewer than {enough} prove nothing"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Row};

    #[test]
    fn too_few_tokens_or_faults_fail_unless_quick() {
        let judged = |quick, faults| {
            let mut report = Report {
                settings: vec![Row {
                    accepted: 1000,
                    rejected: 999,
                    ..Row::default()
                }],
                ..Report::default()
            };
            report.judge(quick, faults);
            report.failures.len()
        };
        assert_eq!(judged(true, true), 0);
        assert_eq!(judged(false, false), 1);
        assert_eq!(judged(false, true), 3);
    }

    #[test]
    fn work_ahead_that_gave_little_is_noted() {
        let notes = |ahead| {
            let mut report = Report {
                settings: vec![Row {
                    accepted: 1000,
                    rejected: 1000,
                    ahead,
                    ..Row::default()
                }],
                ..Report::default()
            };
            report.judge(false, false);
            assert!(report.failures.is_empty());
            report.notes.len()
        };
        assert_eq!([notes(None), notes(Some(100)), notes(Some(99))], [0, 0, 1]);
    }

    #[test]
    fn a_difference_fails_even_if_quick() {
        let mut report = Report {
            differing_tokens: 1,
            ..Report::default()
        };
        report.judge(true, false);
        assert_eq!(report.failures, ["1 tokens differ"]);
    }
}
