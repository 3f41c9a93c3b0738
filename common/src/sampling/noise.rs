//! Gumbel noise keyed by seed, absolute index and id.

use super::philox::philox4x32;
use crate::math::ln;

/// Ids whose noise is drawn together.
const LANES: usize = 8;
/// Bits of a draw.
const BITS: u32 = 52;
/// The last counter word: noise for sampling. Another use of the same seed would take another tag.
const SAMPLING_STREAM: u32 = 0;

/// The noise of one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noise {
    key: [u32; 2],
}

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            key: [seed as u32, (seed >> 32) as u32],
        }
    }

    /// The draws n of some ids for the token at absolute `index`: the upper 52 of the 64 bits that the second and the
    /// first word of the Philox block make, the second being the upper half.
    fn draws<const N: usize>(self, ids: [u32; N], index: u64) -> [u64; N] {
        let counters = [
            ids,
            [index as u32; N],
            [(index >> 32) as u32; N],
            [SAMPLING_STREAM; N],
        ];
        let [low, high, _, _] = philox4x32(counters, self.key);
        std::array::from_fn(|i| (u64::from(high[i]) << 32 | u64::from(low[i])) >> (64 - BITS))
    }

    /// The id in `0..values.len()` whose value plus noise is greatest. `leader` is any id with a finite value; the
    /// greater its value, the less work.
    pub(super) fn argmax_all(self, values: &[f64], leader: u32, index: u64) -> u32 {
        let mut race = self.race(values, leader, index);
        let greatest = gumbel_bound((1 << BITS) - 1);
        for (block, first) in values.chunks(LANES).zip((0u32..).step_by(LANES)) {
            // Ids far below the leader, most of a real row, are not even drawn for.
            if block.iter().all(|value| value + greatest < race.score) {
                continue;
            }
            let draws = self.draws::<LANES>(std::array::from_fn(|i| first + i as u32), index);
            for ((&value, draw), id) in block.iter().zip(draws).zip(first..) {
                race.enter(id, value, draw);
            }
        }
        race.leader
    }

    /// The id in `kept` whose value plus noise is greatest; `leader` as in [`Noise::argmax_all`] and one of `kept`.
    pub(super) fn argmax_of(self, values: &[f64], kept: &[u32], leader: u32, index: u64) -> u32 {
        let mut race = self.race(values, leader, index);
        for &id in kept {
            let [draw] = self.draws([id], index);
            race.enter(id, values[id as usize], draw);
        }
        race.leader
    }

    fn race(self, values: &[f64], leader: u32, index: u64) -> Race {
        let [draw] = self.draws([leader], index);
        Race {
            leader,
            score: values[leader as usize] + gumbel(draw),
        }
    }
}

/// The greatest score so far and its id, the lowest on ties.
struct Race {
    leader: u32,
    score: f64,
}

impl Race {
    fn enter(&mut self, id: u32, value: f64, draw: u64) {
        // Rounding is monotone: what cannot win with the bound cannot win with the noise below it.
        if value + gumbel_bound(draw) < self.score {
            return;
        }
        let score = value + gumbel(draw);
        if score > self.score || (score == self.score && id < self.leader) {
            *self = Self { leader: id, score };
        }
    }
}

/// G = −ln(−ln((n + ½)·2^−52)) for a draw n < 2^52.
fn gumbel(draw: u64) -> f64 {
    let uniform = (draw as f64 + 0.5) / (1u64 << BITS) as f64;
    -ln(-ln(uniform))
}

/// An upper bound of [`gumbel`], close to it where it is large, without a logarithm.
///
/// With u the uniform number and v = 1 − u = 2^e·(1 + m): −ln u ≥ v and log₂(1 + m) ≥ m, so G ≤ −ln 2·(e + m). Read as
/// an integer, the upper half of the f64 v is 2^20·(e + 1023 + m), m cut to 20 bits, which keeps the bound one.
fn gumbel_bound(draw: u64) -> f64 {
    const MARGIN: f64 = 1e-9;
    let complement = (1u64 << BITS) as f64 - (draw as f64 + 0.5);
    let upper = (complement.to_bits() >> 32) as i32 - ((1023 + BITS as i32) << 20);
    f64::from(-upper) * (std::f64::consts::LN_2 / f64::from(1 << 20)) + MARGIN
}

#[cfg(test)]
mod tests {
    use super::{BITS, Noise, gumbel, gumbel_bound};
    use crate::sampling::philox::philox4x32;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn a_draw_is_the_upper_52_bits_of_two_words() {
        let noise = Noise::new(0x0123_4567_89ab_cdef);
        let index = 0xaaaa_bbbb_cccc_dddd;
        let block = philox4x32(
            [[77], [0xcccc_dddd], [0xaaaa_bbbb], [0]],
            [0x89ab_cdef, 0x0123_4567],
        );
        let expected = u64::from(block[1][0]) << 20 | u64::from(block[0][0]) >> 12;
        assert_eq!(noise.draws([77], index), [expected]);
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let base = Noise::new(1).draws([1], 1);
        assert_ne!(base, Noise::new(2).draws([1], 1));
        assert_ne!(base, Noise::new(1 | 1 << 32).draws([1], 1));
        assert_ne!(base, Noise::new(1).draws([2], 1));
        assert_ne!(base, Noise::new(1).draws([1], 2));
        assert_ne!(base, Noise::new(1).draws([1], 1 | 1 << 32));
    }

    #[test]
    fn noise_is_finite_at_both_ends() {
        assert!((gumbel(0) - -(53.0 * 2f64.ln()).ln()).abs() < 1e-12);
        assert!((gumbel((1 << BITS) - 1) - 53.0 * 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn the_bound_holds_and_is_close_where_it_matters() {
        let mut rng = StdRng::seed_from_u64(5);
        for shift in 0..BITS {
            for _ in 0..2_000 {
                let distance = rng.random_range(0..1u64 << BITS) >> shift;
                for draw in [distance, (1 << BITS) - 1 - distance] {
                    let (noise, bound) = (gumbel(draw), gumbel_bound(draw));
                    assert!(bound >= noise, "draw {draw}: {bound} < {noise}");
                    assert!(
                        noise < 3.0 || bound - noise < 0.1,
                        "draw {draw}: {bound} is far from {noise}"
                    );
                }
            }
        }
    }
}
