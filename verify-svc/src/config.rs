//! Settings of the process: one field for each flag, one environment variable for each field.

use crate::{Error, Result};
use clap::{Parser, builder::BoolishValueParser};
use dssd_common::{
    policy::PolicySpec,
    serve::{ServeArgs, check_positive, default_settings, or_else},
};
use std::path::PathBuf;
use tonic::transport::Uri;

/// Serves a language model; drafters make it faster and never change its answers.
///
/// Example: verify-svc --model models/demo --draft http://127.0.0.1:50052
#[derive(Clone, Debug, Parser)]
#[command(
    name = "verify-svc",
    version,
    mut_arg("listen", |arg| or_else(arg, "127.0.0.1:50051")),
    mut_arg("max_sequences", |arg| or_else(arg, "32")),
    mut_arg("max_draft_tokens", |arg| or_else(arg, "8")),
    mut_arg("drain_timeout", |arg| or_else(arg, "25"))
)]
pub struct Config {
    /// What every service has.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Drafters: every address of the name is used; may be repeated [default: none, plain decoding]
    #[arg(
        long = "draft",
        env = "DSSD_DRAFT",
        value_name = "URL",
        value_delimiter = ','
    )]
    pub drafts: Vec<Uri>,
    /// Permit EARLY_EXIT requests: their tokens leave the model at a confident exit, and may differ from the whole model's
    #[arg(long, env = "DSSD_ALLOW_LOSSY", value_parser = BoolishValueParser::new())]
    pub allow_lossy: bool,
    /// Folder of trained exit heads for EARLY_EXIT requests [default: those in the model folder, else untrained exits]
    #[arg(long, env = "DSSD_HEADS", value_name = "DIR")]
    pub heads: Option<PathBuf>,
    /// Generated tokens of requests that do not say how many
    #[arg(
        long,
        env = "DSSD_DEFAULT_MAX_NEW_TOKENS",
        value_name = "N",
        default_value = "256"
    )]
    pub default_max_new_tokens: u32,
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
        check_positive(
            "--default-max-new-tokens",
            self.default_max_new_tokens as usize,
        )?;
        if self.heads.is_some() && !self.allow_lossy {
            let reason = "--heads (or DSSD_HEADS) is for EARLY_EXIT requests here: permit them with --allow-lossy, or leave it out; drafters have a --heads of their own";
            return Err(Error::Config(reason.to_owned()));
        }
        let unfit = |uri: &&Uri| uri.scheme_str() != Some("http") || uri.host().is_none();
        if let Some(uri) = self.drafts.iter().find(unfit) {
            let reason = format!("--draft {uri}: must be http://HOST:PORT");
            return Err(Error::Config(reason));
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
        let parsed = Config::try_parse_from(["verify-svc", "--model", "m"]).unwrap();
        let config = Config::for_model("m".into());
        assert_eq!(format!("{parsed:?}"), format!("{config:?}"));
        assert_eq!(config.serve.listen.to_string(), "127.0.0.1:50051");
        assert_eq!(config.serve.drain_timeout.as_secs(), 25);
        assert_eq!(
            (config.serve.max_sequences, config.serve.max_draft_tokens),
            (32, 8)
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
        assert!(refused(|c| c.serve.max_sequences = 0).contains("--max-sequences"));
        assert!(refused(|c| c.serve.threads = Some(0)).contains("--threads"));
        assert!(refused(|c| c.default_max_new_tokens = 0).contains("--default-max-new-tokens"));
        assert!(refused(|c| c.serve.policy = Some("guess".into())).contains("fixed:HEAD:TOKENS"));
        let unused = |c: &mut Config| c.heads = Some("h".into());
        assert!(refused(unused).contains("--allow-lossy"));
        let tls = |c: &mut Config| c.drafts = vec!["https://drafter:50052".parse().unwrap()];
        assert!(refused(tls).contains("http://HOST:PORT"));
    }
}
