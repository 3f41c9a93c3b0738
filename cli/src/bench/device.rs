//! What computes, how fast its memory is, and what kernels of a GPU take.

use super::bandwidth::read_bandwidth;
use dssd_common::{
    kernels::{Effort, Gpu, Kernels, READ_ONLY, Timing},
    model::Device,
};
use serde::Serialize;
use std::fmt;

/// What computes: the key is `threads` or `gpu`.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Computer {
    /// So many threads of the processor.
    Threads(usize),
    /// A GPU by its name.
    Gpu(String),
}

impl Computer {
    /// Where passes run: `kernels` are those of the processor.
    pub(super) fn new(device: &Device, kernels: &Kernels) -> Self {
        match device {
            Device::Cpu => Self::Threads(kernels.threads()),
            Device::Cuda(gpu) => Self::Gpu(gpu.name().to_owned()),
        }
    }
}

impl fmt::Display for Computer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threads(threads) => write!(f, "{threads} threads"),
            Self::Gpu(name) => f.write_str(name),
        }
    }
}

/// How fast the memory is that passes read, in bytes per second.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Memory {
    pub(crate) read_bandwidth: f64,
    /// Bytes read; as many are written. Known of GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) copy_bandwidth: Option<f64>,
}

impl Memory {
    /// That of the processor, read by all threads of its kernels.
    pub(super) fn of_cpu(kernels: &Kernels) -> Self {
        Self {
            read_bandwidth: read_bandwidth(kernels),
            copy_bandwidth: None,
        }
    }

    /// That of a GPU, by so many launches.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn of_gpu(gpu: &Gpu, launches: usize) -> anyhow::Result<Self> {
        let effort = Effort {
            launches,
            ..Effort::FULL
        };
        let [read, copy] = gpu.measure_memory(effort)?;
        Ok(Self {
            read_bandwidth: read.rate(),
            copy_bandwidth: Some(copy.rate()),
        })
    }
}

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

impl Timings {
    fn find(&self, name: &str) -> Option<&Timed> {
        self.0.iter().find(|timed| timed.name == name)
    }

    /// What a kernel took; NaN of one that was not measured.
    pub(crate) fn microseconds(&self, name: &str) -> f64 {
        self.find(name).map_or(f64::NAN, |timed| timed.microseconds)
    }

    /// Its rate to that of reading; NaN of one that was not measured.
    pub(crate) fn of_read_bandwidth(&self, name: &str) -> f64 {
        self.find(name)
            .map_or(f64::NAN, |timed| timed.of_read_bandwidth)
    }

    /// How fast reading was.
    pub(crate) fn memory(&self) -> Memory {
        let read = self.find(READ_ONLY);
        Memory {
            read_bandwidth: read.map_or(f64::NAN, |timed| 1e9 * timed.gigabytes_per_second),
            copy_bandwidth: None,
        }
    }
}

impl From<Vec<Timing>> for Timings {
    fn from(timings: Vec<Timing>) -> Self {
        let read_only = timings.iter().find(|timing| timing.name == READ_ONLY);
        let read_bandwidth = read_only.map_or(f64::NAN, Timing::rate);
        let timed = |timing: Timing| Timed {
            microseconds: 1e6 * timing.seconds,
            gigabytes_per_second: timing.rate() / 1e9,
            of_read_bandwidth: timing.rate() / read_bandwidth,
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
