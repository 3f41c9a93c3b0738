//! The default: whatever brings most tokens per second in the long run.
//!
//! A round of drafting and verifying brings 1 + Σ Π p tokens and takes what its steps take. By
//! the renewal–reward theorem the long-run rate λ is greatest when every step is taken whose
//! expected tokens are worth at least λ times its time. With A the probability that the draft so
//! far is right, p that of the next token, and r the tokens so far:
//!
//! - emit iff A·p ≥ λ·Δt_verify(r + 1);
//! - go on to another token iff A·p·p̄ ≥ λ·(t_draft + Δt_verify(r + 2));
//! - ask the next deeper exit iff the expected rise of A·p ≥ λ·(t_band + t_exit).
//!
//! p is the calibrated acceptance at the head's entropy, corrected by what was seen; all times
//! are measured. Which exit is asked first, and whether a round is drafted at all, is decided by
//! what such rounds brought: the way there and back, sampling and other streams have their part
//! in that, and no formula knows them all. There is no knob.

use super::{
    Choice, Decision, ExitView, Experience, Outcome, Policy, StopCause, rates::FIRST_TRIES,
};

/// Weight of the newest in the running probabilities.
const NEWEST: f64 = 0.1;
/// Rounds in a row that are drafted alike at least. The first one does not count: its draft had to catch
/// up with what was committed while nothing, or other exits, ran.
const SERIES: u32 = 1 + FIRST_TRIES;
/// Probability at a deeper head before the first experience.
const HOPE: f64 = 0.7;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Auto {
    temperature: f64,
    max_draft_tokens: usize,
    /// How this round is drafted.
    choice: Choice,
    /// Rounds in a row that were drafted so.
    streak: u32,
    /// Running mean of p at each head, over the positions that a shallower one passed on.
    deeper: Vec<f64>,
    /// Running mean of p at the exit where a position was decided.
    decided: f64,
    /// Running mean of the time of a draft token.
    token_seconds: Option<f64>,
    /// A, for the draft in progress.
    survival: f64,
}

impl Auto {
    pub(super) fn new(heads: usize, temperature: f64, max_draft_tokens: usize) -> Self {
        Self {
            temperature,
            max_draft_tokens,
            choice: Choice::Plain,
            streak: 0,
            deeper: vec![HOPE; heads],
            decided: HOPE,
            token_seconds: None,
            survival: 1.0,
        }
    }

    fn entry(&self) -> usize {
        match self.choice {
            Choice::Plain => usize::MAX,
            Choice::From(head) => head,
        }
    }

    fn emit(&mut self, p: f64, exit: &ExitView<'_>, rate: f64) -> Decision {
        let costs = &exit.experience.costs;
        let more_verify = |rows: usize| {
            let now = costs.verify(rows).unwrap_or(0.0);
            (costs.verify(rows + 1).unwrap_or(now) - now).max(0.0)
        };
        if self.survival * p < rate * more_verify(exit.drafted) {
            return Decision::Stop(StopCause::Confidence);
        }
        let entry = self.entry().min(exit.head);
        let beyond: Option<f64> = (entry + 1..=exit.head).map(|band| costs.step(band)).sum();
        if let (Some(first), Some(beyond)) = (costs.direct(entry), beyond) {
            blend(
                self.token_seconds.get_or_insert(first + beyond),
                first + beyond,
            );
        }
        self.survival *= p;
        let another = self.token_seconds.unwrap_or(0.0) + more_verify(exit.drafted + 1);
        if self.survival * self.decided >= rate * another {
            Decision::Emit
        } else {
            Decision::EmitLast
        }
    }

    /// Whether the next deeper exit is expected to be worth its time.
    fn pays_deeper(&self, p: f64, exit: &ExitView<'_>, rate: f64) -> bool {
        let deeper = self.deeper.get(exit.head + 1).copied();
        let Some(rise) = deeper.filter(|_| !exit.deepest).map(|next| next - p) else {
            return false;
        };
        let cost = exit.experience.costs.step(exit.head + 1).unwrap_or(0.0);
        rise > 0.0 && self.survival * rise >= rate * cost
    }
}

impl Policy for Auto {
    fn max_draft_tokens(&self) -> usize {
        self.max_draft_tokens
    }

    fn reads(&self, head: usize) -> bool {
        head >= self.entry()
    }

    fn begin(&mut self, experience: &Experience) -> Option<StopCause> {
        self.survival = 1.0;
        let drafting = self.choice != Choice::Plain;
        let next = match drafting && self.streak < SERIES {
            true => self.choice,
            false => experience.rates.choose(),
        };
        self.streak = if next == self.choice {
            self.streak + 1
        } else {
            1
        };
        self.choice = next;
        (self.choice == Choice::Plain).then_some(StopCause::Cost)
    }

    fn decide(&mut self, exit: ExitView<'_>) -> Decision {
        let p = if exit.summary.valid {
            let ExitView {
                head, experience, ..
            } = exit;
            experience.acceptance(head, exit.summary.entropy, self.temperature)
        } else {
            0.0
        };
        if exit.head > self.entry()
            && let Some(mean) = self.deeper.get_mut(exit.head)
        {
            blend(mean, p);
        }
        let rate = exit.experience.rates.best().unwrap_or(0.0);
        if self.pays_deeper(p, &exit, rate) {
            return Decision::Deeper;
        }
        blend(&mut self.decided, p);
        if exit.summary.valid {
            self.emit(p, &exit, rate)
        } else {
            Decision::Stop(StopCause::Confidence)
        }
    }

    fn learn(&mut self, outcome: Outcome<'_>, experience: &mut Experience) {
        let rates = &mut experience.rates;
        match self.choice {
            Choice::From(_) if self.streak == 1 => rates.grow_older(outcome.committed),
            choice => rates.observe(choice, outcome.committed, outcome.seconds),
        }
    }
}

fn blend(mean: &mut f64, newest: f64) {
    *mean += NEWEST * (newest - *mean);
}
