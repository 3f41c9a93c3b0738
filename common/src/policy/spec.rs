//! The way a person or a request names a policy.

use super::{
    Policy, Setting,
    adaedl::AdaEdl,
    auto::Auto,
    confidence::{Failing, MaxProbability},
    del::Del,
    entropy::Entropy,
    fixed::Fixed,
    product::Product,
};
use crate::{
    Error, Result,
    exit::{Calibration, ExitRule},
};
use std::{fmt, str::FromStr};

/// The names of all policies, for messages.
const NAMES: &str = "auto, off, fixed:HEAD:TOKENS, entropy:NATS, entropy@AGREEMENT, \
                     max-prob:HEAD:PROBABILITY[:keep], adaedl:HEAD[:keep], \
                     product:HEAD:PROBABILITY, del";

/// A policy with its settings. Heads count from the shallowest (0).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PolicySpec {
    /// No drafts: plain decoding.
    Off,
    /// Whatever brings most tokens per second.
    Auto,
    /// `tokens` tokens, each at the same exit head.
    Fixed {
        /// The exit head.
        head: usize,
        /// Tokens in a draft, at least 1.
        tokens: usize,
    },
    /// As long as some exit's entropy is at most `nats`.
    Entropy {
        /// The threshold, in nats.
        nats: f32,
    },
    /// As long as some exit's entropy is at most its calibrated threshold (DSSD).
    Agreement {
        /// The target agreement, above 0 and below 1.
        epsilon: f64,
    },
    /// As long as one exit's maximum probability is high enough.
    MaxProbability {
        /// The exit head.
        head: usize,
        /// The least probability.
        least: f32,
        /// Whether the failing token is drafted as the last one.
        keep: bool,
    },
    /// AdaEDL.
    AdaEdl {
        /// The exit head.
        head: usize,
        /// Whether the failing token is drafted as the last one.
        keep: bool,
    },
    /// As long as the whole draft is likely enough to be right.
    Product {
        /// The exit head.
        head: usize,
        /// The least probability.
        least: f64,
    },
    /// The head and the length that promise most, chosen anew for every draft.
    Del,
}

impl PolicySpec {
    /// The policy for a model, or `None` for [`PolicySpec::Off`].
    ///
    /// # Errors
    /// If there is no such exit head, or a calibration is needed and there is none.
    pub fn build(&self, setting: Setting<'_>) -> Result<Option<Box<dyn Policy>>> {
        let Setting {
            exits,
            max_draft_tokens,
            calibration,
            temperature,
        } = setting;
        if let Some(head) = self.head().filter(|&head| head >= exits.len()) {
            let count = exits.len();
            return Err(invalid(format!(
                "no exit head {head}; there are {count}, from 0, after layers {exits:?}"
            )));
        }
        let failing = |keep| {
            if keep {
                Failing::Kept
            } else {
                Failing::Dropped
            }
        };
        Ok(Some(match *self {
            Self::Off => return Ok(None),
            Self::Auto => Box::new(Auto::new(exits.len(), temperature, max_draft_tokens)),
            Self::Fixed { head, tokens } => Box::new(Fixed {
                head,
                tokens: tokens.min(max_draft_tokens),
            }),
            Self::Entropy { .. } | Self::Agreement { .. } => Box::new(Entropy {
                rule: self.exit_rule(exits.len(), calibration)?,
                max_draft_tokens,
            }),
            Self::MaxProbability { head, least, keep } => Box::new(MaxProbability {
                head,
                least,
                failing: failing(keep),
                max_draft_tokens,
            }),
            Self::AdaEdl { head, keep } => {
                Box::new(AdaEdl::new(head, failing(keep), max_draft_tokens))
            }
            Self::Product { head, least } => {
                self.calibrated(calibration)?;
                Box::new(Product {
                    head,
                    least,
                    max_draft_tokens,
                    temperature,
                    product: 1.0,
                })
            }
            Self::Del => Box::new(Del::new(exits.len(), max_draft_tokens)),
        }))
    }

    /// The target agreement that it has, if it is one of those that have one.
    pub fn target_agreement(&self) -> Option<f64> {
        match *self {
            Self::Agreement { epsilon } => Some(epsilon),
            _ => None,
        }
    }

    /// The thresholds of `entropy`, for so many heads.
    ///
    /// # Errors
    /// If a calibration is needed and there is none, or the policy is another one.
    pub fn exit_rule(&self, heads: usize, calibration: Option<&Calibration>) -> Result<ExitRule> {
        match *self {
            Self::Entropy { nats } => ExitRule::new(vec![Some(nats); heads]),
            Self::Agreement { epsilon } => {
                ExitRule::new(self.calibrated(calibration)?.thresholds(epsilon)?)
            }
            _ => Err(invalid(format!("`{self}` has no thresholds of entropy"))),
        }
    }

    fn calibrated<'a>(&self, calibration: Option<&'a Calibration>) -> Result<&'a Calibration> {
        calibration.ok_or_else(|| {
            invalid(format!(
                "`{self}` needs calibrated exit heads, and none are loaded"
            ))
        })
    }

    /// The one exit head that it names, if it names one.
    fn head(&self) -> Option<usize> {
        match *self {
            Self::Fixed { head, .. }
            | Self::MaxProbability { head, .. }
            | Self::AdaEdl { head, .. }
            | Self::Product { head, .. } => Some(head),
            Self::Off | Self::Auto | Self::Entropy { .. } | Self::Agreement { .. } | Self::Del => {
                None
            }
        }
    }
}

/// A policy's settings where they come apart from its name, as in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PolicySettings {
    /// The exit head of `fixed` and `adaedl`, counted from the shallowest; 0 if unset.
    pub exit_head: Option<usize>,
    /// Tokens of a draft of `fixed`; [`DEFAULT_FIXED_TOKENS`] if unset.
    pub tokens: Option<usize>,
    /// The threshold of `entropy`, in nats.
    pub entropy_threshold: Option<f32>,
    /// The target agreement of `entropy`, where no threshold is given.
    pub target_agreement: Option<f32>,
}

/// Tokens of a draft of `fixed` where nobody says.
pub const DEFAULT_FIXED_TOKENS: usize = 4;

/// Target agreement of `entropy`, and of early exits, where nobody says.
const DEFAULT_AGREEMENT: f32 = 0.9;

impl PolicySpec {
    /// The policy of a request where `default` is the server's. Without a name it is `entropy` if
    /// a setting of that is given, else `default`; `entropy` alone takes the target agreement of
    /// `default`, if that has one.
    ///
    /// # Errors
    /// As [`PolicySpec::from_settings`].
    pub fn requested(name: &str, settings: PolicySettings, default: Self) -> Result<Self> {
        let confident = settings.entropy_threshold.is_some() || settings.target_agreement.is_some();
        let default_name = default.to_string();
        let name = match name {
            "" if confident => "entropy",
            "" => &default_name,
            name => name,
        };
        let target = default
            .target_agreement()
            .filter(|_| name == "entropy" && !confident);
        let target = target.map(|target| target as f32);
        let target_agreement = settings.target_agreement.or(target);
        let settings = PolicySettings {
            target_agreement,
            ..settings
        };
        Self::from_settings(name, settings)
    }

    /// A policy by its bare name and separate settings, or by a full name such as `fixed:0:4`.
    ///
    /// # Errors
    /// If the name is unknown, or a setting does not belong to it.
    pub fn from_settings(name: &str, settings: PolicySettings) -> Result<Self> {
        let PolicySettings {
            exit_head,
            tokens,
            entropy_threshold,
            target_agreement,
        } = settings;
        let head = exit_head.unwrap_or(0);
        let spec = match (name, entropy_threshold, target_agreement) {
            ("fixed", ..) => format!("fixed:{head}:{}", tokens.unwrap_or(DEFAULT_FIXED_TOKENS)),
            ("adaedl", ..) => format!("adaedl:{head}"),
            ("entropy", Some(_), Some(_)) => {
                return Err(invalid(
                    "`entropy` takes `entropy_threshold` or `target_agreement`, not both"
                        .to_owned(),
                ));
            }
            ("entropy", Some(nats), None) => format!("entropy:{nats}"),
            ("entropy", None, target) => {
                format!("entropy@{}", target.unwrap_or(DEFAULT_AGREEMENT))
            }
            _ => name.to_owned(),
        };
        let strangers = [
            ("exit_head", exit_head.is_some(), &["fixed", "adaedl"][..]),
            (
                "entropy_threshold",
                entropy_threshold.is_some(),
                &["entropy"],
            ),
            ("target_agreement", target_agreement.is_some(), &["entropy"]),
        ];
        for (setting, given, owners) in strangers {
            if given && !owners.contains(&name) {
                return Err(invalid(format!(
                    "`{setting}` does not belong to policy `{name}`"
                )));
            }
        }
        spec.parse()
    }
}

impl FromStr for PolicySpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || invalid(format!("`{text}` is none of {NAMES}"));
        let number = |part: &str| part.parse::<usize>().map_err(|_| unknown());
        let real = |part: &str| part.parse::<f64>().map_err(|_| unknown());
        let probability = |part: &str| match real(part)? {
            value if value > 0.0 && value < 1.0 => Ok(value),
            _ => Err(invalid(format!(
                "`{text}`: {part} must be above 0 and below 1"
            ))),
        };
        if let Some(target) = text.strip_prefix("entropy@") {
            return Ok(Self::Agreement {
                epsilon: probability(target)?,
            });
        }
        let (text_parts, keep) = match text.strip_suffix(":keep") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let parts: Vec<&str> = text_parts.split(':').collect();
        match (parts.as_slice(), keep) {
            (["off"], false) => Ok(Self::Off),
            (["auto"], false) => Ok(Self::Auto),
            (["del"], false) => Ok(Self::Del),
            (["fixed", head, tokens], false) => match (number(head)?, number(tokens)?) {
                (_, 0) => Err(invalid(format!(
                    "`{text}` drafts no token; at least 1, or `off`"
                ))),
                (head, tokens) => Ok(Self::Fixed { head, tokens }),
            },
            (["entropy", nats], false) => match real(nats)? as f32 {
                nats if nats.is_finite() && nats >= 0.0 => Ok(Self::Entropy { nats }),
                _ => Err(invalid(format!(
                    "`{text}`: the threshold is a number of nats, 0 or more"
                ))),
            },
            (["max-prob", head, least], keep) => Ok(Self::MaxProbability {
                head: number(head)?,
                least: probability(least)? as f32,
                keep,
            }),
            (["adaedl", head], keep) => Ok(Self::AdaEdl {
                head: number(head)?,
                keep,
            }),
            (["product", head, least], false) => Ok(Self::Product {
                head: number(head)?,
                least: probability(least)?,
            }),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = |keep: bool| if keep { ":keep" } else { "" };
        match *self {
            Self::Off => write!(f, "off"),
            Self::Auto => write!(f, "auto"),
            Self::Fixed { head, tokens } => write!(f, "fixed:{head}:{tokens}"),
            Self::Entropy { nats } => write!(f, "entropy:{nats}"),
            Self::Agreement { epsilon } => write!(f, "entropy@{epsilon}"),
            Self::MaxProbability { head, least, keep } => {
                write!(f, "max-prob:{head}:{least}{}", kept(keep))
            }
            Self::AdaEdl { head, keep } => write!(f, "adaedl:{head}{}", kept(keep)),
            Self::Product { head, least } => write!(f, "product:{head}:{least}"),
            Self::Del => write!(f, "del"),
        }
    }
}

fn invalid(reason: String) -> Error {
    Error::InvalidParameter {
        field: "policy",
        reason,
    }
}
