//! What the check found.

use super::setting::Setting;
use crate::client::Generated;
use dssd_proto::v1::PlainRoundCount;
use serde::Serialize;

/// Accepted and rejected tokens that a setting must have seen, for its sameness to prove anything.
const ENOUGH: u64 = 1000;
/// Drafter losses and stale proposals that a check with faults must have counted.
const ENOUGH_LOSSES: u64 = 100;
const ENOUGH_STALE: u64 = 1000;

/// The whole report; sums over all settings.
#[derive(Default, Serialize)]
pub(super) struct Report {
    pub(super) prompts: usize,
    pub(super) tokens_compared: u64,
    pub(super) differing_tokens: u64,
    pub(super) first_divergence: Option<Divergence>,
    pub(super) settings: Vec<Row>,
    /// Why the check failed; empty if it did not.
    pub(super) failures: Vec<String>,
}

/// Where a speculated run first left the plain one.
#[derive(Clone, Serialize)]
pub(super) struct Divergence {
    pub(super) setting: String,
    pub(super) prompt: String,
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
    tokens: u64,
    accepted: u64,
    rejected: u64,
    plain_rounds: u64,
    stale_proposals: u64,
    drafter_losses: u64,
}

impl Row {
    /// An empty row of a setting.
    pub(super) fn new(setting: &Setting) -> Self {
        Self {
            name: setting.name(),
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
        self.drafter_losses += speculation.drafter_losses;
    }
}

impl Report {
    /// Compares a speculated run with the plain one and adds it to a row. Returns the
    /// divergence if it is the first of all.
    pub(super) fn compare(
        &mut self,
        row: &mut Row,
        prompt: &str,
        plain: &Generated,
        run: &Generated,
    ) -> Option<&mut Divergence> {
        row.add(run);
        let length = plain.token_ids.len().max(run.token_ids.len());
        self.tokens_compared += length as u64;
        let differs =
            |&position: &usize| plain.token_ids.get(position) != run.token_ids.get(position);
        let differing = (0..length).filter(differs).count() as u64;
        let same_end = plain.text == run.text
            && plain.finish.finish_reason == run.finish.finish_reason
            && plain.finish.stop_string == run.finish.stop_string;
        // Equal tokens with another text or end count as one difference, behind the last token.
        let differing = differing.max(u64::from(!same_end));
        self.differing_tokens += differing;
        if differing == 0 || self.first_divergence.is_some() {
            return None;
        }
        let position = (0..length).find(differs).unwrap_or(length);
        Some(self.first_divergence.insert(Divergence {
            setting: row.name.clone(),
            prompt: prompt.to_owned(),
            position,
            plain: plain.token_ids.get(position).copied(),
            speculated: run.token_ids.get(position).copied(),
            margin: None,
        }))
    }

    /// Fills in `failures`. With `quick`, few tokens are no failure.
    pub(super) fn judge(&mut self, quick: bool, faults: bool) {
        if self.differing_tokens > 0 {
            self.failures
                .push(format!("{} tokens differ", self.differing_tokens));
        }
        if quick {
            return;
        }
        for row in &self.settings {
            for (count, what) in [(row.accepted, "accepted"), (row.rejected, "rejected")] {
                if count < ENOUGH {
                    self.failures.push(format!(
                        "`{}` had {count} {what} tokens; fewer than {ENOUGH} prove nothing",
                        row.name
                    ));
                }
            }
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

    /// The report as a table, with a verdict.
    pub(super) fn print(&self) {
        let width = self.settings.iter().map(|row| row.name.len()).max();
        let width = width.unwrap_or_default();
        println!(
            "{:width$} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}",
            "setting", "tokens", "accepted", "rejected", "plain", "stale", "losses"
        );
        for row in &self.settings {
            println!(
                "{:width$} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}",
                row.name,
                row.tokens,
                row.accepted,
                row.rejected,
                row.plain_rounds,
                row.stale_proposals,
                row.drafter_losses
            );
        }
        println!(
            "\n{} prompts, {} tokens compared, {} differ",
            self.prompts, self.tokens_compared, self.differing_tokens
        );
        if let Some(first) = &self.first_divergence {
            println!(
                "first divergence: `{}`, prompt {:?}, token {}: plain {:?}, speculated {:?}, margin {:?} nats",
                first.setting,
                first.prompt,
                first.position,
                first.plain,
                first.speculated,
                first.margin
            );
        }
        for failure in &self.failures {
            println!("FAILED: {failure}");
        }
        if self.failures.is_empty() {
            println!("passed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Row};
    use crate::client::Generated;
    use dssd_proto::v1::{FinishInfo, PromptInfo, SpeculativeDecoding};

    fn run(token_ids: &[u32], text: &str) -> Generated {
        let speculation = SpeculativeDecoding {
            num_draft_tokens: 5000,
            num_accepted_tokens: 2000,
            ..SpeculativeDecoding::default()
        };
        Generated {
            token_ids: token_ids.to_vec(),
            text: text.to_owned(),
            prompt_info: PromptInfo::default(),
            finish: FinishInfo {
                speculative_decoding: Some(speculation),
                ..FinishInfo::default()
            },
            resumed: 0,
            tokens_per_second: 0.0,
        }
    }

    fn report(plain: &Generated, speculated: &Generated) -> Report {
        let (mut report, mut row) = (Report::default(), Row::default());
        report.compare(&mut row, "p", plain, speculated);
        report.settings.push(row);
        report.judge(false, false);
        report
    }

    #[test]
    fn equal_runs_pass() {
        let report = report(&run(&[1, 2, 3], "a"), &run(&[1, 2, 3], "a"));
        assert_eq!((report.tokens_compared, report.differing_tokens), (3, 0));
        assert!(report.failures.is_empty());
    }

    #[test]
    fn a_different_token_fails_and_is_located() {
        let report = report(&run(&[1, 2, 3], "a"), &run(&[1, 7, 3, 4], "a"));
        assert_eq!((report.tokens_compared, report.differing_tokens), (4, 2));
        let first = report.first_divergence.unwrap();
        assert_eq!(
            (first.position, first.plain, first.speculated),
            (1, Some(2), Some(7))
        );
        assert_eq!(report.failures.len(), 1);
    }

    #[test]
    fn another_text_of_equal_tokens_fails() {
        let report = report(&run(&[1], "a"), &run(&[1], "b"));
        assert_eq!(report.differing_tokens, 1);
        assert!(!report.failures.is_empty());
    }

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
}
