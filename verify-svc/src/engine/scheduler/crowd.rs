//! How many generations run, without the moments between two of them.

/// Steps for which a number that was higher still counts.
const HELD_STEPS: usize = 32;

/// The most generations of the latest steps.
///
/// A client that asks again at once leaves the others alone for a moment. If that moment counted, each
/// of them would open a stream to a drafter for which there is no room any more before it is ready.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    size: usize,
    /// Steps since there were as many.
    steps: usize,
}

impl Crowd {
    /// A step with so many generations.
    pub(super) fn observe(&mut self, generations: usize) {
        self.steps += 1;
        if generations >= self.size || self.steps >= HELD_STEPS {
            *self = Self {
                size: generations,
                steps: 0,
            };
        }
    }

    /// How many to reckon with, if so many run now.
    pub(super) fn size(&self, generations: usize) -> usize {
        self.size.max(generations)
    }
}

#[cfg(test)]
mod tests {
    use super::{Crowd, HELD_STEPS};

    #[test]
    fn a_moment_alone_does_not_count() {
        let mut crowd = Crowd::default();
        assert_eq!(crowd.size(1), 1, "the first is alone");
        for _ in 0..5 {
            crowd.observe(2);
            (1..HELD_STEPS).for_each(|_| crowd.observe(1));
            assert_eq!(crowd.size(1), 2);
            assert_eq!(crowd.size(3), 3, "whoever comes counts at once");
        }
        crowd.observe(1);
        assert_eq!(crowd.size(1), 1);
    }
}
