//! The fused entropy operation: one read of a row of logits gives everything an exit needs.
//!
//! For logits x with maximum m, let S = Σ e^(x−m) and T = Σ (x−m)·e^(x−m). Then
//!
//! - the probability of an id is e^(x−m) / S, so the largest one is 1/S;
//! - log-sum-exp is m + ln S;
//! - the entropy, −Σ p·ln p, is ln S − T/S nats.
//!
//! Working with x − m keeps the digits: Σ x·e^(x−m) instead loses 1e-3 nats at logits near 1000.
//! Two parts of a row with maxima m₁ ≥ m₂ and Δ = m₁ − m₂ join by bringing the second to the
//! first's maximum: T₂ ← (T₂ − Δ·S₂)·e^(−Δ), S₂ ← S₂·e^(−Δ). Logits of −∞ count 0.
//!
//! A row is split into parts of a fixed size, joined in a fixed tree: the bits of a row's summary
//! depend on that row alone. CPU and GPU have parts of different sizes and another e^x, so the last
//! bits of a summary differ between them; the arg-max and the margin of logits do not.

mod cpu;
mod op;
mod oracle;

pub use op::{SUMMARY_COLUMNS, row_summary};
pub use oracle::summarize_exactly;

pub(crate) use cpu::summarize_rows;

/// What one row of logits says about the next token. Probabilities are at temperature 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Id of the largest logit, the lowest one on ties.
    pub argmax: u32,
    /// Its probability.
    pub max_probability: f32,
    /// Its probability minus the runner-up's; 0 on ties, 1 if there is no other id.
    pub margin_probability: f32,
    /// Its logit minus the runner-up's; 0 on ties, +∞ if there is no other possible id.
    pub margin_logit: f32,
    /// ln Σ e^x.
    pub log_sum_exp: f32,
    /// Entropy in nats, between 0 and ln(vocabulary).
    pub entropy: f32,
    /// Whether the row is a distribution: no NaN, no +∞, and not only −∞.
    pub valid: bool,
}

impl Summary {
    /// The summary of a row that is not a distribution: never a confident one under any score.
    pub const INVALID: Self = Self {
        argmax: 0,
        max_probability: 0.0,
        margin_probability: 0.0,
        margin_logit: 0.0,
        log_sum_exp: f32::NAN,
        entropy: f32::INFINITY,
        valid: false,
    };
}
