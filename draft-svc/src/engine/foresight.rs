//! What exits said ahead of a Commit, kept until it comes.

use dssd_common::{entropy::Summary, policy::Policy};

/// The work ahead of one sequence.
///
/// A policy's state moves on with what Commits tell, so work ahead asks a copy of it; when the
/// Commit comes, the policy itself is shown the same readings. Hence drafts are the same with and
/// without work ahead.
pub(super) struct Foresight {
    /// Decides what is read ahead.
    pub(super) policy: Box<dyn Policy>,
    /// What was read for each position of the next draft, in order.
    pub(super) positions: Vec<Position>,
}

/// The exits that were read for one position.
#[derive(Default)]
pub(super) struct Position {
    /// From shallow to deep.
    pub(super) readings: Vec<Reading>,
    /// The token that the work ahead went on with; none where it ended.
    pub(super) token: Option<u32>,
}

/// What an exit said.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    pub(super) head: usize,
    pub(super) summary: Summary,
    /// Its choice; none where nothing may be chosen.
    pub(super) token: Option<u32>,
}

impl Foresight {
    /// Nothing read yet.
    pub(super) fn new(policy: Box<dyn Policy>) -> Self {
        Self {
            policy,
            positions: Vec::new(),
        }
    }

    /// Keeps a reading for the `index`-th token of the next draft.
    pub(super) fn keep(&mut self, index: usize, reading: Reading) {
        if self.positions.len() <= index {
            self.positions.resize_with(index + 1, Position::default);
        }
        self.positions[index].readings.push(reading);
    }
}

impl Position {
    /// What an exit said, if it was read.
    pub(super) fn at(&self, head: usize) -> Option<Reading> {
        self.readings
            .iter()
            .find(|reading| reading.head == head)
            .copied()
    }
}
