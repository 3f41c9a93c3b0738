//! What a GPU is hoped to reach, beside what it was measured to.

use crate::bench::{decode::ROWS, device::Timings};
use dssd_common::kernels::{Effort, entropy_name};
use serde::Serialize;
use std::fmt;

/// The rate of the entropy operation on many rows, to that of reading.
const ENTROPY_OF_READING: f64 = 0.85;
/// Microseconds of the entropy operation on one row.
const ENTROPY_OF_A_ROW: f64 = 10.0;
/// Time that reading the weights would take, to that of a step of one sequence.
const DECODE_OF_READING: f64 = 0.6;
/// A pass of [`ROWS`] rows to one of a single row.
const RATIO_OF_ROWS: f64 = 1.1;

/// One figure; it is no failure to miss it.
#[derive(Debug, Serialize)]
pub(super) struct Bar {
    name: String,
    /// Null if it could not be taken.
    measured: f64,
    #[serde(flatten)]
    wanted: Wanted,
    met: bool,
}

/// The key is `at_least` or `at_most`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    fn new(name: impl Into<String>, measured: f64, wanted: Wanted) -> Self {
        Self {
            name: name.into(),
            measured,
            wanted,
            met: match wanted {
                Wanted::AtLeast(bar) => measured >= bar,
                Wanted::AtMost(bar) => measured <= bar,
            },
        }
    }
}

/// All bars, of timings with [`Effort::FULL`]; `share`: time that reading the weights would take, to that of a step of
/// one sequence; `ratio`: a pass of [`ROWS`] rows to one of a single row.
pub(super) fn bars(timings: &Timings, share: f64, ratio: f64) -> Vec<Bar> {
    let rows = Effort::FULL.rows;
    let many = timings.of_read_bandwidth(&entropy_name(rows));
    let one = timings.microseconds(&entropy_name(1));
    vec![
        Bar::new(
            format!("entropy of {rows} rows, to reading"),
            many,
            Wanted::AtLeast(ENTROPY_OF_READING),
        ),
        Bar::new(
            "entropy of 1 row, microseconds",
            one,
            Wanted::AtMost(ENTROPY_OF_A_ROW),
        ),
        Bar::new(
            "decoding of 1 sequence, to reading the weights",
            share,
            Wanted::AtLeast(DECODE_OF_READING),
        ),
        Bar::new(
            format!("a pass of {ROWS} rows, to one of 1 row"),
            ratio,
            Wanted::AtMost(RATIO_OF_ROWS),
        ),
    ]
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, bar) = match self.wanted {
            Wanted::AtLeast(bar) => ("at least", bar),
            Wanted::AtMost(bar) => ("at most", bar),
        };
        let verdict = if self.met { "met" } else { "MISSED" };
        writeln!(
            f,
            "{:52} {:8.2}  {limit} {bar:.2}: {verdict}",
            self.name, self.measured
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dssd_common::kernels::{READ_ONLY, Timing};

    /// Of reading at 1,000 GB/s, and entropy kernels that take so many seconds.
    fn timings(many: f64, one: f64) -> Timings {
        let timing = |name: String, bytes: usize, seconds: f64| Timing {
            name,
            bytes,
            seconds,
        };
        let all = [
            timing(READ_ONLY.to_owned(), 100_000_000, 1e-4),
            timing("entropy, 1024 rows".to_owned(), 100_000_000, many),
            timing("entropy, 1 row".to_owned(), 100_608, one),
        ];
        Vec::from(all).into()
    }

    fn met(bars: &[Bar]) -> Vec<bool> {
        bars.iter().map(|bar| bar.met).collect()
    }

    #[test]
    fn each_bar_is_met_or_missed_by_its_own_figure() {
        let fast = timings(1e-4 / 0.86, 9.9e-6);
        let slow = timings(1e-4 / 0.84, 10.1e-6);
        assert_eq!(met(&bars(&fast, 0.61, 1.09)), [true; 4]);
        assert_eq!(met(&bars(&slow, 0.59, 1.11)), [false; 4]);
        assert_eq!(met(&bars(&slow, 0.61, 1.11)), [false, false, true, false]);
    }

    #[test]
    fn what_was_not_measured_meets_nothing() {
        let found = bars(&Timings::default(), f64::NAN, f64::NAN);
        assert_eq!(met(&found), [false; 4]);
        let told = serde_json::to_value(&found[0]).unwrap();
        assert!(
            told["measured"].is_null() && told["at_least"] == 0.85,
            "{told}"
        );
    }

    #[test]
    fn a_missed_bar_is_told_as_such() {
        let told = bars(&timings(2e-4, 5e-6), 0.7, 1.0);
        assert!(
            told[0]
                .to_string()
                .ends_with("0.50  at least 0.85: MISSED\n"),
            "{}",
            told[0]
        );
        assert!(
            told[1].to_string().ends_with("5.00  at most 10.00: met\n"),
            "{}",
            told[1]
        );
    }
}
