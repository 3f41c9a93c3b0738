//! The counter-based random generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What each round adds to the key.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// N blocks at once, word by word: `counters[w][i]` is word w of counter i, and so is the result. The lanes are
/// independent, so the compiler can keep them in vector registers.
pub(super) fn philox4x32<const N: usize>(counters: [[u32; N]; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counters;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        for i in 0..N {
            let first = u64::from(MULTIPLIERS[0]) * u64::from(c0[i]);
            let second = u64::from(MULTIPLIERS[1]) * u64::from(c2[i]);
            c0[i] = (second >> 32) as u32 ^ c1[i] ^ k0;
            c1[i] = second as u32;
            c2[i] = (first >> 32) as u32 ^ c3[i] ^ k1;
            c3[i] = first as u32;
        }
        k0 = k0.wrapping_add(KEY_STEPS[0]);
        k1 = k1.wrapping_add(KEY_STEPS[1]);
    }
    [c0, c1, c2, c3]
}

#[cfg(test)]
mod tests {
    use super::philox4x32;

    /// The known-answer vectors of Random123 1.14 (`kat_vectors`, `philox4x32 10`), as three lanes would have them with
    /// one key each.
    #[test]
    fn known_answers() {
        let vectors = [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in vectors {
            assert_eq!(
                philox4x32(counter.map(|word| [word]), key),
                expected.map(|word: u32| [word])
            );
        }
    }

    #[test]
    fn lanes_are_independent() {
        let counters = [
            [0, 1, 2, 3, 4, 5, 6, 7],
            [9; 8],
            [1, 0, 1, 0, 1, 0, 1, 0],
            [3; 8],
        ];
        let together = philox4x32(counters, [5, 6]);
        for i in 0..8 {
            let alone = philox4x32(counters.map(|word| [word[i]]), [5, 6]);
            assert_eq!(together.map(|word| word[i]), alone.map(|[word]| word));
        }
    }
}
