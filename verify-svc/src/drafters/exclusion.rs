//! How long a drafter that fails is left out.

use std::time::Duration;

/// The first exclusion; each further one is twice as long.
pub(super) const FIRST: Duration = Duration::from_millis(250);
/// The longest exclusion after losses: a drafter that comes back is to be found soon.
const LONGEST_AFTER_LOSS: Duration = Duration::from_secs(2);
/// The longest exclusion after faults.
const LONGEST_AFTER_FAULT: Duration = Duration::from_secs(30);

/// What a drafter did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It cannot be reached, has no room, or its stream ended: that befalls honest ones.
    Loss,
    /// It broke the protocol, kept silent, or does not belong to this model.
    Fault,
}

/// Failures in a row, of each kind for itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    losses: u32,
    faults: u32,
}

impl Record {
    /// Takes note of a failure; returns how long to leave the drafter out.
    pub(super) fn failed(&mut self, failure: Failure) -> Duration {
        let (failures, longest) = match failure {
            Failure::Loss => (&mut self.losses, LONGEST_AFTER_LOSS),
            Failure::Fault => (&mut self.faults, LONGEST_AFTER_FAULT),
        };
        let exclusion = FIRST * 2u32.saturating_pow((*failures).min(10));
        *failures = failures.saturating_add(1);
        exclusion.min(longest)
    }

    /// The drafter is ready, so it can be reached.
    pub(super) fn ready(&mut self) {
        self.losses = 0;
    }

    /// A token that it drafted was right. Nothing less clears a drafter of its faults: any
    /// other message costs it no work.
    pub(super) fn accepted(&mut self) {
        self.faults = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, Record};

    fn seconds(record: &mut Record, failure: Failure, count: usize) -> Vec<f64> {
        let lengths = (0..count).map(|_| record.failed(failure).as_secs_f64());
        lengths.collect()
    }

    #[test]
    fn readiness_forgives_losses_and_never_faults() {
        let mut record = Record::default();
        assert_eq!(
            seconds(&mut record, Failure::Loss, 5),
            [0.25, 0.5, 1.0, 2.0, 2.0]
        );
        assert_eq!(seconds(&mut record, Failure::Fault, 2), [0.25, 0.5]);
        record.ready();
        assert_eq!(seconds(&mut record, Failure::Loss, 1), [0.25]);
        assert_eq!(
            seconds(&mut record, Failure::Fault, 6),
            [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
        );
        record.accepted();
        assert_eq!(seconds(&mut record, Failure::Fault, 1), [0.25]);
        assert_eq!(seconds(&mut record, Failure::Loss, 1), [0.5]);
    }
}
