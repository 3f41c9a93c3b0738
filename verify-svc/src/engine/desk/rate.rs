//! How fast room becomes free, as measured while it is scarce.

use std::time::{Duration, Instant};

/// Weight of the newest interval in the running mean.
const NEWEST: f64 = 0.1;
/// Interval before anything was measured, in seconds.
const GUESS: f64 = 1.0;
/// Bounds of what clients are told.
const SHORTEST: f64 = 1.0;
const LONGEST: f64 = 60.0;
/// Share by which the time told is stretched at random, so that those who were refused together
/// do not come back together.
const JITTER: f64 = 0.25;

/// Running mean of the time between two places that become free.
#[derive(Debug, Default)]
pub(super) struct RoomRate {
    seconds: Option<f64>,
    /// Since when somebody wants the next place; none while room is plenty.
    wanted: Option<Instant>,
}

impl RoomRate {
    /// Somebody found no room.
    pub(super) fn wanted(&mut self, now: Instant) {
        self.wanted.get_or_insert(now);
    }

    /// A place became free; `more`: whether others still want one.
    pub(super) fn freed(&mut self, now: Instant, more: bool) {
        if let Some(since) = self.wanted {
            let newest = now.saturating_duration_since(since).as_secs_f64();
            let mean = self.seconds.get_or_insert(newest);
            *mean += NEWEST * (newest - *mean);
        }
        self.wanted = more.then_some(now);
    }

    /// When one behind `ahead` others may try again. `random` is from 0 to 1.
    pub(super) fn delay(&self, ahead: usize, random: f64) -> Duration {
        let expected = self.seconds.unwrap_or(GUESS) * (ahead + 1) as f64;
        let seconds = expected.max(SHORTEST) * (1.0 + JITTER * random);
        Duration::from_secs_f64(seconds.min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rate after places became free at these seconds, with somebody waiting all the time.
    fn after(seconds: &[u64]) -> RoomRate {
        let start = Instant::now();
        let mut rate = RoomRate::default();
        rate.wanted(start);
        for &second in seconds {
            rate.freed(start + Duration::from_secs(second), true);
        }
        rate
    }

    #[test]
    fn the_delay_is_the_time_until_those_ahead_have_places() {
        let rate = after(&[3, 6, 9, 12]);
        assert_eq!(rate.delay(0, 0.0), Duration::from_secs(3));
        assert_eq!(rate.delay(4, 0.0), Duration::from_secs(15));
        assert_eq!(rate.delay(4, 1.0), Duration::from_secs_f64(18.75));
    }

    #[test]
    fn the_delay_is_bounded() {
        assert_eq!(after(&[0, 0, 0]).delay(9, 0.0), Duration::from_secs(1));
        assert_eq!(after(&[50]).delay(9, 1.0), Duration::from_secs(60));
        assert_eq!(
            RoomRate::default().delay(0, 0.0),
            Duration::from_secs(1),
            "a guess"
        );
    }

    #[test]
    fn time_in_which_nobody_wants_room_does_not_count() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut rate = RoomRate::default();
        rate.freed(at(100), false);
        rate.wanted(at(1000));
        rate.wanted(at(1001));
        rate.freed(at(1002), false);
        rate.freed(at(5000), false);
        assert_eq!(rate.delay(0, 0.0), Duration::from_secs(2));
    }
}
