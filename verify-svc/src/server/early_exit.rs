//! How a request wants tokens to leave the model early.

use crate::{
    Error, Result,
    served::{Exits, Served},
};
use dssd_common::{
    exit::ExitRule,
    policy::{PolicySettings, PolicySpec},
};
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
        let spec = self.threshold(&asked)?;
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
            target_agreement: spec.target_agreement().map(|target| target as f32),
            entropy_threshold: asked.entropy_threshold,
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
        let spec = self.threshold(speculation)?;
        let rule = spec.exit_rule(exits.layers.len(), exits.calibration.as_ref());
        let rule = rule.map_err(|error| unfit(speculation, &error))?;
        let kept = |head: usize| {
            speculation
                .exit_head
                .is_none_or(|only| head == only as usize)
        };
        let thresholds: Vec<Option<f32>> = (0..)
            .zip(rule.thresholds())
            .map(|(head, nats)| nats.filter(|_| kept(head)))
            .collect();
        if thresholds.iter().all(Option::is_none) {
            let (field, reason) = match speculation.exit_head {
                Some(head) => (
                    "speculation.exit_head",
                    format!("{head} is off at this agreement"),
                ),
                None => (
                    "speculation.target_agreement",
                    "no head of this server agrees that often".to_owned(),
                ),
            };
            return Err(Error::field(field, reason));
        }
        Ok(Some(ExitRule::new(thresholds)?))
    }

    /// Which entropies are confident, by nats or by agreement.
    fn threshold(&self, asked: &Speculation) -> Result<PolicySpec> {
        let settings = PolicySettings {
            entropy_threshold: asked.entropy_threshold,
            target_agreement: asked.target_agreement,
            ..PolicySettings::default()
        };
        PolicySpec::requested("entropy", settings, self.default_policy)
            .map_err(|error| unfit(asked, &error))
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

/// Blames the field that says how confident an exit must be.
fn unfit(asked: &Speculation, error: &dssd_common::Error) -> Error {
    let field = match asked.entropy_threshold {
        Some(_) => "speculation.entropy_threshold",
        None => "speculation.target_agreement",
    };
    Error::field(field, error.to_string())
}
