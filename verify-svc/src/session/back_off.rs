//! Rest from drafting after proposals that came too late.

/// Late proposals in a row that end in a rest.
const LATE_LIMIT: u32 = 3;
/// Rounds of the first rest; each further one is twice as long.
const FIRST_REST: u32 = 2;
/// Longest rest, in rounds.
const LONGEST_REST: u32 = 256;
/// Rests without any proposal before and between them, after which a drafter counts as silent.
const SILENT_RESTS: u32 = 2;

/// First rest after a draft that was declined, in rounds: long enough that asking in vain costs
/// little beside it.
const FIRST_PAUSE: u32 = 8;
/// Longest rest after drafts that were declined, in rounds.
const LONGEST_PAUSE: u32 = 64;

/// Drafts that the drafter declined because they would not pay. The rest after each is twice as
/// long as the one before; a drafted token that is right halves the next one.
#[derive(Debug, Clone, Default)]
pub(super) struct Pause {
    rest: u32,
    left: u32,
}

impl Pause {
    /// The drafter declined.
    pub(super) fn declined(&mut self) {
        self.rest = (self.rest * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.left = self.rest;
    }

    /// A drafted token was right.
    pub(super) fn accepted(&mut self) {
        self.rest /= 2;
    }

    /// Whether the coming round is a part of a rest; called once per round.
    pub(super) fn resting(&mut self) -> bool {
        let resting = self.left > 0;
        self.left = self.left.saturating_sub(1);
        resting
    }
}

/// Counts late proposals in a row. After three, drafting rests for 2 rounds; if the first
/// proposal after a rest is late again, for 4, then 8 …, until one comes in time.
#[derive(Debug, Clone, Default)]
pub(super) struct BackOff {
    late: u32,
    /// Length of the last rest, in rounds.
    rest: u32,
    /// Rounds of the present rest that are left.
    left: u32,
    /// Rests since the last proposal, in time or not.
    silent_rests: u32,
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
        self.silent_rests = self.silent_rests.saturating_add(1);
        true
    }

    /// A proposal came in time.
    pub(super) fn in_time(&mut self) {
        *self = Self::default();
    }

    /// A proposal came, whatever it answers.
    pub(super) fn heard(&mut self) {
        self.silent_rests = 0;
    }

    /// Whether rests do not help, because nothing comes at all.
    pub(super) fn silent(&self) -> bool {
        self.silent_rests >= SILENT_RESTS
    }

    /// Whether the coming round belongs to a rest; called once per round.
    pub(super) fn resting(&mut self) -> bool {
        let resting = self.left > 0;
        self.left = self.left.saturating_sub(1);
        resting
    }
}
