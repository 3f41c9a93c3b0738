//! Settings of the process: one field for each flag, one environment variable for each field.

use crate::{Error, Result};
use clap::Parser;
use dssd_common::{
    policy::PolicySpec,
    serve::{ServeArgs, WorkAhead, default_settings, or_else},
};
use std::path::PathBuf;

/// Drafts tokens for verify-svc with the shallow layers of its model.
///
/// The model folder may be a split one, with the first layers only.
///
/// Example: draft-svc --model models/demo --policy fixed:1:3
#[derive(Clone, Debug, Parser)]
#[command(
    name = "draft-svc",
    version,
    mut_arg("listen", |arg| or_else(arg, "127.0.0.1:50052")),
    mut_arg("http_listen", |arg| or_else(arg, "127.0.0.1:9091")),
    mut_arg("max_sequences", |arg| or_else(arg, "64")),
    mut_arg("max_draft_tokens", |arg| or_else(arg, "16")),
    mut_arg("max_connection_age", |arg| or_else(arg, "0")),
    mut_arg("drain_delay", |arg| or_else(arg, "0")),
    mut_arg("drain_timeout", |arg| or_else(arg, "5"))
)]
pub struct Config {
    /// What every service has.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Folder of trained exit heads [default: those in the model folder, else untrained exits]
    #[arg(long, env = "DSSD_HEADS", value_name = "DIR", conflicts_with = "exits")]
    pub heads: Option<PathBuf>,
    /// Layers after which untrained exits sit, such as 2,4,7,9 [default: four, evenly spaced]
    #[arg(long, env = "DSSD_EXITS", value_name = "LAYERS", value_delimiter = ',')]
    pub exits: Option<Vec<usize>>,
    /// Whether to draft on while the verifier runs: on, off, or auto (where that is measured to pay, and never for a verifier on this machine). Other containers and virtual machines of one host count as other machines: set `off` there
    #[arg(long, env = "DSSD_WORK_AHEAD", default_value_t = WorkAhead::Auto)]
    pub work_ahead: WorkAhead,
}

impl AsRef<ServeArgs> for Config {
    fn as_ref(&self) -> &ServeArgs {
        &self.serve
    }
}

impl Config {
    /// Defaults for the model in `dir`, whatever the environment says.
    #[expect(
        clippy::expect_used,
        reason = "no flag must be given, as the tests below find with every default"
    )]
    pub fn for_model(dir: PathBuf) -> Self {
        let mut config: Self = default_settings().expect("every flag has a default");
        config.serve.model = Some(dir);
        config
    }

    /// The default policy, after a check of what needs no model.
    pub(crate) fn check(&self) -> Result<PolicySpec> {
        if self.heads.is_some() && self.exits.is_some() {
            let reason = "--exits places untrained exits: give it or --heads, not both";
            return Err(Error::Config(reason.to_owned()));
        }
        Ok(self.serve.check()?)
    }
}

#[cfg(test)]
mod tests {
    use super::Config;
    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn defaults_are_those_of_the_command_line() {
        Config::command().debug_assert();
        let parsed = Config::try_parse_from(["draft-svc", "--model", "m"]).unwrap();
        let config = Config::for_model("m".into());
        assert_eq!(format!("{parsed:?}"), format!("{config:?}"));
        assert_eq!(config.serve.listen.to_string(), "127.0.0.1:50052");
        assert_eq!(config.serve.drain_timeout.as_secs(), 5);
        assert_eq!(
            (config.serve.max_sequences, config.serve.max_draft_tokens),
            (64, 16)
        );
        config.check().unwrap();
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::for_model("m".into());
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(refused(|c| c.serve.max_step_rows = 0).contains("--max-step-rows"));
        assert!(refused(|c| c.serve.policy = Some("guess".into())).contains("fixed:HEAD:TOKENS"));
        let both = |c: &mut Config| (c.heads, c.exits) = (Some("h".into()), Some(vec![1]));
        assert!(refused(both).contains("--heads"));
    }
}
