//! The non-linear functions of the feed-forward layers.

use super::{
    elementary::{logistic, normal_cdf},
    simd::{LANES, Simd, Task},
};

/// A non-linear function of one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Activation {
    /// x · Φ(x), with the normal distribution function ("gelu" of Hugging Face).
    Gelu,
    /// x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))) ("gelu_new", "gelu_pytorch_tanh", "gelu_fast").
    GeluTanh,
    /// x / (1 + e^−x).
    Silu,
    /// max(x, 0).
    Relu,
}

impl Activation {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        match self {
            Self::Gelu => s.mul(x, normal_cdf(s, x)),
            Self::GeluTanh => {
                // (1 + tanh u)/2 is the logistic function of 2u; 2·√(2/π) = 1.595769…
                let square = s.mul(x, x);
                let inner = s.fma(s.mul(square, s.splat(0.044_715)), x, x);
                s.mul(x, logistic(s, s.mul(inner, s.splat(1.595_769))))
            }
            Self::Silu => s.mul(x, logistic(s, x)),
            Self::Relu => s.if_less(x, s.splat(0.0), s.splat(0.0), x),
        }
    }
}

/// `x = act(x)`, or `x = act(x) · up` for a gated layer.
pub(crate) struct Activate<'a> {
    pub(crate) kind: Activation,
    pub(crate) x: &'a mut [f32],
    pub(crate) up: Option<&'a [f32]>,
}

impl Task for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (start, part) in (0..).step_by(LANES).zip(self.x.chunks_mut(LANES)) {
            let mut v = self.kind.apply(s, s.read(part));
            if let Some(up) = self.up {
                v = s.mul(v, s.read(&up[start..]));
            }
            s.write(part, v);
        }
    }
}

/// `acc = acc + x`: a residual connection.
pub(crate) struct Add<'a> {
    pub(crate) acc: &'a mut [f32],
    pub(crate) x: &'a [f32],
}

impl Task for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (acc, x) in self.acc.chunks_mut(LANES).zip(self.x.chunks(LANES)) {
            s.write(acc, s.add(s.read(acc), s.read(x)));
        }
    }
}
