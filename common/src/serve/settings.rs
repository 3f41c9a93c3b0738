//! Values of command-line flags that both services have.

use crate::{Error, Result, kernels::WeightType};
use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

/// A setting that is one of a few words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident($field:literal) { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(Error::InvalidParameter {
                        field: $field,
                        reason: format!("`{text}` is none of {}", [$($word),+].join(", ")),
                    }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }
    };
}

words! {
    /// The type in which a model's matrices are held and multiplied.
    Dtype("dtype") {
        /// As the checkpoint stores them.
        Auto = "auto",
        /// 32 bits.
        F32 = "f32",
        /// The upper half of 32 bits.
        Bf16 = "bf16",
        /// IEEE half precision.
        F16 = "f16",
    }
}

words! {
    /// How log lines look.
    LogFormat("log_format") {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// A part of a service that may be there or not.
    Switch("switch") {
        /// There.
        On = "on",
        /// Not there.
        Off = "off",
    }
}

words! {
    /// Whether a drafter drafts on while its verifier runs.
    WorkAhead("work_ahead") {
        /// Where it is measured to pay, and the verifier runs on another machine.
        Auto = "auto",
        /// Always.
        On = "on",
        /// Never.
        Off = "off",
    }
}

impl Dtype {
    /// What [`crate::model::DecoderOptions::compute`] wants.
    pub fn compute(self) -> Option<WeightType> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(WeightType::F32),
            Self::Bf16 => Some(WeightType::Bf16),
            Self::F16 => Some(WeightType::F16),
        }
    }
}

/// Where probes and metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpListen {
    /// On this address.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

impl FromStr for HttpListen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let address = text.parse().map_err(|_| Error::InvalidParameter {
            field: "http_listen",
            reason: format!("`{text}` is neither ADDRESS:PORT nor off"),
        })?;
        Ok(Self::At(address))
    }
}

/// A number of seconds, such as `25` or `0.5`.
///
/// # Errors
/// If it is none, or negative.
pub fn parse_seconds(text: &str) -> Result<Duration> {
    let seconds = text.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| Error::InvalidParameter {
            field: "seconds",
            reason: format!("`{text}` is no number of seconds, 0 or more"),
        })
}
