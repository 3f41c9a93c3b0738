//! The default: whatever brings most tokens per second in the long run.
//!
//! A round of drafting and verifying brings 1 + Σ Π p tokens and takes what its steps take. By
//! the renewal–reward theorem the long-run rate λ is greatest when every step is taken whose
//! expected tokens are worth at least λ times its time. With A the probability that the draft so
//! far is right, p that of the next token, and Δt_verify the time of one more row in the verifier:
//!
//! - emit iff A·p ≥ λ·Δt_verify;
//! - go on to another token iff A·p·p̄ ≥ λ·(t_draft + Δt_verify);
//! - ask the next deeper exit iff the expected rise of A·p ≥ λ·(t_band + t_exit), where t_band
//!   counts the rows that the band has missed.
//!
//! p is the calibrated acceptance at the head's entropy, corrected by what was seen; all times
//! are measured. λ is the rate expected of the best choice, at least that of plain rounds. What a
//! round takes beyond its steps is spent once it has begun, so it is in λ and in no rule of these.
//! Which exit is asked first, and whether a round is drafted at all, is decided by what such rounds
//! brought and should bring ([`Rates`](super::Rates), [`Forecast`](super::Forecast)). There is no
//! knob.

use super::{
    Choice, Costs, Decision, ExitView, Experience, Outcome, Policy, StopCause, rates::TRY_ROUNDS,
};

/// Weight of the newest in the running probabilities.
const NEWEST: f64 = 0.1;
/// Rounds in a row that are drafted alike at least. The first one does not count: its draft had to catch
/// up with what was committed while nothing, or other exits, ran.
const SERIES: u32 = 1 + TRY_ROUNDS;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Auto {
    temperature: f64,
    max_draft_tokens: usize,
    /// How this round is drafted.
    choice: Choice,
    /// Rounds in a row that were drafted so.
    streak: u32,
    /// λ in this round.
    rate: f64,
    /// Mean acceptance where a position begins at each head, as far as it could be told before this
    /// round.
    expected: Vec<f64>,
    /// How often each head was right by then, as a share of what was promised.
    levels: Vec<f64>,
    /// Running mean of p at each head, over the positions that a shallower one passed on.
    deeper: Vec<Option<f64>>,
    /// Tokens that each head's band has missed since it ran last.
    missed: Vec<usize>,
    /// Running mean of p at the exit where a position was decided.
    decided: Option<f64>,
    /// Running mean of the time of a draft token.
    token_seconds: Option<f64>,
    /// A, for the draft in progress.
    survival: f64,
    /// What the draft's steps take; none if one of them was never measured.
    steps: Option<f64>,
    /// For every position that was begun in this draft, the promised acceptance of each head.
    read: Vec<Vec<f64>>,
}

impl Auto {
    pub(super) fn new(heads: usize, temperature: f64, max_draft_tokens: usize) -> Self {
        Self {
            temperature,
            max_draft_tokens,
            choice: Choice::Plain,
            streak: 0,
            rate: 0.0,
            expected: Vec::new(),
            levels: Vec::new(),
            deeper: vec![None; heads],
            missed: vec![0; heads],
            decided: None,
            token_seconds: None,
            survival: 1.0,
            steps: Some(0.0),
            read: Vec::new(),
        }
    }

    fn entry(&self) -> usize {
        match self.choice {
            Choice::Plain => usize::MAX,
            Choice::From(head) => head,
        }
    }

    fn emit(&mut self, p: f64, exit: &ExitView<'_>) -> Decision {
        let costs = &exit.experience.costs;
        let row = costs.another_row() * costs.plain().unwrap_or(0.0);
        if self.survival * p < self.rate * row {
            return Decision::Stop(StopCause::Confidence);
        }
        let entry = self.entry().min(exit.head);
        let beyond: Option<f64> = (entry + 1..=exit.head).map(|band| costs.step(band)).sum();
        if let (Some(first), Some(beyond)) = (costs.direct(entry), beyond) {
            blend(&mut self.token_seconds, first + beyond);
        }
        self.survival *= p;
        // The first tokens are drafted to learn what they cost, and no more.
        let Some(token_seconds) = self.token_seconds else {
            return Decision::Emit;
        };
        let another = token_seconds + row;
        let next = self.decided.unwrap_or(p);
        if self.rate > 0.0 && self.survival * next >= self.rate * another {
            Decision::Emit
        } else {
            Decision::EmitLast
        }
    }

    /// Whether the next deeper exit is expected to be worth its time.
    fn pays_deeper(&self, p: f64, exit: &ExitView<'_>) -> bool {
        let head = exit.head + 1;
        let seen = self.deeper.get(head).copied().flatten();
        let next = seen.or(self.expected.get(head).copied());
        let (Some(next), Some(cost)) = (next, self.step(head, &exit.experience.costs)) else {
            return false;
        };
        let rise = next - p;
        let is_known = !exit.deepest && self.rate > 0.0;
        is_known && rise > 0.0 && self.survival * rise >= self.rate * cost
    }

    /// Seconds to come through a deeper band, with the rows that it has missed, and to read its
    /// exit. More rows add there what they add to the whole model.
    fn step(&self, head: usize, costs: &Costs) -> Option<f64> {
        let missed = self.missed.get(head).copied().unwrap_or(0) as f64;
        Some(costs.step(head)? * (1.0 + missed * costs.another_row()))
    }

    /// Takes note of an exit that is read.
    fn note(&mut self, p: f64, exit: &ExitView<'_>) {
        let ExitView {
            head, experience, ..
        } = *exit;
        let begins = head <= self.entry();
        let step = if begins {
            experience.costs.direct(head)
        } else {
            self.step(head, &experience.costs)
        };
        self.steps = self.steps.zip(step).map(|(steps, step)| steps + step);
        if begins && exit.summary.valid {
            let heads = 0..self.missed.len();
            let promised =
                heads.map(|head| experience.promised(head, exit.summary.entropy, self.temperature));
            self.read.push(promised.collect());
        }
        if let Some(mean) = self.deeper.get_mut(head).filter(|_| !begins) {
            blend(mean, p);
        }
        for missed in self.missed.iter_mut().take(head + 1) {
            *missed = 0;
        }
    }

    /// Takes note of what a round took, beside what its steps should have taken.
    fn learn_time(&self, outcome: Outcome<'_>, experience: &mut Experience) {
        let costs = &experience.costs;
        let rows = 1.0 + outcome.drafted.len() as f64 * costs.another_row();
        let steps = self.steps.zip(costs.plain());
        let steps = steps.map(|(draft, plain)| draft + rows * plain);
        let Outcome {
            committed, seconds, ..
        } = outcome;
        let Experience {
            rates, forecast, ..
        } = experience;
        match (self.choice, steps) {
            (Choice::From(_), Some(steps)) if self.streak == 1 => {
                forecast.caught_up(seconds, steps);
                rates.grow_older(committed, seconds);
            }
            (Choice::From(_), None) if self.streak == 1 => rates.grow_older(committed, seconds),
            (Choice::From(_), Some(steps)) => {
                let counted = forecast.took(seconds, steps);
                rates.observe(self.choice, committed, counted);
            }
            (choice, _) => rates.observe(choice, committed, seconds),
        }
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
        self.steps = Some(0.0);
        self.read.clear();
        self.expected = experience.mean_acceptance();
        self.levels = experience.levels();
        let forecasts = experience.rounds(self.max_draft_tokens);
        self.rate = experience.rates.best(&forecasts).unwrap_or(0.0);
        let drafting = self.choice != Choice::Plain;
        let next = match drafting && self.streak < SERIES {
            true => self.choice,
            false => {
                let catch_up = experience.forecast.catch_up();
                experience.rates.choose(&forecasts, catch_up)
            }
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
            let level = self.levels.get(head).copied().unwrap_or(1.0);
            experience.acceptance_at_level(head, exit.summary.entropy, self.temperature, level)
        } else {
            0.0
        };
        self.note(p, &exit);
        if self.pays_deeper(p, &exit) {
            return Decision::Deeper;
        }
        if !exit.summary.valid {
            return Decision::Stop(StopCause::Confidence);
        }
        blend(&mut self.decided, p);
        self.emit(p, &exit)
    }

    fn learn(&mut self, outcome: Outcome<'_>, experience: &mut Experience) {
        for missed in &mut self.missed {
            *missed = missed.saturating_add(outcome.committed);
        }
        if let Choice::From(entry) = self.choice {
            for promised in self.read.drain(..) {
                experience.forecast.read(entry, &promised);
            }
        }
        self.learn_time(outcome, experience);
    }
}

fn blend(mean: &mut Option<f64>, newest: f64) {
    *mean = Some(mean.map_or(newest, |mean| mean + NEWEST * (newest - mean)));
}
