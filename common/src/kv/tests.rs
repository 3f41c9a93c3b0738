use super::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn layout() -> KvLayout {
    KvLayout {
        kv_heads: 2,
        head_dim: 4,
        hidden: 8,
        band_ends: vec![1, 3, 4],
    }
}

fn cache(sequences: usize, capacity: usize) -> KvCache {
    let layout = layout();
    let bytes = layout.blocks_for(capacity) * sequences * layout.block_bytes();
    KvCache::new(layout, bytes).unwrap()
}

fn append(cache: &mut KvCache, id: SequenceId, band: usize, end: usize) {
    let rows = end - cache.len(id, band);
    let mut step = cache.begin();
    step.extend(id, band, end).unwrap();
    step.set_states(0, &vec![band as f32 + 1.0; rows * 8]);
    step.commit();
}

#[test]
fn a_sequence_that_does_not_fit_is_refused_and_fits_after_another_closed() {
    let mut cache = cache(2, 40);
    let first = cache.open(40).unwrap();
    let _second = cache.open(40).unwrap();
    assert!(matches!(
        cache.open(1),
        Err(Error::OutOfKvBlocks { free: 0, .. })
    ));
    cache.close(first);
    cache.open(40).unwrap();
}

#[test]
fn a_dropped_step_leaves_nothing_behind() {
    let mut cache = cache(1, 100);
    let id = cache.open(100).unwrap();
    append(&mut cache, id, 0, 20);
    let before = cache.usage();
    let mut step = cache.begin();
    step.extend(id, 0, 90).unwrap();
    step.extend(id, 1, 20).unwrap();
    drop(step);
    assert_eq!(
        (cache.usage(), cache.len(id, 0), cache.len(id, 1)),
        (before, 20, 0)
    );
}

#[test]
fn pending_states_are_the_deepest_of_each_position_and_follow_a_roll_back() {
    let mut cache = cache(1, 64);
    let id = cache.open(64).unwrap();
    append(&mut cache, id, 0, 10);
    append(&mut cache, id, 1, 6);
    assert!(cache.pending(id, 0, 6).iter().all(|&x| x == 2.0));
    assert!(cache.pending(id, 6, 10).iter().all(|&x| x == 1.0));
    append(&mut cache, id, 2, 4);
    cache.truncate(id, 8);
    assert_eq!(
        (cache.len(id, 0), cache.len(id, 1), cache.len(id, 2)),
        (8, 6, 4)
    );
    assert!(cache.pending(id, 4, 6).iter().all(|&x| x == 2.0));
    assert!(cache.pending(id, 6, 8).iter().all(|&x| x == 1.0));
}

#[test]
fn a_band_cannot_run_ahead_of_the_one_before_or_beyond_the_capacity() {
    let mut cache = cache(1, 16);
    let id = cache.open(16).unwrap();
    append(&mut cache, id, 0, 5);
    let mut step = cache.begin();
    assert!(step.extend(id, 1, 6).is_err());
    assert!(step.extend(id, 0, 17).is_err());
}

#[test]
fn no_history_of_steps_leaks_a_block() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut cache = cache(4, 80);
    let empty = cache.usage();
    let mut open: Vec<SequenceId> = Vec::new();
    for _ in 0..20_000 {
        match rng.random_range(0..6) {
            0 => open.extend(cache.open(rng.random_range(1..=80)).ok()),
            1 if !open.is_empty() => cache.close(open.swap_remove(rng.random_range(0..open.len()))),
            2 if !open.is_empty() => {
                let id = open[rng.random_range(0..open.len())];
                cache.truncate(id, rng.random_range(0..=cache.len(id, 0)));
            }
            _ if !open.is_empty() => {
                let id = open[rng.random_range(0..open.len())];
                let band = rng.random_range(0..3);
                let limit = if band == 0 {
                    cache.capacity(id)
                } else {
                    cache.len(id, band - 1)
                };
                let end = rng.random_range(cache.len(id, band)..=limit);
                let rows = end - cache.len(id, band);
                let mut step = cache.begin();
                step.extend(id, band, end).unwrap();
                step.set_states(0, &vec![0.5; rows * 8]);
                if rng.random_bool(0.7) {
                    step.commit();
                }
            }
            _ => {}
        }
        let held: usize = open
            .iter()
            .flat_map(|&id| (0..3).map(move |b| (id, b)))
            .map(|(id, b)| {
                cache.len(id, b).div_ceil(BLOCK_POSITIONS) * cache.layout().band(b).len()
            })
            .sum();
        assert_eq!(cache.usage().used_blocks, held);
        assert!(cache.usage().used_blocks <= cache.usage().reserved_blocks);
    }
    open.into_iter().for_each(|id| cache.close(id));
    assert_eq!(cache.usage(), empty);
}

mod prefix;

#[cfg(target_os = "linux")]
#[test]
fn a_touched_cache_has_its_memory_and_what_was_in_it() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
        kilobytes.parse::<usize>().unwrap() << 10
    };
    let (budget, before) = (256 << 20, resident());
    let mut cache = KvCache::new(layout(), budget).unwrap();
    let id = cache.open(16).unwrap();
    append(&mut cache, id, 0, 16);
    cache.pool.block_mut(0).fill(7.0);
    cache.touch();
    assert!(
        resident() > before + budget / 2,
        "what other tests give back is less"
    );
    assert!(cache.pool.block_mut(0).iter().all(|&x| x == 7.0));
}
