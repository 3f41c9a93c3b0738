//! How a request wants tokens to leave the model early.

use crate::{
    Error, Result,
    served::{Exits, Served},
};
use dssd_common::{exit::ExitRule, policy::DEFAULT_AGREEMENT};
use dssd_proto::v1::{Speculation, SpeculationMode};

impl Served {
    /// The settings of an EARLY_EXIT request with every default filled in.
    pub(super) fn early_exit(&self, asked: Speculation) -> Result<Speculation> {
        let exits = self.exits()?;
        let refuse = |field: &str| {
            let reason = "is for drafts, and EARLY_EXIT has none: leave it out";
            Err(Error::field(format!("speculation.{field}"), reason))
        };
        if !asked.policy.is_empty() {
            return refuse("policy");
        }
        if asked.max_draft_tokens.is_some() {
            return refuse("max_draft_tokens");
        }
        let (target_agreement, entropy_threshold) =
            match (asked.target_agreement, asked.entropy_threshold) {
                (Some(_), Some(_)) => {
                    return Err(Error::field(
                        "speculation.entropy_threshold",
                        "give it or `target_agreement`, not both",
                    ));
                }
                (None, None) => (Some(DEFAULT_AGREEMENT), None),
                given => given,
            };
        if let Some(target) = target_agreement.filter(|target| !(*target > 0.0 && *target < 1.0)) {
            let reason = format!("is {target}; must be above 0 and below 1");
            return Err(Error::field("speculation.target_agreement", reason));
        }
        if let Some(head) = asked.exit_head
            && head as usize >= exits.layers.len()
        {
            let count = exits.layers.len();
            let reason = format!(
                "is {head}; there are {count} exit heads, from 0, after layers {:?}",
                exits.layers
            );
            return Err(Error::field("speculation.exit_head", reason));
        }
        Ok(Speculation {
            mode: SpeculationMode::EarlyExit.into(),
            exit_head: asked.exit_head,
            target_agreement,
            entropy_threshold,
            trace: asked.trace,
            ..Speculation::default()
        })
    }

    /// Where tokens leave the model under resolved settings; `None` for the whole model.
    pub(super) fn exit_rule(&self, speculation: &Speculation) -> Result<Option<ExitRule>> {
        if speculation.mode() != SpeculationMode::EarlyExit {
            return Ok(None);
        }
        let exits = self.exits()?;
        let mut thresholds = match (speculation.target_agreement, &exits.calibration) {
            (None, _) => vec![speculation.entropy_threshold; exits.layers.len()],
            (Some(target), Some(calibration)) => calibration
                .thresholds(as_written(target))
                .map_err(|error| Error::field("speculation.target_agreement", error.to_string()))?,
            (Some(_), None) => {
                return Err(Error::field(
                    "speculation.target_agreement",
                    "needs calibrated exit heads, and this server has none: give `entropy_threshold`",
                ));
            }
        };
        if let Some(only) = speculation.exit_head {
            for (head, threshold) in (0..).zip(&mut thresholds) {
                *threshold = threshold.filter(|_| head == only);
            }
        }
        let rule = ExitRule::new(thresholds);
        rule.map(Some)
            .map_err(|error| Error::field("speculation.entropy_threshold", error.to_string()))
    }

    /// The same for a request to score, which is never drafted.
    pub(super) fn score_rule(&self, asked: Option<Speculation>) -> Result<Option<ExitRule>> {
        let Some(asked) = asked else {
            return Ok(None);
        };
        if asked.mode() != SpeculationMode::EarlyExit {
            let reason = "scoring uses no drafters: it is EARLY_EXIT, or `speculation` is left out";
            return Err(Error::field("speculation.mode", reason));
        }
        if asked.trace {
            let reason = "scoring has no rounds: leave it out";
            return Err(Error::field("speculation.trace", reason));
        }
        self.exit_rule(&self.early_exit(asked)?)
    }

    /// Name of everything that output bits depend on, the exits included.
    pub(super) fn numerics_id(&self, rule: Option<&ExitRule>) -> String {
        let whole = &self.model.numerics_id;
        match (rule, &self.exits) {
            (Some(rule), Some(exits)) => {
                format!("{whole}/early-exit-{}", rule.hash(&exits.hash))
            }
            _ => whole.clone(),
        }
    }

    fn exits(&self) -> Result<&Exits> {
        self.exits.as_ref().ok_or_else(|| {
            Error::field(
                "speculation.mode",
                "EARLY_EXIT is lossy, and this server does not permit it (--allow-lossy)",
            )
        })
    }
}

/// The number that a person wrote, such as 0.6, which single precision holds as 0.60000002.
fn as_written(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
