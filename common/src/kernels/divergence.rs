//! How far a head's distribution is from its teacher's, and which way to move its logits.
//!
//! For a teacher p and a head with logits x and log-sum-exp L, the cross-entropy is
//! Σ p·(L − x), the divergence KL(p ‖ q) is that minus p's entropy, and the gradient of both with
//! respect to x is q − p, where q = e^(x − L).

use super::{
    elementary::exp,
    simd::{LANES, Simd, Task},
};

/// Logits become probabilities, `e^(x − log_sum_exp)`.
pub(crate) struct Probabilities<'a> {
    pub(crate) logits: &'a mut [f32],
    pub(crate) log_sum_exp: f32,
}

impl Task for Probabilities<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shift = s.splat(self.log_sum_exp);
        for part in self.logits.chunks_mut(LANES) {
            let v = exp(s, s.sub(s.read(part), shift));
            s.write(part, v);
        }
    }
}

/// One row's cross-entropy; its logits become the gradient q − p.
pub(crate) struct CrossEntropy<'a> {
    /// p.
    pub(crate) teacher: &'a [f32],
    /// x, then q − p.
    pub(crate) logits: &'a mut [f32],
    /// L.
    pub(crate) log_sum_exp: f32,
}

impl Task for CrossEntropy<'_> {
    /// Σ p·(L − x), in nats.
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let shift = s.splat(self.log_sum_exp);
        let mut expected = s.splat(0.0);
        for (x, p) in self
            .logits
            .chunks_mut(LANES)
            .zip(self.teacher.chunks(LANES))
        {
            let (logit, probability) = (s.read(x), s.read(p));
            // L − x summed under p loses no digits where both are large.
            expected = s.fma(probability, s.sub(shift, logit), expected);
            let q = exp(s, s.sub(logit, shift));
            s.write(x, s.sub(q, probability));
        }
        s.sum(expected)
    }
}
