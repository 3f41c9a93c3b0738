//! Sharing of prefixes, against a slow model without any sharing.

use super::*;
use std::collections::HashMap;

/// What the keys of a position must hold: a value that tells the salt and every token up to it.
fn expected(salt: u32, tokens: &[u32], layer: usize) -> f32 {
    let mix = |hash: u32, x: u32| (hash ^ x).wrapping_mul(16_777_619).rotate_left(7);
    let hash = tokens.iter().fold(mix(salt, 99), |hash, &id| mix(hash, id));
    (mix(hash, layer as u32) % 100_000) as f32
}

/// A sequence as the slow model sees it.
struct Slow {
    salt: u32,
    /// Final ones.
    tokens: Vec<u32>,
    /// Those still to come.
    rest: Vec<u32>,
}

struct World {
    cache: KvCache,
    open: HashMap<SequenceId, Slow>,
}

impl World {
    fn new(sequences: usize, capacity: usize) -> Self {
        Self {
            cache: cache(sequences, capacity),
            open: HashMap::new(),
        }
    }

    fn open(&mut self, salt: u32, tokens: Vec<u32>) -> Option<SequenceId> {
        let root = PrefixKey::root(&salt.to_le_bytes());
        let id = self.cache.open_shared(tokens.len() + 8, root).ok()?;
        let slow = Slow {
            salt,
            tokens: Vec::new(),
            rest: tokens,
        };
        self.open.insert(id, slow);
        Some(id)
    }

    /// Computes the next tokens in all bands, or in the first one alone, and behind them a draft
    /// that is wrong; then takes the draft back.
    fn advance(&mut self, id: SequenceId, count: usize, draft: usize, all: bool) {
        let slow = self.open.get_mut(&id).unwrap();
        let count = count.min(slow.rest.len());
        slow.tokens.extend(slow.rest.drain(..count));
        let committed = slow.tokens.len();
        let mut tokens = slow.tokens.clone();
        tokens.extend((0..draft).map(|i| 1000 + i as u32));
        let bands = if all { 3 } else { 1 };
        for band in 0..bands {
            let start = self.cache.len(id, band);
            let layers = self.cache.layout().band(band);
            let mut step = self.cache.begin();
            step.extend(id, band, tokens.len()).unwrap();
            for position in start..tokens.len() {
                for layer in layers.clone() {
                    let keys = [expected(slow.salt, &tokens[..=position], layer); 8];
                    step.write(id, layer, position, &keys, &keys);
                }
            }
            step.set_states(0, &vec![0.0; (tokens.len() - start) * 8]);
            step.commit();
        }
        self.cache.truncate(id, committed);
        self.cache.publish(id, &slow.tokens);
    }

    /// Takes a sequence back; what is gone is computed again later.
    fn take_back(&mut self, id: SequenceId, len: usize) {
        self.cache.truncate(id, len);
        let slow = self.open.get_mut(&id).unwrap();
        let held = self.cache.len(id, 0);
        assert!(held <= len && held + BLOCK_POSITIONS > len.min(slow.tokens.len()));
        let gone = slow.tokens.split_off(held.min(slow.tokens.len()));
        slow.rest.splice(0..0, gone);
    }

    fn reuse(&mut self, id: SequenceId) -> usize {
        let slow = self.open.get_mut(&id).unwrap();
        let all = [slow.tokens.as_slice(), &slow.rest].concat();
        let gained = self.cache.reuse(id, &all[..all.len() - 1]);
        slow.tokens.extend(slow.rest.drain(..gained));
        gained
    }

    fn close(&mut self, id: SequenceId) {
        self.open.remove(&id);
        self.cache.close(id);
    }

    /// Every position of every sequence holds its own, and the account is exact.
    fn check(&mut self) {
        let mut blocks = std::collections::HashSet::new();
        for (&id, slow) in &self.open {
            for band in 0..3 {
                for layer in self.cache.layout().band(band) {
                    let len = self.cache.len(id, band);
                    let floats = self.cache.layout().block_floats();
                    let step = self.cache.begin();
                    let table = step.table(id, layer).to_vec();
                    for position in 0..len {
                        let block = table[position / BLOCK_POSITIONS] as usize;
                        let at = block * floats + position % BLOCK_POSITIONS * 4;
                        let wanted = expected(slow.salt, &slow.tokens[..=position], layer);
                        assert_eq!(step.storage()[at], wanted);
                    }
                    blocks.extend(table);
                }
            }
        }
        let usage = self.cache.usage();
        assert_eq!(usage.used_blocks, blocks.len());
        assert!(usage.used_blocks <= usage.reserved_blocks);
        assert!(usage.used_blocks + usage.cached_blocks <= usage.total_blocks);
    }
}

/// Texts that have much in common.
fn text(rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..rng.random_range(0..64)).collect();
    let branch = rng.random_range(0..3);
    tokens.extend((0..rng.random_range(1..30)).map(|i| branch * 100 + i));
    tokens
}

#[test]
fn sequences_that_share_hold_what_they_would_hold_alone() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut world = World::new(5, 100);
    let mut reused = 0;
    for _ in 0..6000 {
        let ids: Vec<SequenceId> = world.open.keys().copied().collect();
        let mut ids = ids;
        ids.sort_unstable();
        let any = (!ids.is_empty()).then(|| ids[rng.random_range(0..ids.len())]);
        match (rng.random_range(0..8), any) {
            (0 | 1, _) => {
                let (salt, tokens) = (rng.random_range(0..2), text(&mut rng));
                if let Some(id) = world.open(salt, tokens) {
                    reused += world.reuse(id);
                }
            }
            (2, Some(id)) => world.close(id),
            (3, Some(id)) => world.take_back(id, rng.random_range(0..=world.cache.len(id, 0))),
            (4, Some(id)) => reused += world.reuse(id),
            (_, Some(id)) => {
                let (count, draft) = (rng.random_range(0..40), rng.random_range(0..8));
                world.advance(id, count, draft, rng.random_bool(0.8));
            }
            _ => {}
        }
        world.check();
    }
    assert!(reused > 10_000, "{reused}");
    assert_eq!(world.cache.reused_tokens(), reused as u64);
    let ids: Vec<SequenceId> = world.open.keys().copied().collect();
    ids.into_iter().for_each(|id| world.close(id));
    let usage = world.cache.usage();
    assert_eq!((usage.used_blocks, usage.reserved_blocks), (0, 0));
    assert!(usage.cached_blocks > 0);
}

#[test]
fn a_prefix_is_shared_from_its_first_filled_block_on_and_only_whole_blocks() {
    let mut world = World::new(4, 100);
    let first = world.open(0, (0..50).collect()).unwrap();
    world.advance(first, 37, 0, true);
    let second = world.open(0, (0..50).collect()).unwrap();
    assert_eq!(world.reuse(second), 32);
    let used = world.cache.usage().used_blocks;
    assert_eq!(used, 3 * 4, "the blocks of the first one alone");
    let key = |world: &World, id| world.cache.next_key(id, &(0..50).collect::<Vec<_>>());
    assert_eq!(key(&world, first), key(&world, second));
    let other_salt = world.open(1, (0..50).collect()).unwrap();
    assert_eq!(world.reuse(other_salt), 0);
    assert_ne!(key(&world, first), key(&world, other_salt));
    world.check();
}

#[test]
fn the_newest_token_always_keeps_a_row() {
    let mut world = World::new(4, 100);
    let first = world.open(0, (0..32).collect()).unwrap();
    world.advance(first, 32, 0, true);
    world.close(first);
    let again = world.open(0, (0..32).collect()).unwrap();
    assert_eq!(world.reuse(again), 16);
}

#[test]
fn positions_that_lack_a_band_are_not_shared() {
    let mut world = World::new(4, 100);
    let first = world.open(0, (0..50).collect()).unwrap();
    world.advance(first, 40, 0, false);
    let second = world.open(0, (0..50).collect()).unwrap();
    assert_eq!(world.reuse(second), 0);
}

#[test]
fn what_two_computed_at_once_is_held_once() {
    let mut world = World::new(4, 100);
    let ids = [0, 1].map(|_| world.open(0, (0..50).collect()).unwrap());
    for id in ids {
        world.advance(id, 32, 0, true);
    }
    assert_eq!(world.cache.usage().used_blocks, 2 * 4);
    world.check();
}

#[test]
fn a_cached_prefix_makes_room_and_its_end_goes_first() {
    let mut world = World::new(2, 88);
    let first = world.open(0, (0..80).collect()).unwrap();
    world.advance(first, 80, 0, true);
    world.close(first);
    assert_eq!(world.cache.usage().cached_blocks, 5 * 4);
    assert_eq!(
        world.cache.usage().free_blocks(),
        world.cache.usage().total_blocks
    );
    // Two others that need all but a few blocks.
    let others = [1, 2].map(|salt| world.open(salt, (0..80).collect()).unwrap());
    for id in others {
        world.advance(id, 72, 8, true);
    }
    world.check();
    for id in others {
        world.close(id);
    }
    let again = world.open(0, (0..80).collect()).unwrap();
    assert_eq!(world.reuse(again), 48, "two of five blocks made room");
    world.check();
}
