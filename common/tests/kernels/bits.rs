//! Equality of bits.

use dssd_common::kernels::{AttentionShape, Isa, Kernels};
use proptest::prelude::*;

use crate::case::{AttentionCase, TYPES, bits, floats, matmul, matrix, row_kernels};

fn portable() -> Kernels {
    Kernels::with_isa(Isa::Portable, 1).unwrap()
}

/// Kernels of every instruction set with some number of threads.
fn all(threads: usize) -> Vec<Kernels> {
    Isa::available()
        .into_iter()
        .map(|isa| Kernels::with_isa(isa, threads).unwrap())
        .collect()
}

fn attention_case() -> impl Strategy<Value = AttentionCase> {
    let keys = prop::collection::vec(1usize..300, 1..4);
    (
        any::<u32>(),
        1usize..3,
        1usize..4,
        1usize..17,
        1usize..40,
        keys,
    )
        .prop_map(|(seed, kv_heads, group, eighth, block_positions, keys)| {
            let (heads, head_dim) = (kv_heads * group, 8 * eighth);
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                block_positions,
                scale: 0.11,
            };
            AttentionCase::new(seed.into(), shape, &keys)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_have_the_portable_bits(
        seed in any::<u32>(), m in 1usize..20, n in 1usize..120, k in 1usize..200,
        dtype in prop::sample::select(&TYPES[..]), threads in 1usize..5, with_bias in any::<bool>(),
    ) {
        let w = matrix(seed.into(), n, k, dtype);
        let (x, bias) = (floats(7, m * k), floats(8, n));
        let bias = with_bias.then_some(&bias[..]);
        let expected = bits(&matmul(&portable(), &x, &w, bias));
        for kernels in all(threads) {
            prop_assert_eq!(&bits(&matmul(&kernels, &x, &w, bias)), &expected);
        }
    }

    #[test]
    fn a_row_of_a_product_does_not_depend_on_its_neighbours(
        seed in any::<u32>(), m in 2usize..20, n in 1usize..60, k in 1usize..200,
        dtype in prop::sample::select(&TYPES[..]),
    ) {
        let w = matrix(seed.into(), n, k, dtype);
        let x = floats(7, m * k);
        for kernels in all(2) {
            let together = matmul(&kernels, &x, &w, None);
            for (row, expected) in x.chunks(k).zip(together.chunks(n)) {
                prop_assert_eq!(bits(&matmul(&kernels, row, &w, None)), bits(expected));
            }
        }
    }

    #[test]
    fn row_kernels_have_the_portable_bits(
        seed in any::<u32>(), rows in 1usize..6, width in 1usize..200,
    ) {
        let expected = bits(&row_kernels(&portable(), seed.into(), rows, width));
        for kernels in all(2) {
            prop_assert_eq!(&bits(&row_kernels(&kernels, seed.into(), rows, width)), &expected);
        }
    }

    #[test]
    fn attention_has_the_portable_bits_and_rows_stand_alone(case in attention_case()) {
        let expected = bits(&case.run(&portable()));
        for kernels in all(2) {
            prop_assert_eq!(&bits(&case.run(&kernels)), &expected);
            let alone: Vec<u32> = (0..case.rows.len())
                .flat_map(|row| bits(&case.run_rows(&kernels, row, row + 1)))
                .collect();
            prop_assert_eq!(&alone, &expected);
        }
    }
}

#[test]
fn large_work_has_the_same_bits_on_any_number_of_threads() {
    let shape = AttentionShape {
        heads: 8,
        kv_heads: 4,
        head_dim: 64,
        block_positions: 16,
        scale: 0.125,
    };
    let case = AttentionCase::new(3, shape, &[300, 299, 1, 17, 64, 128, 250, 31]);
    let w = matrix(4, 600, 512, TYPES[2]);
    let x = floats(5, 40 * 512);
    let run = |kernels: &Kernels| {
        let mut all = bits(&case.run(kernels));
        all.extend(bits(&row_kernels(kernels, 6, 64, 1024)));
        all.extend(bits(&matmul(kernels, &x, &w, None)));
        all
    };
    let expected = run(&Kernels::new(1));
    for threads in 2..=4 {
        assert_eq!(run(&Kernels::new(threads)), expected, "{threads} threads");
    }
}

#[test]
fn layout_of_storage_does_not_change_attention() {
    let row = |block_positions| {
        let shape = AttentionShape {
            heads: 1,
            kv_heads: 1,
            head_dim: 40,
            block_positions,
            scale: 0.2,
        };
        let (keys, values) = (floats(1, 48 * 40), floats(2, 48 * 40));
        let mut case = AttentionCase::new(3, shape, &[48]);
        for (slot, &block) in case.rows[0].0.iter().enumerate() {
            let (from, len) = (slot * block_positions * 40, block_positions * 40);
            let block = &mut case.storage[block as usize * shape.block_floats()..];
            block[..len].copy_from_slice(&keys[from..from + len]);
            block[len..2 * len].copy_from_slice(&values[from..from + len]);
        }
        bits(&case.run(&Kernels::new(1)))
    };
    let expected = row(48);
    for block_positions in [1, 3, 8, 16] {
        assert_eq!(
            row(block_positions),
            expected,
            "blocks of {block_positions}"
        );
    }
}

#[test]
fn concurrent_callers_get_their_own_results() {
    let kernels = Kernels::new(3);
    let w = matrix(1, 300, 256, TYPES[0]);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (kernels, w) = (&kernels, &w);
            scope.spawn(move || {
                let x = floats(seed, 4 * 256);
                let expected = bits(&matmul(&portable(), &x, w, None));
                for _ in 0..20 {
                    assert_eq!(bits(&matmul(kernels, &x, w, None)), expected);
                }
            });
        }
    });
}

/// The order of summation as it is written down: 16 lanes, fused multiply-adds, one tree.
fn dot_as_specified(x: &[f32], w: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (i, (x, w)) in x.iter().zip(w).enumerate() {
        lanes[i % 16] = x.mul_add(*w, lanes[i % 16]);
    }
    for width in [8, 4, 2, 1] {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
    }
    lanes[0]
}

#[test]
fn long_products_follow_the_written_order() {
    for k in [511, 512, 513, 1040, 1400, 4100] {
        let (n, w) = (31, matrix(1, 31, k, TYPES[2]));
        let mut row = vec![0.0; k];
        for m in 1..=9 {
            let x = floats(2, m * k);
            let mut expected = vec![0; m * n];
            for j in 0..n {
                w.row_f32(j, &mut row);
                for (r, x) in x.chunks(k).enumerate() {
                    expected[r * n + j] = dot_as_specified(x, &row).to_bits();
                }
            }
            for kernels in all(2) {
                let found = bits(&matmul(&kernels, &x, &w, None));
                assert_eq!(found, expected, "{:?}, k {k}, m {m}", kernels.isa());
            }
        }
    }
}
