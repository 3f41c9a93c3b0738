//! The entropy operation on the CPU: parts of a row in 16 lanes, joined in a fixed tree.

use super::Summary;
use crate::kernels::{
    Isa,
    elementary::exp,
    pool::Pool,
    simd::{LANES, Simd, Task, Weight},
};
use crate::math;

/// Logits of one part. Part of the definition of the bits: changing it changes results.
const PART: usize = 2048;

/// The sums of one part of a row, relative to its maximum.
#[derive(Clone, Copy, Debug)]
struct Partial {
    /// Largest logit; −∞ if the part has no finite one.
    top: f32,
    /// Lowest id of the largest logit.
    argmax: u32,
    /// Second largest logit; equal to `top` on ties.
    second: f32,
    /// Σ e^(x − top). NaN marks a row that is no distribution.
    sum: f64,
    /// Σ (x − top)·e^(x − top).
    weighted: f64,
}

impl Partial {
    /// The neutral element of [`Partial::join`].
    const EMPTY: Self = Self {
        top: f32::NEG_INFINITY,
        argmax: 0,
        second: f32::NEG_INFINITY,
        sum: 0.0,
        weighted: 0.0,
    };

    /// Joins a part with a later one.
    fn join(self, later: Self) -> Self {
        let (high, low) = if later.top > self.top {
            (later, self)
        } else {
            (self, later)
        };
        if low.top == f32::NEG_INFINITY {
            return Self {
                sum: high.sum + low.sum,
                ..high
            };
        }
        let delta = f64::from(high.top) - f64::from(low.top);
        let decay = math::exp(-delta);
        Self {
            top: high.top,
            argmax: high.argmax,
            second: high.second.max(low.top),
            sum: high.sum + low.sum * decay,
            weighted: high.weighted + (low.weighted - delta * low.sum) * decay,
        }
    }

    fn finish(self) -> Summary {
        if !self.top.is_finite() || self.sum.is_nan() {
            return Summary::INVALID;
        }
        let log_sum = math::ln(self.sum);
        let margin = f64::from(self.top) - f64::from(self.second);
        Summary {
            argmax: self.argmax,
            max_probability: (1.0 / self.sum) as f32,
            margin_probability: ((1.0 - math::exp(-margin)) / self.sum) as f32,
            margin_logit: margin as f32,
            log_sum_exp: (f64::from(self.top) + log_sum) as f32,
            entropy: (log_sum - self.weighted / self.sum).max(0.0) as f32,
            valid: true,
        }
    }
}

/// Joins neighbours, then neighbours of those, and so on.
fn tree(mut partials: Vec<Partial>) -> Partial {
    while partials.len() > 1 {
        partials = partials
            .chunks(2)
            .map(|pair| pair[1..].iter().fold(pair[0], |a, &b| a.join(b)))
            .collect();
    }
    partials.first().copied().unwrap_or(Partial::EMPTY)
}

/// Summaries of rows of one length, in parallel over rows and parts.
pub(crate) fn summarize_rows<W: Weight>(rows: &[&[W]], isa: Isa, pool: &Pool) -> Vec<Summary> {
    let parts = rows.first().map_or(0, |row| row.len().div_ceil(PART));
    let mut partials = vec![Partial::EMPTY; rows.len() * parts];
    pool.pieces(&mut partials, 1, |index, partial| {
        let first = index % parts * PART;
        let row = rows[index / parts];
        let logits = &row[first..row.len().min(first + PART)];
        partial[0] = isa.run(Part { logits, first });
    });
    partials
        .chunks(parts.max(1))
        .map(|row| tree(row.to_vec()).finish())
        .collect()
}

/// Ids `first..first + logits.len()` of a row, at most [`PART`].
struct Part<'a, W> {
    logits: &'a [W],
    first: usize,
}

impl<W: Weight> Task for Part<'_, W> {
    type Output = Partial;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Partial {
        let (top, second) = two_largest(s, self.logits);
        // A part of −∞ alone has e^(−∞ − 0) = 0 everywhere; −∞ − −∞ would be NaN.
        let base = if top == f32::NEG_INFINITY { 0.0 } else { top };
        let (sum, weighted) = sums(s, self.logits, base);
        let offset = self
            .logits
            .iter()
            .position(|x| x.widen() == top)
            .unwrap_or(0);
        Partial {
            top,
            argmax: (self.first + offset) as u32,
            second,
            sum: f64::from(sum),
            weighted: f64::from(weighted),
        }
    }
}

/// Up to 16 logits, the missing ones −∞.
#[inline(always)]
fn read<S: Simd, W: Weight>(s: S, logits: &[W]) -> S::V {
    match logits.first_chunk() {
        Some(full) => W::load(s, full),
        None => {
            let mut padded = [f32::NEG_INFINITY; LANES];
            for (lane, x) in padded.iter_mut().zip(logits) {
                *lane = x.widen();
            }
            s.load(&padded)
        }
    }
}

/// The largest and the second largest logit, NaN ignored.
#[inline(always)]
fn two_largest<S: Simd, W: Weight>(s: S, logits: &[W]) -> (f32, f32) {
    let mut top = s.splat(f32::NEG_INFINITY);
    let mut second = top;
    for part in logits.chunks(LANES) {
        let x = read(s, part);
        second = s.max(s.min(x, top), second);
        top = s.max(x, top);
    }
    let (tops, seconds) = (s.lanes(top), s.lanes(second));
    let mut best = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for x in tops.into_iter().chain(seconds) {
        best = (best.0.max(x), best.1.max(best.0.min(x)));
    }
    best
}

/// Σ e^(x − base) and Σ (x − base)·e^(x − base).
#[inline(always)]
fn sums<S: Simd, W: Weight>(s: S, logits: &[W], base: f32) -> (f32, f32) {
    let (mut sum, mut weighted) = (s.splat(0.0), s.splat(0.0));
    for part in logits.chunks(LANES) {
        // The bound leaves NaN alone and keeps −∞ · 0 out: e^−100 is 0 here.
        let difference = s.max(s.splat(-100.0), s.sub(read(s, part), s.splat(base)));
        let e = exp(s, difference);
        sum = s.add(sum, e);
        weighted = s.fma(difference, e, weighted);
    }
    (s.sum(sum), s.sum(weighted))
}
