//! DEL (arXiv 2504.05598): before every draft, the head and the length that promise most.

use super::{Decision, ExitView, Experience, Outcome, Policy, StopCause};

/// Every head is tried again after so many rounds without it.
const PROBE_ROUNDS: u32 = 32;
/// Acceptance of a head that was never seen.
const PRIOR: f64 = 0.8;
/// Tokens that the prior counts for.
const PRIOR_WEIGHT: f64 = 4.0;
/// Weight of what was, from round to round.
const MEMORY: f64 = 0.98;

#[derive(Clone, Copy, Debug)]
struct Record {
    accepted: f64,
    tried: f64,
    rounds_since: u32,
}

impl Record {
    fn alpha(self) -> f64 {
        let share = (self.accepted + PRIOR * PRIOR_WEIGHT) / (self.tried + PRIOR_WEIGHT);
        // The geometric sum below has no value at 1.
        share.min(0.999)
    }
}

/// Drafts `length` tokens at `head`, both chosen anew for every draft.
#[derive(Clone, Debug)]
pub(super) struct Del {
    longest: usize,
    records: Vec<Record>,
    head: usize,
    length: usize,
}

impl Del {
    pub(super) fn new(heads: usize, max_draft_tokens: usize) -> Self {
        let record = Record {
            accepted: 0.0,
            tried: 0.0,
            rounds_since: 0,
        };
        Self {
            longest: max_draft_tokens,
            records: vec![record; heads],
            head: 0,
            length: 1,
        }
    }

    /// Expected tokens of a round over its cost, in passes of the whole model.
    fn rate(&self, head: usize, length: usize, experience: &Experience) -> f64 {
        let alpha = self.records[head].alpha();
        let tokens = (1.0 - alpha.powi(length as i32 + 1)) / (1.0 - alpha);
        tokens / (length as f64 * experience.costs.relative(head) + 1.0)
    }
}

impl Policy for Del {
    fn max_draft_tokens(&self) -> usize {
        self.length
    }

    fn reads(&self, head: usize) -> bool {
        head == self.head
    }

    fn begin(&mut self, experience: &Experience) -> Option<StopCause> {
        let all = (0..self.records.len())
            .flat_map(|head| (1..=self.longest).map(move |length| (head, length)));
        let rate = |&(head, length): &(usize, usize)| self.rate(head, length, experience);
        let best = all.max_by(|a, b| rate(a).total_cmp(&rate(b)));
        let neglected = self
            .records
            .iter()
            .position(|record| record.rounds_since >= PROBE_ROUNDS);
        (self.head, self.length) = match (neglected, best) {
            (Some(head), _) => (head, self.length),
            (None, Some(best)) => best,
            (None, None) => return Some(StopCause::Cost),
        };
        None
    }

    fn decide(&mut self, exit: ExitView<'_>) -> Decision {
        if exit.summary.valid {
            Decision::Emit
        } else {
            Decision::Stop(StopCause::Confidence)
        }
    }

    fn learn(&mut self, outcome: Outcome<'_>, _experience: &mut Experience) {
        for record in &mut self.records {
            record.rounds_since += 1;
        }
        if let Some(record) = self.records.get_mut(self.head) {
            // Tried, whatever came of it.
            record.rounds_since = 0;
        }
        let Some(record) = outcome
            .drafted
            .first()
            .and_then(|drafted| self.records.get_mut(drafted.head))
        else {
            return;
        };
        // What comes behind the first wrong token was drafted in vain: it says nothing.
        let tried = (outcome.accepted + 1).min(outcome.drafted.len());
        record.accepted = MEMORY * record.accepted + outcome.accepted as f64;
        record.tried = MEMORY * record.tried + tried as f64;
    }
}
