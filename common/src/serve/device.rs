//! Which device a service computes on.

use crate::{Error, Result, kernels::Gpu, model::Device};
use std::{fmt, str::FromStr, sync::Arc};

/// The name of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    #[default]
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl DeviceName {
    /// The device itself.
    ///
    /// # Errors
    /// If it is not there, or cannot be used.
    pub fn open(self) -> Result<Device> {
        Ok(match self {
            Self::Cpu => Device::Cpu,
            Self::Cuda(ordinal) => Device::Cuda(Arc::new(Gpu::open(ordinal)?)),
        })
    }
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ordinal = match text.split_once(':') {
            None if text == "cpu" => return Ok(Self::Cpu),
            None => (text == "cuda").then_some(0),
            Some((kind, number)) => number.parse().ok().filter(|_| kind == "cuda"),
        };
        let wrong = || Error::InvalidParameter {
            field: "device",
            reason: format!("`{text}` is neither cpu nor cuda nor cuda:N, N from 0"),
        };
        ordinal.map(Self::Cuda).ok_or_else(wrong)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DeviceName;

    #[test]
    fn names_of_devices() {
        let parsed = |text: &str| text.parse::<DeviceName>().ok();
        assert_eq!(parsed("cpu"), Some(DeviceName::Cpu));
        assert_eq!(parsed("cuda"), Some(DeviceName::Cuda(0)));
        assert_eq!(parsed("cuda:3"), Some(DeviceName::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cpu:0", "cuda:1:2", "CUDA"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
        assert_eq!(
            parsed(&DeviceName::Cuda(1).to_string()),
            Some(DeviceName::Cuda(1))
        );
    }
}
