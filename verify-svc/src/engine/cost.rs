//! What a step costs, as measured: the basis of draft budgets and of the drafter's policy.

/// Rows beyond which costs are extrapolated.
const TRACKED_ROWS: usize = 64;
/// Weight of the newest measurement in the running mean.
const NEWEST: f64 = 0.1;

/// Running mean of the time of a step for each number of rows.
#[derive(Clone, Debug)]
pub(crate) struct StepCost {
    /// `seconds[r]`: a step of `r` rows; NaN until measured.
    seconds: Vec<f64>,
}

impl StepCost {
    pub(crate) fn new() -> Self {
        Self {
            seconds: vec![f64::NAN; TRACKED_ROWS + 1],
        }
    }

    /// Takes note of a step of `rows` rows.
    pub(crate) fn observe(&mut self, rows: usize, seconds: f64) {
        let Some(mean) = self.seconds.get_mut(rows) else {
            return;
        };
        *mean = if mean.is_nan() {
            seconds
        } else {
            *mean + NEWEST * (seconds - *mean)
        };
    }

    /// The expected time of a step of `rows` rows, in seconds; `None` before anything was measured.
    ///
    /// Between measured row counts it is linear, beyond them constant: the weights are read once
    /// whatever the number of rows, so the nearest measurement is the best guess.
    pub(crate) fn expect(&self, rows: usize) -> Option<f64> {
        let known = |r: &usize| !self.seconds[*r].is_nan();
        let rows = rows.min(TRACKED_ROWS);
        let below = (0..=rows).rev().find(known);
        let above = (rows..=TRACKED_ROWS).find(known);
        match (below, above) {
            (Some(a), Some(b)) if a < b => {
                let share = (rows - a) as f64 / (b - a) as f64;
                Some(self.seconds[a] + share * (self.seconds[b] - self.seconds[a]))
            }
            (Some(r), _) | (None, Some(r)) => Some(self.seconds[r]),
            (None, None) => None,
        }
    }

    /// Expected times with 0, 1, … `more` rows on top of `rows`, in whole microseconds.
    pub(crate) fn table_us(&self, rows: usize, more: usize) -> Vec<u64> {
        let times = (0..=more).map_while(|extra| self.expect(rows + extra));
        times.map(|seconds| (seconds * 1e6) as u64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmeasured_row_counts_are_interpolated_and_held() {
        let mut cost = StepCost::new();
        assert_eq!(cost.expect(3), None);
        cost.observe(1, 0.010);
        cost.observe(5, 0.014);
        let near = |rows, wanted: f64| (cost.expect(rows).unwrap() - wanted).abs() < 1e-9;
        assert!(
            near(1, 0.010)
                && near(3, 0.012)
                && near(5, 0.014)
                && near(9, 0.014)
                && near(500, 0.014)
        );
        assert_eq!(
            cost.table_us(1, 4),
            [10_000, 11_000, 12_000, 13_000, 14_000]
        );
    }

    #[test]
    fn the_mean_follows_a_change() {
        let mut cost = StepCost::new();
        (0..100).for_each(|_| cost.observe(1, 0.010));
        (0..100).for_each(|_| cost.observe(1, 0.020));
        assert!((cost.expect(1).unwrap() - 0.020).abs() < 1e-4);
    }
}
