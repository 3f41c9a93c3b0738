//! What kernels of a GPU take.

use dssd_common::kernels::{READ_ONLY, Timing};
use serde::Serialize;
use std::fmt;

/// What each kernel takes.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Timings(Vec<Timed>);

/// One kernel.
#[derive(Serialize)]
struct Timed {
    name: String,
    microseconds: f64,
    /// Bytes that it must read, in 10⁹ a second.
    gigabytes_per_second: f64,
    /// The same to a kernel that only reads.
    of_read_bandwidth: f64,
}

impl From<Vec<Timing>> for Timings {
    fn from(timings: Vec<Timing>) -> Self {
        let rate = |timing: &Timing| timing.bytes as f64 / timing.seconds.max(1e-12);
        let read_only = timings.iter().find(|timing| timing.name == READ_ONLY);
        let read_bandwidth = read_only.map_or(f64::NAN, rate);
        let timed = |timing: Timing| Timed {
            microseconds: 1e6 * timing.seconds,
            gigabytes_per_second: rate(&timing) / 1e9,
            of_read_bandwidth: rate(&timing) / read_bandwidth,
            name: timing.name,
        };
        Self(timings.into_iter().map(timed).collect())
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "kernel                                          us      GB/s  of reading"
        )?;
        for timed in &self.0 {
            let Timed {
                name,
                microseconds,
                gigabytes_per_second,
                of_read_bandwidth,
            } = timed;
            writeln!(
                f,
                "{name:42} {microseconds:8.2} {gigabytes_per_second:9.1} {of_read_bandwidth:11.2}"
            )?;
        }
        Ok(())
    }
}
