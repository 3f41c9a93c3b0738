//! The way a person or a request names a policy.

use super::{Policy, entropy::Entropy, fixed::Fixed};
use crate::{Error, Result};
use std::{fmt, str::FromStr};

/// `off`, `fixed:HEAD:TOKENS` or `entropy:NATS`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PolicySpec {
    /// No drafts: plain decoding.
    Off,
    /// `tokens` tokens, each at the same exit head.
    Fixed {
        /// The exit head, counted from the shallowest (0).
        head: usize,
        /// Tokens in a draft, at least 1.
        tokens: usize,
    },
    /// As long as some exit's entropy is at most `nats`.
    Entropy {
        /// The threshold, in nats.
        nats: f32,
    },
}

impl PolicySpec {
    /// The policy for a model with these exits (layers in rising order), or `None` for [`PolicySpec::Off`].
    ///
    /// # Errors
    /// If there is no such exit head.
    pub fn build(
        &self,
        exits: &[usize],
        max_draft_tokens: usize,
    ) -> Result<Option<Box<dyn Policy>>> {
        match *self {
            Self::Off => Ok(None),
            Self::Entropy { nats } => Ok(Some(Box::new(Entropy {
                nats,
                max_draft_tokens,
            }))),
            Self::Fixed { head, tokens } if head < exits.len() => Ok(Some(Box::new(Fixed {
                head,
                tokens: tokens.min(max_draft_tokens),
            }))),
            Self::Fixed { head, .. } => {
                let count = exits.len();
                Err(invalid(format!(
                    "no exit head {head}; there are {count}, from 0, after layers {exits:?}"
                )))
            }
        }
    }
}

/// A policy's settings where they come apart from its name, as in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PolicySettings {
    /// The exit head of `fixed`, counted from the shallowest; 0 if unset.
    pub exit_head: Option<usize>,
    /// Tokens of a draft of `fixed`; [`DEFAULT_FIXED_TOKENS`] if unset.
    pub tokens: Option<usize>,
    /// The threshold of `entropy`, in nats; it has no default.
    pub entropy_threshold: Option<f32>,
}

/// Tokens of a draft of `fixed` where nobody says.
pub const DEFAULT_FIXED_TOKENS: usize = 4;

impl PolicySpec {
    /// A policy by its bare name and separate settings, or by a full name such as `fixed:0:4`.
    ///
    /// # Errors
    /// If the name is unknown, or a setting is missing or does not belong to it.
    pub fn from_settings(name: &str, settings: PolicySettings) -> Result<Self> {
        let PolicySettings {
            exit_head,
            tokens,
            entropy_threshold,
        } = settings;
        let refuse = |present: bool, setting: &str| match present {
            true => Err(invalid(format!(
                "`{setting}` does not belong to policy `{name}`"
            ))),
            false => Ok(()),
        };
        let spec = match name {
            "fixed" => {
                refuse(entropy_threshold.is_some(), "entropy_threshold")?;
                let tokens = tokens.unwrap_or(DEFAULT_FIXED_TOKENS);
                format!("fixed:{}:{tokens}", exit_head.unwrap_or(0))
            }
            "entropy" => {
                refuse(exit_head.is_some(), "exit_head")?;
                let missing = || {
                    invalid(
                        "`entropy` needs `entropy_threshold`: no calibration is loaded".to_owned(),
                    )
                };
                format!("entropy:{}", entropy_threshold.ok_or_else(missing)?)
            }
            _ => {
                refuse(exit_head.is_some(), "exit_head")?;
                refuse(entropy_threshold.is_some(), "entropy_threshold")?;
                name.to_owned()
            }
        };
        spec.parse()
    }
}

impl FromStr for PolicySpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            invalid(format!(
                "`{text}` is none of off, fixed:HEAD:TOKENS, entropy:NATS"
            ))
        };
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            ["off"] => Ok(Self::Off),
            ["fixed", head, tokens] => {
                let head = head.parse().map_err(|_| unknown())?;
                let tokens: usize = tokens.parse().map_err(|_| unknown())?;
                if tokens == 0 {
                    return Err(invalid(format!(
                        "`{text}` drafts no token; at least 1, or `off`"
                    )));
                }
                Ok(Self::Fixed { head, tokens })
            }
            ["entropy", nats] => {
                let nats: f32 = nats.parse().map_err(|_| unknown())?;
                if !nats.is_finite() || nats < 0.0 {
                    return Err(invalid(format!(
                        "`{text}`: the threshold is a number of nats, 0 or more"
                    )));
                }
                Ok(Self::Entropy { nats })
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => write!(f, "off"),
            Self::Fixed { head, tokens } => write!(f, "fixed:{head}:{tokens}"),
            Self::Entropy { nats } => write!(f, "entropy:{nats}"),
        }
    }
}

fn invalid(reason: String) -> Error {
    Error::InvalidParameter {
        field: "policy",
        reason,
    }
}
