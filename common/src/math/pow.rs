//! Powers of positive numbers.

use super::exp::{exp, exp_sum};
use super::ln::{LN2_HIGH, LN2_LOW, ln, split};

/// ⅓ − the f64 nearest to ⅓.
const THIRD_LOW: f64 = 1.850_371_707_708_594e-17;

/// An unevaluated sum of two f64: about 106 bits of one number.
#[derive(Clone, Copy)]
struct DoubleDouble {
    high: f64,
    low: f64,
}

impl DoubleDouble {
    /// a + b without error, for |a| ≥ |b| or a = 0.
    fn ordered_sum(a: f64, b: f64) -> Self {
        let high = a + b;
        Self {
            high,
            low: b - (high - a),
        }
    }

    /// a·b without error.
    fn product(a: f64, b: f64) -> Self {
        let high = a * b;
        Self {
            high,
            low: a.mul_add(b, -high),
        }
    }

    fn times(self, other: Self) -> Self {
        let Self { high, low } = Self::product(self.high, other.high);
        Self::ordered_sum(high, low + (self.high * other.low + self.low * other.high))
    }
}

/// x^y for x ≥ 0, within one unit in the last place; NaN for negative x.
#[must_use]
pub fn pow(x: f64, y: f64) -> f64 {
    if x == 1.0 || y == 0.0 {
        return 1.0;
    }
    if !(x > 0.0 && x.is_finite() && y.is_finite()) {
        return exp(y * ln(x));
    }
    // The exponent may reach 709, where its error counts 709-fold: ten bits more than an f64 has.
    let logarithm = ln_extended(x);
    let exponent = DoubleDouble::product(y, logarithm.high);
    exp_sum(exponent.high, exponent.low + y * logarithm.low)
}

/// ln x to about 65 bits for positive finite x, as k·ln 2 + 2·artanh s with s = (m − 1)/(m + 1).
fn ln_extended(x: f64) -> DoubleDouble {
    let (k, m) = split(x);
    let s = {
        let numerator = m - 1.0;
        let denominator = if m > 1.0 {
            DoubleDouble::ordered_sum(m, 1.0)
        } else {
            DoubleDouble::ordered_sum(1.0, m)
        };
        let high = numerator / denominator.high;
        let remainder = (-high).mul_add(denominator.high, numerator) - high * denominator.low;
        DoubleDouble {
            high,
            low: remainder / denominator.high,
        }
    };
    let square = s.times(s);
    // artanh s = s·(1 + s²·(⅓ + s²·(⅕ + s²·(…)))): from ⅕ on the terms are small enough for plain f64; s² < 0.0295, so
    // the term after 1/27 is below 2^-70.
    let higher = (2..=13)
        .rev()
        .fold(0.0, |sum, i| sum * square.high + 1.0 / f64::from(2 * i + 1));
    let third = DoubleDouble::ordered_sum(1.0 / 3.0, square.high * higher);
    let third = DoubleDouble {
        low: third.low + THIRD_LOW,
        ..third
    };
    let bracket = square.times(third);
    let one_plus = DoubleDouble::ordered_sum(1.0, bracket.high);
    let one_plus = DoubleDouble {
        low: one_plus.low + bracket.low,
        ..one_plus
    };
    let mantissa = DoubleDouble {
        high: 2.0 * s.high,
        low: 2.0 * s.low,
    }
    .times(one_plus);
    // |k|·ln 2 ≥ |ln m| unless k = 0, so the parts are ordered.
    let sum = DoubleDouble::ordered_sum(k * LN2_HIGH, mantissa.high);
    DoubleDouble::ordered_sum(sum.high, sum.low + (mantissa.low + k * LN2_LOW))
}

#[cfg(test)]
mod tests {
    use super::super::testing::ulps;
    use super::pow;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn agrees_with_the_system_library() {
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..300_000 {
            let wide = f64::from_bits(rng.random_range(1..f64::INFINITY.to_bits()));
            let exponent = rng.random_range(-745.0..709.0) / wide.ln();
            let narrow = rng.random_range(0.5..2.0);
            let theta = rng.random_range(1.0..1e7);
            for (x, y) in [
                (wide, exponent),
                (narrow, rng.random_range(-900.0..900.0)),
                (theta, -rng.random::<f64>()),
            ] {
                let reference = x.powf(y);
                assert!(
                    ulps(pow(x, y), reference) <= 1,
                    "pow({x}, {y}) = {}, not {reference}",
                    pow(x, y)
                );
            }
        }
    }

    #[test]
    fn whole_powers_are_exact() {
        assert_eq!(pow(10_000.0, 0.5), 100.0);
        assert_eq!(pow(2.0, -1074.0), 5e-324);
        assert_eq!(pow(3.0, 20.0), 3_486_784_401.0);
    }

    #[test]
    fn edges() {
        let edges = [0.0, 0.25, 1.0, 2.0, f64::INFINITY];
        let exponents = [0.0, 1.0, 2.0, 3.0, f64::INFINITY];
        for x in edges {
            for y in exponents.into_iter().flat_map(|y| [y, -y]) {
                assert_eq!(pow(x, y), x.powf(y), "pow({x}, {y})");
            }
        }
        assert!(pow(-2.0, 2.0).is_nan());
        assert!(pow(2.0, f64::NAN).is_nan());
    }
}
