//! What a step computes: the next tokens of all first, then a bounded part of what has to be
//! filled, in fair shares.

use super::Scheduler;
use crate::engine::work::{Turn, Work, WorkKind};
use std::{cmp::Reverse, collections::HashSet, time::Duration};

/// One row in so many is kept for filling, so that no number of decoding generations can keep
/// prompts waiting.
const FILLING_PART: usize = 4;

/// One step: rows of some generations, and of at most one request to score.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) work: Vec<(usize, Work)>,
    pub(super) scoring: Vec<u32>,
}

impl Batch {
    pub(super) fn rows(&self) -> usize {
        self.work.iter().map(|(_, work)| work.rows).sum::<usize>() + self.scoring.len()
    }

    /// Rows of verifications among them.
    pub(super) fn verified_rows(&self) -> usize {
        let verify = |work: &&Work| matches!(work.kind, WorkKind::Verify(_));
        let works = self.work.iter().map(|(_, work)| work);
        works.filter(verify).map(|work| work.rows).sum()
    }
}

impl Scheduler {
    /// What runs now, and when the first of those that wait is to be looked at again.
    pub(super) fn plan(&mut self) -> (Batch, Option<Duration>) {
        let now = self.now();
        for generation in &mut self.generations {
            generation.reuse(&mut self.parts.kv);
        }
        let kv = &self.parts.kv;
        let count = self.generations.len();
        self.first = self.first.wrapping_add(1);
        let order = (0..count).map(|i| (self.first % count + i) % count);
        let (filling, decoding): (Vec<usize>, Vec<usize>) =
            order.partition(|&index| self.generations[index].fills(kv));
        let filling = self.without_doubles(filling);
        // None is the request to score.
        let mut filling: Vec<Option<usize>> = filling.into_iter().map(Some).collect();
        if !self.scorings.is_empty() {
            filling.insert(self.first % (filling.len() + 1), None);
        }
        let most = self.parts.limits.max_step_rows;
        let bound = match decoding.is_empty() {
            true => most,
            false => self.parts.limits.max_prefill_rows.min(most),
        };
        let kept = match filling.len() {
            0 => 0,
            _ => most.div_ceil(FILLING_PART).min(bound),
        };
        let mut budget = most - kept;
        let mut batch = Batch::default();
        let mut wait: Option<Duration> = None;
        for index in decoding {
            if budget == 0 {
                break;
            }
            match self.generations[index].turn(kv, budget, now) {
                Turn::Run(work) => {
                    budget -= work.rows;
                    batch.work.push((index, work));
                }
                Turn::Wait(until) => wait = sooner(wait, until),
            }
        }
        budget = (budget + kept).min(bound);
        let sharing = filling.len();
        for (served, filler) in filling.into_iter().enumerate() {
            // What one leaves is shared by those behind it.
            let share = budget.div_ceil(sharing - served);
            if share == 0 {
                break;
            }
            let Some(index) = filler else {
                let scoring = self.scorings.first();
                batch.scoring = scoring.map_or_else(Vec::new, |s| s.rows(kv, share).to_vec());
                budget -= batch.scoring.len();
                continue;
            };
            match self.generations[index].turn(kv, share, now) {
                Turn::Run(work) => {
                    budget -= work.rows;
                    batch.work.push((index, work));
                }
                Turn::Wait(until) => wait = sooner(wait, until),
            }
        }
        (batch, wait)
    }

    /// Leaves out those that would fill the same block of positions as another one: they share it
    /// in the next step. The one that is furthest ahead goes on.
    fn without_doubles(&self, mut filling: Vec<usize>) -> Vec<usize> {
        let kv = &self.parts.kv;
        let held = |index: usize| kv.len(self.generations[index].sequence, 0);
        let mut ahead = filling.clone();
        ahead.sort_by_key(|&index| Reverse(held(index)));
        let mut keys = HashSet::new();
        let mut double = |index: &usize| {
            let key = self.generations[*index].next_key(kv);
            key.is_some_and(|key| !keys.insert(key))
        };
        let doubles: HashSet<usize> = ahead.into_iter().filter(|index| double(index)).collect();
        filling.retain(|index| !doubles.contains(index));
        filling
    }
}

fn sooner(wait: Option<Duration>, until: Duration) -> Option<Duration> {
    Some(wait.map_or(until, |earliest| earliest.min(until)))
}
