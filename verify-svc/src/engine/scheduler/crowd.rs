//! How many generations run, without the moments between two of them.

use std::time::Duration;

/// Steps for which a number that was higher still counts.
const HELD_STEPS: usize = 32;
/// Time without a generation after which none of them counts.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// The most generations of the latest steps.
///
/// A client that asks again at once leaves the others alone for a moment. If that moment counted, each
/// of them would open a stream to a drafter for which there is no room any more before it is ready.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    size: usize,
    /// Steps since there were as many.
    steps: usize,
    /// The most since then.
    since: usize,
    /// Since when none runs.
    silent_since: Option<Duration>,
}

impl Crowd {
    /// A step with so many generations at the time `now`.
    pub(super) fn observe(&mut self, generations: usize, now: Duration) {
        if generations == 0 {
            self.silent_since.get_or_insert(now);
        } else {
            if self.is_forgotten(now) {
                *self = Self::default();
            }
            self.silent_since = None;
        }
        self.since = self.since.max(generations);
        self.steps += 1;
        if generations >= self.size {
            (self.size, self.since, self.steps) = (generations, 0, 0);
        } else if self.steps >= HELD_STEPS {
            (self.size, self.since, self.steps) = (self.since, 0, 0);
        }
    }

    /// Whoever comes after a long silence is alone.
    fn is_forgotten(&self, now: Duration) -> bool {
        let silence = self.silent_since.map(|since| now.saturating_sub(since));
        silence.is_some_and(|silence| silence > FORGOTTEN)
    }

    /// How many to reckon with, if so many run at the time `now`.
    pub(super) fn size(&self, generations: usize, now: Duration) -> usize {
        let held = if self.is_forgotten(now) { 0 } else { self.size };
        held.max(generations)
    }
}

#[cfg(test)]
mod tests {
    use super::{Crowd, FORGOTTEN, HELD_STEPS};
    use std::time::Duration;

    const NOW: Duration = Duration::from_secs(5);

    fn steps(crowd: &mut Crowd, count: usize, generations: usize) {
        (0..count).for_each(|_| crowd.observe(generations, NOW));
    }

    #[test]
    fn a_moment_alone_does_not_count() {
        let mut crowd = Crowd::default();
        assert_eq!(crowd.size(1, NOW), 1, "the first is alone");
        for _ in 0..5 {
            steps(&mut crowd, 1, 2);
            steps(&mut crowd, HELD_STEPS - 1, 1);
            assert_eq!(crowd.size(1, NOW), 2);
            assert_eq!(crowd.size(3, NOW), 3, "whoever comes counts at once");
        }
        steps(&mut crowd, 1, 1);
        assert_eq!(crowd.size(1, NOW), 1);
    }

    #[test]
    fn a_peak_is_followed_by_the_highest_number_since() {
        let mut crowd = Crowd::default();
        steps(&mut crowd, 1, 3);
        steps(&mut crowd, HELD_STEPS - 1, 2);
        steps(&mut crowd, 1, 1);
        assert_eq!(crowd.size(1, NOW), 2, "two ran a step before");
    }

    #[test]
    fn after_a_silence_the_next_is_alone() {
        let mut crowd = Crowd::default();
        steps(&mut crowd, 1, 8);
        steps(&mut crowd, 1, 0);
        assert_eq!(crowd.size(1, NOW + FORGOTTEN), 8);
        let later = NOW + 2 * FORGOTTEN;
        assert_eq!(crowd.size(1, later), 1);
        crowd.observe(1, later);
        assert_eq!(crowd.size(1, later), 1);
    }

    /// A step may take longer than a silence that is forgotten.
    #[test]
    fn slow_steps_are_no_silence() {
        let mut crowd = Crowd::default();
        steps(&mut crowd, 1, 2);
        for step in 1..HELD_STEPS as u32 {
            let now = NOW + step * 2 * FORGOTTEN;
            crowd.observe(1, now);
            assert_eq!(crowd.size(1, now + 2 * FORGOTTEN), 2);
        }
    }
}
