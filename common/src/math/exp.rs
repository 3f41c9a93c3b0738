//! The exponential function.

use super::ln::{LN2_HIGH, LN2_LOW};

/// Above this e^x is greater than every finite f64.
const OVERFLOW: f64 = 709.782_712_893_384;
/// Below this e^x rounds to zero.
const UNDERFLOW: f64 = -745.133_219_101_941_2;

/// Coefficients of the remainder r·(e^r + 1)/(e^r − 1) − 2 in powers of r², for |r| ≤ ln(2)/2.
const REMAINDER: [f64; 5] = [
    1.666_666_666_666_660_2e-1,
    -2.777_777_777_701_559_3e-3,
    6.613_756_321_437_934e-5,
    -1.653_390_220_546_525_2e-6,
    4.138_136_797_057_238_5e-8,
];

/// e^x, within one unit in the last place; subnormal results and overflow to infinity included.
#[must_use]
pub fn exp(x: f64) -> f64 {
    exp_sum(x, 0.0)
}

/// e^(x + tail), where `tail` carries the digits of the exponent below the last place of `x`.
pub(super) fn exp_sum(x: f64, tail: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > OVERFLOW {
        return f64::INFINITY;
    }
    if x < UNDERFLOW {
        return 0.0;
    }
    // x + tail = k·ln 2 + high − low with |high − low| ≤ ln(2)/2; k·LN2_HIGH has no rounding error.
    let k = (x * std::f64::consts::LOG2_E + 0.5f64.copysign(x)) as i32;
    let high = x - f64::from(k) * LN2_HIGH;
    let low = f64::from(k) * LN2_LOW - tail;
    let r = high - low;
    let square = r * r;
    let [p1, p2, p3, p4, p5] = REMAINDER;
    let c = r - square * (p1 + square * (p2 + square * (p3 + square * (p4 + square * p5))));
    let fraction = 1.0 + (r * c / (2.0 - c) - low + high);
    // In two factors, so that neither leaves the normal range and only the last product can round.
    fraction * power_of_two(k / 2) * power_of_two(k - k / 2)
}

/// 2^k for −1022 ≤ k ≤ 1023.
fn power_of_two(k: i32) -> f64 {
    f64::from_bits(((1023 + k) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::super::testing::ulps;
    use super::exp;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn agrees_with_the_system_library() {
        let mut rng = StdRng::seed_from_u64(1);
        for width in [1e-9, 0.1, 1.0, 40.0, 745.0] {
            for _ in 0..100_000 {
                let x = rng.random_range(-width..width);
                let (ours, reference) = (exp(x), x.exp());
                if reference.is_infinite() {
                    assert_eq!(ours, reference, "exp({x})");
                } else {
                    assert!(ulps(ours, reference) <= 1, "exp({x}) = {ours}");
                }
            }
        }
    }

    #[test]
    fn edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp(-746.0), 0.0);
        assert!(exp(-745.0) > 0.0);
        assert!(exp(709.78).is_finite());
        assert_eq!(exp(710.0), f64::INFINITY);
        assert_eq!(exp(f64::INFINITY), f64::INFINITY);
        assert!(exp(f64::NAN).is_nan());
    }
}
