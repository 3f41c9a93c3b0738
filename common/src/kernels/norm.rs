//! Layer norm and RMS norm of rows, in two passes.

use super::simd::{LANES, Simd, Task};

/// How the rows are normalised.
#[derive(Clone, Copy)]
pub(crate) enum Norm<'a> {
    /// (x − mean) / sqrt(variance + eps) · weight (+ bias).
    Layer { bias: Option<&'a [f32]> },
    /// x / sqrt(mean of x² + eps) · weight.
    Rms,
}

/// Normalises the rows of `x` (each `weight.len()` long) into `out`.
pub(crate) struct NormRows<'a> {
    pub(crate) norm: Norm<'a>,
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) out: &'a mut [f32],
}

impl Task for NormRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.weight.len();
        for (x, out) in self
            .x
            .chunks_exact(width)
            .zip(self.out.chunks_exact_mut(width))
        {
            match self.norm {
                Norm::Layer { bias } => {
                    let mean = sum(s, x) / width as f32;
                    centre(s, x, mean, out);
                    scale(s, self.weight, bias, self.eps, out);
                }
                Norm::Rms => {
                    out.copy_from_slice(x);
                    scale(s, self.weight, None, self.eps, out);
                }
            }
        }
    }
}

#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut lanes = s.splat(0.0);
    for part in x.chunks(LANES) {
        lanes = s.add(lanes, s.read(part));
    }
    s.sum(lanes)
}

#[inline(always)]
fn centre<S: Simd>(s: S, x: &[f32], mean: f32, out: &mut [f32]) {
    for (part, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
        s.write(out, s.sub(s.read(part), s.splat(mean)));
    }
}

/// Divides `out` by its root mean square, then applies weight and bias.
#[inline(always)]
fn scale<S: Simd>(s: S, weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let mut squares = s.splat(0.0);
    for part in out.chunks(LANES) {
        let v = s.read(part);
        squares = s.fma(v, v, squares);
    }
    let inverse = s.splat(1.0 / (s.sum(squares) / out.len() as f32 + eps).sqrt());
    for (start, part) in (0..).step_by(LANES).zip(out.chunks_mut(LANES)) {
        let normal = s.mul(s.read(part), inverse);
        let weight = s.read(&weight[start..]);
        let v = match bias {
            Some(bias) => s.fma(normal, weight, s.read(&bias[start..])),
            None => s.mul(normal, weight),
        };
        s.write(part, v);
    }
}
