//! Whether drafting on while the verifier runs pays.
//!
//! While a proposal is verified, a drafter can guess that all of it is accepted and which token
//! comes next, and draft on from there. If it guessed right, the next proposal is there, in a
//! part or whole, when it is asked for; if not, the Commit may have waited for a band that
//! nobody needed. The gain of a round is therefore
//!
//! P(all accepted and the guess right) × time saved then − delay of the Commit.

use super::experience::running;

/// Rounds worked ahead before the gain is believed.
const FIRST_TRIES: u32 = 8;
/// Rounds without working ahead after which it is tried anew.
const RETRY: u32 = 64;

/// Running means of what working ahead brought, over all sequences.
#[derive(Clone, Debug, Default)]
pub struct AheadRecord {
    /// Share of rounds whose guess was right.
    right: Option<f64>,
    /// Seconds saved in those.
    saved: Option<f64>,
    /// Seconds that a Commit waited for a step of work ahead.
    delay: Option<f64>,
    /// Delay since the last round was noted.
    delayed: f64,
    tries: u32,
    rounds_since: u32,
}

impl AheadRecord {
    /// Whether to work ahead in the round that begins: where that has paid, and now and then to
    /// find out.
    pub fn pays(&mut self) -> bool {
        if self.tries < FIRST_TRIES || self.gain() > 0.0 {
            self.rounds_since = 0;
            return true;
        }
        self.rounds_since += 1;
        if self.rounds_since >= RETRY {
            self.tries = 0;
            self.rounds_since = 0;
        }
        false
    }

    /// Expected gain of a round, in seconds; 0 before the first.
    pub fn gain(&self) -> f64 {
        let known = |mean: Option<f64>| mean.unwrap_or(0.0);
        known(self.right) * known(self.saved) - known(self.delay)
    }

    /// A message of a verifier waited so many seconds for a step of work ahead.
    pub fn delayed(&mut self, seconds: f64) {
        self.delayed += seconds;
    }

    /// Takes note of a round that was worked ahead. `saved`: the seconds that the next draft was
    /// shorter, if the guess was right.
    pub fn observe(&mut self, saved: Option<f64>) {
        self.tries = self.tries.saturating_add(1);
        let right = f64::from(u8::from(saved.is_some()));
        self.right = Some(running(self.right, right));
        if let Some(saved) = saved {
            self.saved = Some(running(self.saved, saved));
        }
        let delayed = std::mem::take(&mut self.delayed);
        self.delay = Some(running(self.delay, delayed));
    }
}

#[cfg(test)]
mod tests {
    use super::{AheadRecord, FIRST_TRIES, RETRY};

    /// Rounds worked ahead, of `rounds`, where every fourth guess is right and saves so much.
    fn worked(rounds: u32, saved: f64, delay: f64) -> u32 {
        let mut record = AheadRecord::default();
        let mut worked = 0;
        for round in 0..rounds {
            if record.pays() {
                worked += 1;
                record.delayed(delay);
                record.observe((round % 4 == 0).then_some(saved));
            }
        }
        worked
    }

    #[test]
    fn work_ahead_goes_on_where_it_gains_and_is_only_tried_where_it_loses() {
        assert_eq!(worked(1000, 0.010, 0.001), 1000, "2.5 ms against 1 ms");
        let tried = worked(1000, 0.002, 0.001);
        let episodes = 1000 / RETRY;
        assert!(tried >= FIRST_TRIES, "{tried}");
        // A try may look well for a while: the mean of a fourth wavers.
        assert!(
            tried <= 3 * FIRST_TRIES * episodes,
            "{tried}: 0.5 ms against 1 ms"
        );
    }

    #[test]
    fn a_change_for_the_better_is_found() {
        let mut record = AheadRecord::default();
        while record.pays() {
            record.delayed(0.001);
            record.observe(None);
        }
        let mut rounds = 0;
        while record.gain() <= 0.0 {
            if record.pays() {
                record.observe(Some(0.010));
            }
            rounds += 1;
        }
        assert!(rounds <= RETRY + FIRST_TRIES, "{rounds}");
    }
}
