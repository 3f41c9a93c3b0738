//! Elementary functions on lanes, as polynomials: no libm, so the same bits everywhere.

use super::simd::Simd;

/// ln 2 in two parts; the first has few enough bits that n·LN2_HIGH is exact for |n| ≤ 128.
const LN2_HIGH: f32 = 0.693_145_75;
const LN2_LOW: f32 = 1.428_606_8e-6;

/// Near-minimax q with e^r = 1 + r + r²·q(r) for |r| ≤ ln 2 / 2, highest power first.
const EXP: [f32; 5] = [
    0.001_392_618_4,
    0.008_363_179,
    0.041_666_556,
    0.166_665_77,
    0.5,
];

/// Near-minimax P with erfc(z) = t·P(t)·e^(−z²), t = 1/(1 + z/2), z ≥ 0, highest power first.
const ERFC: [f32; 11] = [
    0.032_398_652,
    -0.171_628_9,
    0.332_568_68,
    -0.218_993_29,
    -0.086_649_44,
    0.074_567_944,
    0.039_057_52,
    0.189_795_46,
    0.244_479_1,
    0.282_318_4,
    0.282_085_84,
];

/// Below this, [`exp`] is exactly 0 (e^−86.9 is the end of the normal numbers).
const EXP_LOW: f32 = -86.9;

#[inline(always)]
fn polynomial<S: Simd>(s: S, x: S::V, coefficients: &[f32]) -> S::V {
    let mut value = s.splat(coefficients[0]);
    for &c in &coefficients[1..] {
        value = s.fma(value, x, s.splat(c));
    }
    value
}

/// e^x within 2 units in the last place; 0 below −86.9, +∞ above 88.73, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let bounded = s.max(s.splat(EXP_LOW), s.min(s.splat(89.0), x));
    let n = s.round(s.mul(bounded, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_LOW), s.fma(n, s.splat(-LN2_HIGH), bounded));
    let power = s.fma(s.mul(r, r), polynomial(s, r, &EXP), r);
    let mantissa = s.add(power, s.splat(1.0));
    // 2·2^(n−1), because 2^128 has no f32 although e^88.7 has.
    let value = s.mul(s.add(mantissa, mantissa), s.pow2(s.sub(n, s.splat(1.0))));
    s.if_less(x, s.splat(EXP_LOW), s.splat(0.0), value)
}

/// The logistic function 1 / (1 + e^−x).
#[inline(always)]
pub(crate) fn logistic<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// The normal distribution function Φ(x) = (1 + erf(x/√2)) / 2, precise in the lower tail too.
#[inline(always)]
pub(crate) fn normal_cdf<S: Simd>(s: S, x: S::V) -> S::V {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    // Beyond 40 the tail is 0; the bound keeps the square finite.
    let magnitude = s.min(s.splat(40.0), s.max(x, s.sub(zero, x)));
    let z = s.mul(magnitude, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(one, s.fma(z, s.splat(0.5), one));
    // e^(−z²) with the rounding error of z² put back: |x|²/2 magnifies it.
    let square = s.mul(magnitude, s.mul(magnitude, s.splat(0.5)));
    let error = s.fma(
        s.mul(magnitude, s.splat(0.5)),
        magnitude,
        s.sub(zero, square),
    );
    let density = s.mul(exp(s, s.sub(zero, square)), s.sub(one, error));
    let tail = s.mul(
        s.splat(0.5),
        s.mul(s.mul(t, polynomial(s, t, &ERFC)), density),
    );
    s.if_less(x, zero, tail, s.sub(one, tail))
}

#[cfg(test)]
mod tests {
    use statrs::function::erf::erfc;

    use super::*;
    use crate::kernels::portable::Portable;

    fn at(f: impl Fn(Portable, [f32; 16]) -> [f32; 16], x: f32) -> f32 {
        f(Portable, [x; 16])[0]
    }

    /// Largest error in units of the last place over `points` of `range`.
    fn worst(
        range: std::ops::Range<f32>,
        f: impl Fn(f32) -> f32,
        exact: impl Fn(f64) -> f64,
    ) -> f64 {
        let step = (range.end - range.start) / 100_000.0;
        let error = |i: u16| {
            let x = range.start + f32::from(i) * 2.0 * step;
            let expected = exact(x.into());
            (f64::from(f(x)) - expected).abs() / (expected.abs() * f64::from(f32::EPSILON))
        };
        (0..50_000).map(error).fold(0.0, f64::max)
    }

    #[test]
    fn exponential() {
        for range in [-86.8..88.7, -1.0..1.0] {
            let error = worst(range, |x| at(exp, x), f64::exp);
            assert!(error < 1.0, "{error} units");
        }
        assert_eq!(at(exp, 0.0), 1.0);
        for zero in [-87.0, -1000.0, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(at(exp, zero).to_bits(), 0);
        }
        for infinite in [88.8, 1000.0, f32::INFINITY] {
            assert_eq!(at(exp, infinite), f32::INFINITY);
        }
        assert!(at(exp, f32::NAN).is_nan());
    }

    #[test]
    fn normal_distribution() {
        let exact = |x: f64| 0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        let error = worst(-12.0..9.0, |x| at(normal_cdf, x), exact);
        assert!(error < 6.0, "{error} units");
        assert_eq!((at(normal_cdf, -1e30), at(normal_cdf, 1e30)), (0.0, 1.0));
    }
}
