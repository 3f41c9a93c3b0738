//! How a request wants to be drafted.

use crate::{Error, Result, served::Served};
use dssd_common::policy::{PolicySettings, PolicySpec};
use dssd_proto::v1::{Speculation, SpeculationMode};

impl Served {
    /// The settings with every default filled in; its mode is AUTO, OFF or EARLY_EXIT.
    pub(super) fn speculation(&self, asked: Option<Speculation>) -> Result<Speculation> {
        let asked = asked.unwrap_or_default();
        if asked.mode() == SpeculationMode::EarlyExit {
            return self.early_exit(asked);
        }
        let most = self.limits.max_draft_tokens;
        let longest = asked.max_draft_tokens.unwrap_or(most);
        if longest > most {
            return Err(Error::field(
                "speculation.max_draft_tokens",
                format!("is {longest}; must be 0 to {most}"),
            ));
        }
        let policy = self.policy(&asked)?;
        let off = !wants_drafts(asked.mode)? || policy == PolicySpec::Off || longest == 0;
        let (mode, policy) = match off {
            true => (SpeculationMode::Off, PolicySpec::Off),
            false => (SpeculationMode::Auto, policy),
        };
        Ok(Speculation {
            mode: mode.into(),
            policy: policy.to_string(),
            max_draft_tokens: Some(if off { 0 } else { longest }),
            trace: asked.trace,
            ..Speculation::default()
        })
    }

    fn policy(&self, asked: &Speculation) -> Result<PolicySpec> {
        let settings = PolicySettings {
            exit_head: asked.exit_head.map(|head| head as usize),
            tokens: asked
                .max_draft_tokens
                .filter(|&tokens| tokens > 0)
                .map(|tokens| tokens as usize),
            entropy_threshold: asked.entropy_threshold,
            target_agreement: asked.target_agreement,
        };
        PolicySpec::requested(&asked.policy, settings, self.default_policy)
            .map_err(|error| Error::field("speculation.policy", error.to_string()))
    }
}

fn wants_drafts(mode: i32) -> Result<bool> {
    match SpeculationMode::try_from(mode) {
        Ok(SpeculationMode::Unspecified | SpeculationMode::Auto) => Ok(true),
        Ok(SpeculationMode::Off | SpeculationMode::EarlyExit) => Ok(false),
        Err(_) => Err(Error::field(
            "speculation.mode",
            format!("{mode} is no mode that this server knows"),
        )),
    }
}
