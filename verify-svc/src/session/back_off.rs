//! Rest from drafting after proposals that came too late.

/// Late proposals in a row that end in a rest.
const LATE_LIMIT: u32 = 3;
/// Rounds of the first rest; each further one is twice as long.
const FIRST_REST: u32 = 2;
/// Longest rest, in rounds.
const LONGEST_REST: u32 = 256;

/// Counts late proposals in a row. After three, drafting rests for 2 rounds; if the first
/// proposal after a rest is late again, for 4, then 8 …, until one comes in time.
#[derive(Debug, Clone, Default)]
pub(super) struct BackOff {
    late: u32,
    /// Length of the last rest, in rounds.
    rest: u32,
    /// Rounds of the present rest that are left.
    left: u32,
}

impl BackOff {
    /// A proposal was late; returns whether a rest begins.
    pub(super) fn late(&mut self) -> bool {
        self.late = self.late.saturating_add(1);
        if self.late < LATE_LIMIT {
            return false;
        }
        self.rest = (self.rest * 2).clamp(FIRST_REST, LONGEST_REST);
        self.left = self.rest;
        true
    }

    /// A proposal came in time.
    pub(super) fn in_time(&mut self) {
        *self = Self::default();
    }

    /// Whether the coming round belongs to a rest; called once per round.
    pub(super) fn resting(&mut self) -> bool {
        let resting = self.left > 0;
        self.left = self.left.saturating_sub(1);
        resting
    }
}
