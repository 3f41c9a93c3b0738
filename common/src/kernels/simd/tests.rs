//! Every operation of every instruction set, against its definition.

use super::*;
use crate::kernels::Isa;

/// Where instruction sets differ if anywhere: zeros, subnormal numbers, ties, NaN.
const VALUES: [f32; LANES] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    1e-40,
    -3e-45,
    f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    16_777_217.0,
    0.1,
    -7.3e-20,
    4.2e18,
];

/// The bits, but one pattern for every NaN.
fn bits(lanes: &[f32]) -> Vec<u32> {
    let canonical = |x: &f32| if x.is_nan() { f32::NAN } else { *x };
    lanes.iter().map(|x| canonical(x).to_bits()).collect()
}

/// The lanes of every operation on VALUES and the same turned by some places.
struct Operations {
    turn: usize,
}

impl Task for Operations {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut turned = VALUES;
        turned.rotate_left(self.turn);
        let (a, b) = (s.load(&VALUES), s.load(&turned));
        let small = s.load(&VALUES.map(|x| x.clamp(-4e6, 4e6)));
        let results = [
            s.add(a, b),
            s.sub(a, b),
            s.mul(a, b),
            s.div(a, b),
            s.fma(a, b, b),
            s.fma(b, a, small),
            s.max(a, b),
            s.min(a, b),
            s.if_less(a, b, s.splat(2.0), a),
            s.round(s.mul(small, s.splat(0.5))),
        ];
        results.into_iter().flat_map(|v| s.lanes(v)).collect()
    }
}

#[test]
fn every_operation_has_the_portable_bits_on_special_values() {
    for turn in 0..LANES {
        let expected = bits(&Isa::Portable.run(Operations { turn }));
        for isa in Isa::available() {
            let found = bits(&isa.run(Operations { turn }));
            assert_eq!(found, expected, "{isa:?}, turned by {turn}");
        }
    }
}

struct Powers;

impl Task for Powers {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        (-127i16..=127)
            .map(|n| s.lanes(s.pow2(s.splat(n.into())))[5])
            .collect()
    }
}

#[test]
fn powers_of_two_are_exact() {
    let expected: Vec<f32> = (-127..=127)
        .map(|n| if n == -127 { 0.0 } else { 2f32.powi(n) })
        .collect();
    for isa in Isa::available() {
        assert_eq!(isa.run(Powers), expected, "{isa:?}");
    }
}

/// Lane sums of consecutive sixteens.
struct Sums<'a>(&'a [f32]);

impl Task for Sums<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        self.0.chunks(LANES).map(|x| s.sum(s.read(x))).collect()
    }
}

#[test]
fn sums_follow_the_tree() {
    // Each lane's share is lost or kept by what it meets first.
    let terms: Vec<f32> = (0..64 * LANES)
        .map(|i| (i * i % 97) as f32 * if i % 3 == 0 { -1.1e7 } else { 0.3 })
        .collect();
    let tree = |x: &[f32]| {
        let eight = |l: usize| x[l] + x[l + 8];
        let four = |l: usize| eight(l) + eight(l + 4);
        let two = |l: usize| four(l) + four(l + 2);
        two(0) + two(1)
    };
    let expected: Vec<f32> = terms.chunks(LANES).map(tree).collect();
    for isa in Isa::available() {
        assert_eq!(bits(&isa.run(Sums(&terms))), bits(&expected), "{isa:?}");
    }
}

struct Widen<'a, W>(&'a [W]);

impl<W: Weight> Task for Widen<'_, W> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let parts = self.0.chunks(LANES);
        parts.flat_map(|part| s.lanes(s.read(part))).collect()
    }
}

fn assert_widens<W: Weight>(all: &[W], exact: impl Fn(u16) -> f64) {
    for isa in Isa::available() {
        for (pattern, found) in (0..=u16::MAX).zip(isa.run(Widen(all))) {
            let expected = exact(pattern) as f32;
            assert_eq!(bits(&[found]), bits(&[expected]), "{isa:?}, {pattern:#06x}");
        }
    }
}

/// The value of a binary format of 16 bits, by its definition.
fn value(pattern: u16, mantissa_bits: u32) -> f64 {
    let mantissa = f64::from(pattern & ((1 << mantissa_bits) - 1));
    let exponent_bits = 15 - mantissa_bits;
    let largest = (1i32 << exponent_bits) - 1;
    let exponent = i32::from(pattern >> mantissa_bits) & largest;
    let bias = largest >> 1;
    let one = f64::from(1u32 << mantissa_bits);
    let magnitude = match exponent {
        0 => mantissa / one * 2f64.powi(1 - bias),
        e if e < largest => (1.0 + mantissa / one) * 2f64.powi(e - bias),
        _ if mantissa == 0.0 => f64::INFINITY,
        _ => f64::NAN,
    };
    if pattern >> 15 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

#[test]
fn every_weight_of_16_bits_widens_exactly() {
    let all = || 0..=u16::MAX;
    let f16: Vec<f16> = all().map(f16::from_bits).collect();
    let bf16: Vec<bf16> = all().map(bf16::from_bits).collect();
    assert_widens(&f16, |pattern| value(pattern, 10));
    assert_widens(&bf16, |pattern| value(pattern, 7));
}
