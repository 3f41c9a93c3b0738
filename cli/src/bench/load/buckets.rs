//! A histogram of a server's metrics.

use serde::Serialize;
use std::ops::{AddAssign, Sub};

/// How many observations were at most so large: upper bounds in rising order, each with the count of
/// everything below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Buckets(Vec<(f64, u64)>);

/// Bounds below which these parts of the observations are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Within {
    pub(super) count: u64,
    /// Null where there is no such bound.
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
}

impl Buckets {
    /// Those of the series `name`, which has no label but `le` that tells two of them apart.
    pub(super) fn of(name: &str, text: &str) -> Self {
        let bucket = |line: &str| {
            let labels = line.strip_prefix(name)?.strip_prefix("_bucket{")?;
            let (labels, value) = labels.split_once('}')?;
            let (_, bound) = labels.split_once("le=\"")?;
            let bound = bound.split('"').next()?.parse().ok()?;
            let count: f64 = value.trim_start().split(' ').next()?.parse().ok()?;
            Some((bound, count as u64))
        };
        Self(text.lines().filter_map(bucket).collect())
    }

    /// What is known of the quantiles; nothing without observations.
    pub(super) fn within(&self) -> Option<Within> {
        let &(_, count) = self.0.last().filter(|(_, count)| *count > 0)?;
        let bound = |part: f64| {
            let least = (part * count as f64).ceil() as u64;
            let found = self.0.iter().find(|(_, below)| *below >= least);
            found.map(|(bound, _)| *bound).filter(|b| b.is_finite())
        };
        Some(Within {
            count,
            p50: bound(0.5),
            p90: bound(0.9),
            p99: bound(0.99),
        })
    }
}

impl AddAssign for Buckets {
    /// Of another server; all have the same bounds.
    fn add_assign(&mut self, other: Self) {
        if self.0.is_empty() {
            *self = other;
            return;
        }
        for ((_, sum), (_, count)) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }
}

impl Sub for &Buckets {
    type Output = Buckets;

    /// What came since `before`, which is empty or has the same bounds.
    fn sub(self, before: Self) -> Buckets {
        let earlier = before.0.iter().map(|(_, count)| *count);
        let earlier = earlier.chain(std::iter::repeat(0));
        let both = self.0.iter().zip(earlier);
        Buckets(
            both.map(|(&(bound, now), then)| (bound, now.saturating_sub(then)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Buckets, Within};

    const TEXT: &str = "\
# TYPE wait histogram
wait_sum{model_name=\"demo\"} 12.5
wait_count{model_name=\"demo\"} 200
wait_bucket{model_name=\"demo\",le=\"0.001\"} 110
wait_bucket{model_name=\"demo\",le=\"0.01\"} 197 1520879607.789
wait_bucket{model_name=\"demo\",le=\"+Inf\"} 200
wait_longer_bucket{le=\"0.001\"} 9
";

    fn wait(text: &str) -> Buckets {
        Buckets::of("wait", text)
    }

    #[test]
    fn quantiles_are_below_the_bounds_of_their_buckets() {
        let within = wait(TEXT).within().unwrap();
        let expected = Within {
            count: 200,
            p50: Some(0.001),
            p90: Some(0.01),
            p99: None,
        };
        assert_eq!(within, expected, "three of 200 are beyond all bounds");
        assert_eq!(wait("# EOF").within(), None);
    }

    #[test]
    fn servers_add_up_and_what_was_before_is_left_out() {
        let mut both = Buckets::default();
        both += wait(TEXT);
        both += wait(TEXT);
        assert_eq!(both.within().unwrap().count, 400);
        assert_eq!(&both - &wait(TEXT), wait(TEXT));
        assert_eq!((&both - &both).within(), None);
        assert_eq!(&both - &Buckets::default(), both);
    }
}
