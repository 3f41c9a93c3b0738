//! The slow reference of the entropy operation: the definitions, in f64, term by term.

use super::Summary;

/// Summary of one row by the definitions, in f64 with the system's `exp` and `ln`. For tests and
/// offline evaluation: its last bits may differ between machines.
pub fn summarize_exactly(logits: &[f32]) -> Summary {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if logits.iter().any(|x| x.is_nan()) || !top.is_finite() {
        return Summary::INVALID;
    }
    let argmax = logits.iter().position(|&x| x == top).unwrap_or(0);
    let others = logits.iter().enumerate().filter(|&(id, _)| id != argmax);
    let second = others
        .map(|(_, &x)| f64::from(x))
        .fold(f64::NEG_INFINITY, f64::max);
    let top = f64::from(top);
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - top).exp()).sum();
    // Relative to the maximum: beside a large logit ln Σ itself would be lost.
    let probability = |x: f64| (x - top).exp() / sum;
    let entropy: f64 = logits
        .iter()
        .map(|&x| (f64::from(x), probability(f64::from(x))))
        .filter(|&(_, p)| p > 0.0)
        .map(|(x, p)| p * (sum.ln() - (x - top)))
        .sum();
    Summary {
        argmax: argmax as u32,
        max_probability: probability(top) as f32,
        margin_probability: (probability(top) - probability(second)) as f32,
        margin_logit: (top - second) as f32,
        log_sum_exp: (top + sum.ln()) as f32,
        entropy: entropy as f32,
        valid: true,
    }
}
