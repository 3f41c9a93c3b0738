//! The scenario files beside the sessions, as sequences of events to be shuffled.

use crate::bytes::EDGES;
use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use std::{collections::BTreeMap, fs, path::Path};

/// A verb and its fields, lists as they are written.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) verb: String,
    fields: BTreeMap<String, Vec<u64>>,
}

impl Event {
    /// A field that is one number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.fields.get(name)?.first().copied()
    }

    /// The same, where 0 is what a missing one means; cut to 32 bits.
    pub(crate) fn small(&self, name: &str) -> u32 {
        self.number(name).unwrap_or(0) as u32
    }

    pub(crate) fn list(&self, name: &str) -> Vec<u32> {
        let list = self.fields.get(name).cloned().unwrap_or_default();
        list.into_iter().map(|number| number as u32).collect()
    }
}

/// The events of every scenario in a folder, one list for each.
pub(crate) fn scenarios(folder: &str) -> Vec<Vec<Event>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let mut scripts: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    scripts.sort();
    let events = |script: &String| {
        let lines = script.lines().filter_map(|line| line.strip_prefix('>'));
        lines.map(parse).collect()
    };
    scripts.iter().map(events).collect()
}

fn parse(line: &str) -> Event {
    let mut words = line.split_whitespace();
    let verb = words.next().unwrap().to_owned();
    let fields = words.map(|word| {
        let (name, value) = word.split_once('=').unwrap();
        let numbers = value.split(',').map(|number| number.parse().unwrap_or(0));
        (name.to_owned(), numbers.collect())
    });
    Event {
        verb,
        fields: fields.collect(),
    }
}

/// A scenario with events lost, doubled, swapped, and taken from others, and with other numbers.
pub(crate) fn mutated(random: &mut ChaCha8Rng, scenarios: &[Vec<Event>]) -> Vec<Event> {
    let mut events = scenarios.choose(random).unwrap().clone();
    for _ in 0..random.random_range(0..8) {
        let at = random.random_range(0..=events.len());
        match (random.random_range(0..5), events.get(at).cloned()) {
            (0, Some(_)) => drop(events.remove(at)),
            (1, Some(event)) => events.insert(at, event),
            (2, Some(_)) => {
                let other = random.random_range(0..events.len());
                events.swap(at, other);
            }
            (3, Some(_)) => change(random, &mut events[at]),
            _ => {
                let other = scenarios.choose(random).unwrap();
                events.extend(other.choose(random).cloned());
                let last = events.len() - 1;
                events.swap(at.min(last), last);
            }
        }
    }
    events
}

fn change(random: &mut ChaCha8Rng, event: &mut Event) {
    let names: Vec<String> = event.fields.keys().cloned().collect();
    let Some(name) = names.choose(random) else {
        return;
    };
    let list = event.fields.entry(name.clone()).or_default();
    let at = random.random_range(0..=list.len());
    match (random.random_range(0..5), list.get_mut(at)) {
        (0, Some(number)) => *number = number.wrapping_add(1),
        (1, Some(number)) => *number = number.wrapping_sub(1),
        (2, Some(number)) => *number = *EDGES.choose(random).unwrap(),
        (3, Some(_)) => drop(list.remove(at)),
        _ => list.insert(at, random.random_range(0..60)),
    }
}
