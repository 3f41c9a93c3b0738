//! Sine and cosine.

/// The greatest |x| for which [`sin`] and [`cos`] have a value: 2^20 quarter turns.
pub const MAX_ANGLE: f64 = 1_647_099.0;

/// π/2 as a sum: three parts of 33 bits, whose products with up to 2^20 have no rounding error, and the rest.
const QUARTER_TURN: [f64; 4] = [
    f64::from_bits(0x3ff9_21fb_5440_0000),
    f64::from_bits(0x3dd0_b461_1a60_0000),
    f64::from_bits(0x3ba3_198a_2e00_0000),
    f64::from_bits(0x397b_839a_2520_49c1),
];

/// Coefficients of sin x − x in odd powers from x³, for |x| ≤ π/4.
const SIN: [f64; 6] = [
    -1.666_666_666_666_663_2e-1,
    8.333_333_333_322_49e-3,
    -1.984_126_982_985_795e-4,
    2.755_731_370_707_006_8e-6,
    -2.505_076_025_340_686_3e-8,
    1.589_690_995_211_55e-10,
];

/// Coefficients of cos x − 1 + x²/2 in even powers from x⁴, for |x| ≤ π/4.
const COS: [f64; 6] = [
    4.166_666_666_666_66e-2,
    -1.388_888_888_887_411e-3,
    2.480_158_728_947_673e-5,
    -2.755_731_435_139_066_3e-7,
    2.087_572_321_298_175e-9,
    -1.135_964_755_778_819_5e-11,
];

/// sin x (x in radians) within one unit in the last place; NaN for |x| > [`MAX_ANGLE`].
#[must_use]
pub fn sin(x: f64) -> f64 {
    let Some(angle) = Angle::reduce(x) else {
        return f64::NAN;
    };
    match angle.quadrant {
        0 => angle.sin(),
        1 => angle.cos(),
        2 => -angle.sin(),
        _ => -angle.cos(),
    }
}

/// cos x (x in radians) within one unit in the last place; NaN for |x| > [`MAX_ANGLE`].
#[must_use]
pub fn cos(x: f64) -> f64 {
    let Some(angle) = Angle::reduce(x) else {
        return f64::NAN;
    };
    match angle.quadrant {
        0 => angle.cos(),
        1 => -angle.sin(),
        2 => -angle.cos(),
        _ => angle.sin(),
    }
}

/// An angle of `quadrant` quarter turns plus `high + low`, |high| ≤ π/4, `low` below the last place of `high`.
struct Angle {
    quadrant: i64,
    high: f64,
    low: f64,
}

impl Angle {
    fn reduce(x: f64) -> Option<Self> {
        if x.is_nan() || x.abs() > MAX_ANGLE {
            return None;
        }
        let turns = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
        let [first, second, third, rest] = QUARTER_TURN;
        // Exact: x and turns·first differ by at most a factor of two, or turns = 0.
        let remainder = x - turns * first;
        let (remainder, error) = difference(remainder, turns * second);
        let (remainder, error2) = difference(remainder, turns * third);
        let tail = error + (error2 - turns * rest);
        let high = remainder + tail;
        Some(Self {
            quadrant: turns as i64 & 3,
            high,
            low: (remainder - high) + tail,
        })
    }

    fn sin(&self) -> f64 {
        let (x, z) = (self.high, self.high * self.high);
        let [c1, c2, c3, c4, c5, c6] = SIN;
        let r = c2 + z * (c3 + z * c4) + z * (z * z) * (c5 + z * c6);
        let cube = z * x;
        x - ((z * (0.5 * self.low - cube * r) - self.low) - cube * c1)
    }

    fn cos(&self) -> f64 {
        let (x, z) = (self.high, self.high * self.high);
        let [c1, c2, c3, c4, c5, c6] = COS;
        let fourth = z * z;
        let r = z * (c1 + z * (c2 + z * c3)) + fourth * fourth * (c4 + z * (c5 + z * c6));
        let half = 0.5 * z;
        let leading = 1.0 - half;
        leading + (((1.0 - leading) - half) + (z * r - x * self.low))
    }
}

/// a − b and the rounding error that the difference made.
fn difference(a: f64, b: f64) -> (f64, f64) {
    let result = a - b;
    let b_seen = a - result;
    let a_seen = result + b_seen;
    (result, (a - a_seen) + (b_seen - b))
}

#[cfg(test)]
mod tests {
    use super::super::testing::ulps;
    use super::{MAX_ANGLE, cos, sin};
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn check(x: f64) {
        assert!(
            ulps(sin(x), x.sin()) <= 1,
            "sin({x}) = {}, not {}",
            sin(x),
            x.sin()
        );
        assert!(
            ulps(cos(x), x.cos()) <= 1,
            "cos({x}) = {}, not {}",
            cos(x),
            x.cos()
        );
    }

    #[test]
    fn agrees_with_the_system_library() {
        let mut rng = StdRng::seed_from_u64(4);
        for width in [1e-9, 0.8, 7.0, 1e3, 1e6, MAX_ANGLE] {
            for _ in 0..100_000 {
                check(rng.random_range(-width..width));
            }
        }
    }

    /// Whole quarter turns cancel nearly all digits: what is left shows the quality of the reduction.
    #[test]
    fn multiples_of_a_quarter_turn() {
        for n in 0..1 << 20 {
            let x = f64::from(n) * std::f64::consts::FRAC_PI_2;
            if x <= MAX_ANGLE {
                check(x);
            }
        }
    }

    #[test]
    fn outside_the_domain_there_is_no_value() {
        for x in [MAX_ANGLE * 1.001, f64::INFINITY, f64::NAN] {
            assert!(sin(x).is_nan() && cos(x).is_nan());
        }
        assert_eq!((sin(0.0), cos(0.0)), (0.0, 1.0));
    }
}
