//! The natural logarithm.

/// ln 2 to 32 bits: its product with an exponent has no rounding error.
pub(super) const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
/// ln 2 − `LN2_HIGH`.
pub(super) const LN2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);

/// The upper half of √½, the lower end of the mantissa's range.
const SQRT_HALF_BITS: u64 = 0x3fe6_a09e << 32;
const ONE_BITS: u64 = 0x3ff0_0000 << 32;

/// Coefficients of (ln(1 + f) − 2s)/s in powers of s², where s = f/(2 + f).
const SERIES: [f64; 7] = [
    6.666_666_666_666_735e-1,
    3.999_999_999_940_942e-1,
    2.857_142_874_366_239e-1,
    2.222_219_843_214_978_4e-1,
    1.818_357_216_161_805e-1,
    1.531_383_769_920_937_3e-1,
    1.479_819_860_511_658_6e-1,
];

/// The natural logarithm, within one unit in the last place. ln 0 = −∞; NaN for negative numbers.
#[must_use]
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    let (k, m) = split(x);
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let [c1, c2, c3, c4, c5, c6, c7] = SERIES;
    let even = w * (c2 + w * (c4 + w * c6));
    let odd = z * (c1 + w * (c3 + w * (c5 + w * c7)));
    let half_square = 0.5 * f * f;
    s * (half_square + (odd + even)) + k * LN2_LOW - half_square + f + k * LN2_HIGH
}

/// Splits a positive finite x into (k, m) with x = m·2^k and m in [√½, √2).
pub(super) fn split(x: f64) -> (f64, f64) {
    const SUBNORMAL_SHIFT: i64 = 54;
    let (x, shift) = if x < f64::MIN_POSITIVE {
        (x * (1u64 << SUBNORMAL_SHIFT) as f64, SUBNORMAL_SHIFT)
    } else {
        (x, 0)
    };
    let raised = x.to_bits() + (ONE_BITS - SQRT_HALF_BITS);
    let k = (raised >> 52) as i64 - 1023 - shift;
    let m = f64::from_bits((raised & 0x000f_ffff_ffff_ffff) + SQRT_HALF_BITS);
    (k as f64, m)
}

#[cfg(test)]
mod tests {
    use super::super::testing::ulps;
    use super::ln;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn agrees_with_the_system_library() {
        let mut rng = StdRng::seed_from_u64(2);
        for _ in 0..400_000 {
            let everywhere = f64::from_bits(rng.random_range(1..f64::INFINITY.to_bits()));
            let near_one = 1.0 + rng.random_range(-0.3..0.5);
            let beside_one = 1.0 - rng.random_range(0.0..1e-12);
            for x in [everywhere, near_one, beside_one] {
                assert!(ulps(ln(x), x.ln()) <= 1, "ln({x}) = {}", ln(x));
            }
        }
    }

    #[test]
    fn edges() {
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
        assert_eq!(ln(f64::INFINITY), f64::INFINITY);
        assert!(ln(-1.0).is_nan());
        assert!(ln(f64::NAN).is_nan());
        assert!(ulps(ln(5e-324), 5e-324f64.ln()) <= 1);
    }
}
