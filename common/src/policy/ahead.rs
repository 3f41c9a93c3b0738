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
/// Rounds without working ahead after which it is tried anew: the first time, and at most. Each
/// try that loses doubles them.
const RETRY: u32 = 64;
const LONGEST_RETRY: u32 = 1024;

/// Running means of what working ahead brought, over all sequences.
#[derive(Clone, Debug)]
pub struct AheadRecord {
    /// Share of rounds whose guess was right.
    right: Option<f64>,
    /// Seconds saved in those.
    saved: Option<f64>,
    /// Seconds that a Commit waited for a step of work ahead.
    delay: Option<f64>,
    /// Delay since the last round was noted.
    delayed: f64,
    /// Rounds worked ahead since the last try began.
    tries: u32,
    /// Rounds without working ahead since the last try ended.
    rests: u32,
    /// How many of those come before the next try.
    retry: u32,
}

impl Default for AheadRecord {
    fn default() -> Self {
        Self {
            right: None,
            saved: None,
            delay: None,
            delayed: 0.0,
            tries: 0,
            rests: 0,
            retry: RETRY,
        }
    }
}

impl AheadRecord {
    /// Whether to work ahead in the round that begins: where that has paid, and now and then to
    /// find out.
    pub fn pays(&mut self) -> bool {
        if self.tries < FIRST_TRIES {
            return true;
        }
        if self.gain() > 0.0 {
            self.retry = RETRY;
            return true;
        }
        self.rests += 1;
        if self.rests >= self.retry {
            self.tries = 0;
            self.rests = 0;
            self.retry = LONGEST_RETRY.min(2 * self.retry);
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
    use super::{AheadRecord, FIRST_TRIES, LONGEST_RETRY, RETRY};

    /// In which of `rounds` rounds there was work ahead, where every fourth guess is right and
    /// saves so much.
    fn worked(rounds: u32, saved: f64, delay: f64) -> Vec<u32> {
        let mut record = AheadRecord::default();
        let worked = (0..rounds).filter(|round| {
            let pays = record.pays();
            if pays {
                record.delayed(delay);
                record.observe((round % 4 == 0).then_some(saved));
            }
            pays
        });
        worked.collect()
    }

    #[test]
    fn work_ahead_goes_on_where_it_gains() {
        assert_eq!(
            worked(1000, 0.010, 0.001).len(),
            1000,
            "2.5 ms against 1 ms"
        );
    }

    #[test]
    fn work_ahead_that_loses_is_tried_ever_more_seldom() {
        // 0.5 ms against 1 ms.
        let worked = worked(10_000, 0.002, 0.001);
        let rests = worked.windows(2).map(|pair| pair[1] - pair[0] - 1);
        let rests: Vec<u32> = rests.filter(|&rest| rest > 0).collect();
        let doubled = [RETRY, 128, 256, 512, LONGEST_RETRY, LONGEST_RETRY];
        assert_eq!(rests[..6], doubled);
        // Only the first try, whose first guess is right, looks well for a while.
        let tries = rests.len() as u32 + 1;
        let worked = worked.len() as u32;
        assert!(worked <= (tries + 1) * FIRST_TRIES, "{worked}: {rests:?}");
    }

    #[test]
    fn a_change_for_the_better_is_found() {
        let mut record = AheadRecord::default();
        for _ in 0..10_000 {
            if record.pays() {
                record.delayed(0.001);
                record.observe(None);
            }
        }
        let mut rounds = 0;
        while record.gain() <= 0.0 {
            if record.pays() {
                record.observe(Some(0.010));
            }
            rounds += 1;
        }
        assert!(rounds <= LONGEST_RETRY + FIRST_TRIES, "{rounds}");
        for _ in 0..20 {
            assert!(record.pays());
            record.observe(Some(0.010));
        }
        while record.pays() {
            record.delayed(0.001);
            record.observe(None);
        }
        let rests = 1 + (0..).take_while(|_| !record.pays()).count();
        assert_eq!(rests as u32, RETRY, "what has gained is soon tried again");
    }
}
