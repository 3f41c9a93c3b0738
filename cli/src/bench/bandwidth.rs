//! How fast this machine reads memory: the limit of every pass at few rows.

use super::timing::timed;
use dssd_common::kernels::Kernels;
use std::{fs, hint::black_box};

/// Bytes that one measurement reads: far beyond any cache.
const READ_BYTES: usize = 1 << 30;
/// Bytes that a thread takes at a time.
const CHUNK_BYTES: usize = 4 << 20;
const ATTEMPTS: usize = 10;
/// Assumed where the system does not tell.
const USUAL_CACHE: usize = 32 << 20;

/// Bytes per second of the best of ten sums over 1 GiB, with all threads of the kernels.
pub(super) fn read_bandwidth(kernels: &Kernels) -> f64 {
    // Zeros would all lie in one shared page of the system.
    let words = vec![1u64; READ_BYTES / size_of::<u64>()];
    let chunks: Vec<&[u64]> = words.chunks(CHUNK_BYTES / size_of::<u64>()).collect();
    let attempt = || {
        let read = || kernels.parallel(chunks.len(), &|i| _ = black_box(sum(chunks[i])));
        READ_BYTES as f64 / timed(read).0
    };
    (0..ATTEMPTS).map(|_| attempt()).fold(0.0, f64::max)
}

/// A sum with enough independent accumulators to be limited by loads alone.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 64];
    let (blocks, rest) = words.as_chunks::<64>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block) {
            *lane = lane.wrapping_add(*word);
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(0, |total, word| total.wrapping_add(*word))
}

/// Size of the last-level cache in bytes.
pub(super) fn last_level_cache() -> usize {
    let caches = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").into_iter();
    let sizes = caches.flatten().flatten().filter_map(|entry| {
        let text = fs::read_to_string(entry.path().join("size")).ok()?;
        let (number, unit) = text.trim().split_at_checked(text.trim().len() - 1)?;
        let unit = match unit {
            "K" => 1 << 10,
            "M" => 1 << 20,
            _ => return None,
        };
        Some(number.parse::<usize>().ok()? * unit)
    });
    sizes.max().unwrap_or(USUAL_CACHE)
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn the_sum_reads_every_word() {
        let words: Vec<u64> = (0..1000).collect();
        assert_eq!(sum(&words), 999 * 1000 / 2);
    }
}
