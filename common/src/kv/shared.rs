//! Blocks that sequences share: the keys and values of prefixes, by what they were computed from.
//!
//! A *group* holds the blocks of all layers for [`BLOCK_POSITIONS`] positions. Its key is a chained
//! hash of a salt and all tokens up to its end, so equal keys mean equal keys and values: those of a
//! position depend on the tokens up to it and on nothing else, to the last bit.
//!
//! Only groups whose positions are filled in every layer come in, and nobody writes to them from then
//! on: a sequence appends behind what it holds, which ends at or after the last shared group, and
//! one that is taken back into a shared group gives the whole group back. So nothing is ever copied.
//!
//! A group that no sequence uses stays until its blocks are needed; the one that was used longest ago
//! goes first. A sequence that uses a group uses all before it, and each use marks earlier groups as
//! newer, so a chain goes from its end.
//!
//! [`BLOCK_POSITIONS`]: super::BLOCK_POSITIONS

use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};

/// The name of a group: SHA-256 of the key before it and of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixKey([u8; 32]);

impl PrefixKey {
    /// The start of all chains of a salt: prefixes of different salts are never shared.
    pub fn root(salt: &[u8]) -> Self {
        Self(Sha256::digest(salt).into())
    }

    /// The key of the group of `tokens` behind this one.
    pub(super) fn then(&self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new_with_prefix(self.0);
        tokens.iter().for_each(|id| hash.update(id.to_le_bytes()));
        Self(hash.finalize().into())
    }
}

struct Group {
    /// One block for each layer.
    blocks: Vec<u32>,
    /// Sequences that hold it.
    users: usize,
    /// When it was used last; unique.
    used: u64,
}

/// All groups.
#[derive(Default)]
pub(super) struct SharedGroups {
    groups: HashMap<PrefixKey, Group>,
    /// Those without users, by when they were used last.
    idle: BTreeMap<u64, PrefixKey>,
    idle_blocks: usize,
    clock: u64,
}

impl SharedGroups {
    /// Blocks of groups that no sequence uses.
    pub(super) fn idle_blocks(&self) -> usize {
        self.idle_blocks
    }

    /// Counts a sequence as a user of a group, and returns the group's blocks.
    pub(super) fn hold(&mut self, key: &PrefixKey) -> Option<&[u32]> {
        let group = self.groups.get_mut(key)?;
        if group.users == 0 {
            self.idle.remove(&group.used);
            self.idle_blocks -= group.blocks.len();
        }
        group.users += 1;
        Some(&group.blocks)
    }

    /// Takes a group in, for the one sequence that filled it.
    pub(super) fn insert(&mut self, key: PrefixKey, blocks: Vec<u32>) {
        let group = Group {
            blocks,
            users: 1,
            used: 0,
        };
        self.groups.insert(key, group);
    }

    /// A sequence holds these groups, the last ones of its chain, no longer.
    pub(super) fn release(&mut self, chain: &[PrefixKey]) {
        for key in chain.iter().rev() {
            let Some(group) = self.groups.get_mut(key) else {
                continue;
            };
            self.clock += 1;
            group.users -= 1;
            group.used = self.clock;
            if group.users == 0 {
                self.idle.insert(group.used, *key);
                self.idle_blocks += group.blocks.len();
            }
        }
    }

    /// Gives up the group that was used longest ago, of those that no sequence uses.
    pub(super) fn evict(&mut self) -> Option<Vec<u32>> {
        let (_, key) = self.idle.pop_first()?;
        let group = self.groups.remove(&key)?;
        self.idle_blocks -= group.blocks.len();
        Some(group.blocks)
    }
}
