//! The default: whatever brings most tokens per second in the long run.
//!
//! A round of drafting and verifying brings 1 + Σ Π p tokens and takes what its steps take. By
//! the renewal–reward theorem the long-run rate λ is greatest when every step is taken whose
//! expected tokens are worth at least λ times its time. With A the probability that the draft so
//! far is right, p that of the next token, and r the tokens so far:
//!
//! - emit iff A·p ≥ λ·Δt_verify(r + 1);
//! - go on to another token iff A·p·p̄ ≥ λ·(t_draft + Δt_verify(r + 2));
//! - ask the next deeper exit iff the expected rise of A·p ≥ λ·(t_band + t_exit);
//! - begin no draft if no length promises more than plain decoding.
//!
//! p is the calibrated acceptance at the head's entropy, corrected by what was seen; all times
//! are measured. There is no knob.

use super::{Decision, ExitView, Experience, Outcome, Policy, StopCause};

/// Weight of what was, from round to round, in the rate.
const MEMORY: f64 = 0.95;
/// Weight of the newest in the running probabilities.
const NEWEST: f64 = 0.1;
/// Probability at a head that was never read, before the first experience.
const HOPE: f64 = 0.7;
/// A draft that does not promise to pay is tried all the same after so many refusals: text and
/// load change.
const PROBE_REFUSALS: u32 = 16;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Auto {
    temperature: f64,
    max_draft_tokens: usize,
    /// Running mean of p at each head, over the positions where it was read.
    at_head: Vec<f64>,
    /// Running mean of p at the exit where a position was decided.
    decided: f64,
    /// Running mean of the time of a draft token.
    token_seconds: Option<f64>,
    /// Decaying sums over rounds.
    tokens: f64,
    seconds: f64,
    /// A, for the draft in progress.
    survival: f64,
    refusals: u32,
}

impl Auto {
    pub(super) fn new(heads: usize, temperature: f64, max_draft_tokens: usize) -> Self {
        Self {
            temperature,
            max_draft_tokens,
            at_head: vec![HOPE; heads],
            decided: HOPE,
            token_seconds: None,
            tokens: 0.0,
            seconds: 0.0,
            survival: 1.0,
            refusals: 0,
        }
    }

    /// λ, in tokens per second; none before anything was measured.
    fn rate(&self, experience: &Experience) -> Option<f64> {
        let plain = experience.costs.verify(0).filter(|&t| t > 0.0);
        let seen = (self.seconds > 0.0).then(|| self.tokens / self.seconds);
        match (plain.map(f64::recip), seen) {
            (Some(plain), Some(seen)) => Some(plain.max(seen)),
            (plain, seen) => plain.or(seen),
        }
    }

    /// The greatest rate that a draft of any length promises, over that of plain decoding; none
    /// before anything was measured.
    fn promise(&self, experience: &Experience) -> Option<f64> {
        let costs = &experience.costs;
        let (plain, token) = (costs.verify(0)?, self.token_seconds?);
        let overhead = costs.overhead.unwrap_or(0.0);
        let (mut tokens, mut survival, mut best) = (1.0, 1.0, 0.0);
        for length in 1..=self.max_draft_tokens {
            survival *= self.decided;
            tokens += survival;
            let seconds = overhead + length as f64 * token + costs.verify(length)?;
            best = f64::max(best, tokens / seconds);
        }
        Some(best * plain)
    }

    fn emit(&mut self, head: usize, p: f64, exit: &ExitView<'_>, rate: f64) -> Decision {
        let costs = &exit.experience.costs;
        let rows = exit.drafted;
        let more_verify = |rows: usize| {
            let now = costs.verify(rows).unwrap_or(0.0);
            (costs.verify(rows + 1).unwrap_or(now) - now).max(0.0)
        };
        if self.survival * p < rate * more_verify(rows) {
            return Decision::Stop(StopCause::Cost);
        }
        let token: Option<f64> = (0..=head).map(|band| costs.step(band)).sum();
        if let Some(token) = token {
            blend(self.token_seconds.get_or_insert(token), token);
        }
        self.survival *= p;
        let next = rate * (self.token_seconds.unwrap_or(0.0) + more_verify(rows + 1));
        if self.survival * self.decided >= next {
            Decision::Emit
        } else {
            Decision::EmitLast
        }
    }

    /// Whether the next deeper exit is expected to be worth its time.
    fn pays_deeper(&self, head: usize, p: f64, exit: &ExitView<'_>, rate: f64) -> bool {
        let Some(&deeper) = self.at_head.get(head + 1).filter(|_| !exit.deepest) else {
            return false;
        };
        let cost = exit.experience.costs.step(head + 1).unwrap_or(0.0);
        self.survival * (deeper - p) >= rate * cost && deeper > p
    }
}

impl Policy for Auto {
    fn max_draft_tokens(&self) -> usize {
        self.max_draft_tokens
    }

    fn reads(&self, _head: usize) -> bool {
        true
    }

    fn begin(&mut self, experience: &Experience) -> Option<StopCause> {
        self.survival = 1.0;
        let pays = self.promise(experience).is_none_or(|promise| promise > 1.0);
        if pays || self.refusals >= PROBE_REFUSALS {
            self.refusals = 0;
            return None;
        }
        self.refusals += 1;
        Some(StopCause::Cost)
    }

    fn decide(&mut self, exit: ExitView<'_>) -> Decision {
        let ExitView {
            head, experience, ..
        } = exit;
        let p = if exit.summary.valid {
            experience.acceptance(head, exit.summary.entropy, self.temperature)
        } else {
            0.0
        };
        if let Some(mean) = self.at_head.get_mut(head) {
            blend(mean, p);
        }
        let rate = self.rate(experience).unwrap_or(0.0);
        if self.pays_deeper(head, p, &exit, rate) {
            return Decision::Deeper;
        }
        blend(&mut self.decided, p);
        if exit.summary.valid {
            self.emit(head, p, &exit, rate)
        } else {
            Decision::Stop(StopCause::Confidence)
        }
    }

    fn learn(&mut self, outcome: Outcome<'_>) {
        self.tokens = MEMORY * self.tokens + (outcome.accepted + 1) as f64;
        self.seconds = MEMORY * self.seconds + outcome.seconds;
    }
}

fn blend(mean: &mut f64, newest: f64) {
    *mean += NEWEST * (newest - *mean);
}
