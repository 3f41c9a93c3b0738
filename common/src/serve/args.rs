//! The flags that both services have: one field for each, one environment variable for each.

use super::{
    DeviceName, DoorArgs, Drain, Dtype, HttpListen, KvMemory, LogFormat, ModelSettings, Switch,
    parse_seconds,
};
use crate::{
    Error, Result,
    policy::{DEFAULT_POLICY, PolicySettings, PolicySpec},
};
use clap::{
    Arg, Args, CommandFactory, FromArgMatches,
    builder::{NonEmptyStringValueParser, Resettable},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// The policy that has a target agreement.
const ENTROPY: &str = "entropy";

// No doc comment here: clap would show it as the description of a service.
#[expect(
    missing_docs,
    reason = "see the comment above; every field is described"
)]
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Hugging Face model folder [default: the demo model]
    #[arg(long, env = "DSSD_MODEL", value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Name of the model for clients and in metrics [default: that of its folder]
    #[arg(long, env = "DSSD_MODEL_NAME", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub model_name: Option<String>,
    /// Address to listen on
    #[arg(long, env = "DSSD_LISTEN", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Address of probes (/livez, /readyz) and metrics (/metrics), in plain HTTP; or off
    #[arg(long, env = "DSSD_HTTP_LISTEN", value_name = "ADDR|off")]
    pub http_listen: HttpListen,
    /// Where the model runs: cpu, cuda (the first NVIDIA GPU), or cuda:N
    #[arg(long, env = "DSSD_DEVICE", default_value_t = DeviceName::Cpu)]
    pub device: DeviceName,
    /// Threads of a pass [default: one for each core]
    #[arg(long, env = "DSSD_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Type of the weights in memory: auto (as stored), f32, bf16 or f16
    #[arg(long, env = "DSSD_DTYPE", default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
    /// KV cache: bytes (512MiB) or a share of the memory that is free where the model runs (0.25) [default: what max-sequences can use, up to 0.25, on a GPU 0.4]
    #[arg(long, env = "DSSD_KV_MEMORY", value_name = "BYTES|SHARE")]
    pub kv_memory: Option<KvMemory>,
    /// Whether the KV cache takes all of its memory at the start, instead of with the first use of each part: on or off. On a GPU it always does
    #[arg(long, env = "DSSD_PREALLOCATE_KV", default_value_t = Switch::Off)]
    pub preallocate_kv: Switch,
    /// Generations at once
    #[arg(long, env = "DSSD_MAX_SEQUENCES", value_name = "N")]
    pub max_sequences: usize,
    /// Tokens of one generation, prompt included [default: what the model is made for]
    #[arg(long, env = "DSSD_MAX_CONTEXT", value_name = "N")]
    pub max_context: Option<usize>,
    /// Rows (token positions) of one step
    #[arg(
        long,
        env = "DSSD_MAX_STEP_ROWS",
        value_name = "N",
        default_value = "256"
    )]
    pub max_step_rows: usize,
    /// Draft policy where none is named: auto, off, fixed:HEAD:TOKENS, entropy, entropy:NATS, entropy@AGREEMENT, max-prob:HEAD:P, adaedl:HEAD, product:HEAD:P or del [default: auto]
    #[arg(long, env = "DSSD_POLICY")]
    pub policy: Option<String>,
    /// Agreement that `entropy` drafts for where none is named, above 0 and below 1; without --policy, the policy is `entropy`. Clients of verify-svc get that of verify-svc, which names it to its drafters
    #[arg(long, env = "DSSD_TARGET_AGREEMENT", value_name = "E")]
    pub target_agreement: Option<f32>,
    /// Longest draft, in tokens
    #[arg(long, env = "DSSD_MAX_DRAFT_TOKENS", value_name = "N")]
    pub max_draft_tokens: u32,
    /// Who may call, and for how long
    #[command(flatten)]
    pub door: DoorArgs,
    /// Time after a shutdown in which new work is still taken, while readiness is denied already
    #[arg(long, env = "DSSD_DRAIN_DELAY", value_name = "SECONDS", value_parser = parse_seconds)]
    pub drain_delay: Duration,
    /// Time for what runs to end after that
    #[arg(long, env = "DSSD_DRAIN_TIMEOUT", value_name = "SECONDS", value_parser = parse_seconds)]
    pub drain_timeout: Duration,
    /// Whether server reflection is offered: on or off
    #[arg(long, env = "DSSD_REFLECTION", default_value_t = Switch::On)]
    pub reflection: Switch,
    /// Look of the log: text or json
    #[arg(long, env = "DSSD_LOG_FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl ServeArgs {
    /// The default policy, after a check of what needs no model.
    ///
    /// # Errors
    /// If a flag's value cannot work.
    pub fn check(&self) -> Result<PolicySpec> {
        check_positive("--max-sequences", self.max_sequences)?;
        check_positive("--max-step-rows", self.max_step_rows)?;
        check_positive("--max-draft-tokens", self.max_draft_tokens as usize)?;
        check_positive("--threads", self.threads.unwrap_or(1))?;
        self.door.check()?;
        self.default_policy()
    }

    /// How the service ends.
    pub fn drain(&self) -> Drain {
        Drain {
            delay: self.drain_delay,
            timeout: self.drain_timeout,
        }
    }

    /// What the model in `dir` is called.
    pub fn model_name(&self, dir: Option<&Path>) -> String {
        let of_folder = || {
            let dir = dir?;
            let name = |dir: &Path| Some(dir.file_name()?.to_string_lossy().into_owned());
            name(dir).or_else(|| name(&dir.canonicalize().ok()?))
        };
        let given = self.model_name.clone();
        given
            .or_else(of_folder)
            .unwrap_or_else(|| "model".to_owned())
    }

    fn default_policy(&self) -> Result<PolicySpec> {
        let target_agreement = self.target_agreement;
        let unsaid = target_agreement.map_or(DEFAULT_POLICY, |_| ENTROPY);
        let name = self.policy.as_deref().unwrap_or(unsaid);
        if target_agreement.is_some() && name != ENTROPY {
            return Err(Error::InvalidParameter {
                field: "--target-agreement",
                reason: format!(
                    "belongs to policy `{ENTROPY}`, and --policy says `{name}`: leave one of them out"
                ),
            });
        }
        let settings = PolicySettings {
            target_agreement,
            ..PolicySettings::default()
        };
        PolicySpec::from_settings(name, settings)
    }

    /// How the model is held, cut into bands at `band_ends`.
    pub fn model_settings(&self, band_ends: Vec<usize>) -> ModelSettings {
        ModelSettings {
            device: self.device,
            threads: self.threads,
            dtype: self.dtype,
            kv_memory: self.kv_memory,
            preallocate_kv: self.preallocate_kv == Switch::On,
            max_sequences: self.max_sequences,
            max_context: self.max_context,
            band_ends,
        }
    }
}

/// Gives a flag of [`ServeArgs`] the default that a service has for it.
pub fn or_else(arg: Arg, default: &'static str) -> Arg {
    arg.default_value(default).required(false)
}

/// Refuses 0 as the value of `flag`.
///
/// # Errors
/// If it is 0.
pub fn check_positive(flag: &'static str, value: usize) -> Result<()> {
    if value > 0 {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        field: flag,
        reason: "must be at least 1".to_owned(),
    })
}

/// The settings of a command line without flags, whatever the environment says.
///
/// # Errors
/// If `C` has a flag that must be given.
pub fn default_settings<C: CommandFactory + FromArgMatches>() -> Result<C> {
    let command = C::command().mut_args(|arg| arg.env(Resettable::Reset));
    let name = command.get_name().to_owned();
    command
        .try_get_matches_from([name])
        .and_then(|matches| C::from_arg_matches(&matches))
        .map_err(|error| Error::InvalidParameter {
            field: "command line",
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(
        mut_arg("listen", |arg| or_else(arg, "127.0.0.1:1")),
        mut_arg("http_listen", |arg| or_else(arg, "off")),
        mut_arg("max_sequences", |arg| or_else(arg, "1")),
        mut_arg("max_draft_tokens", |arg| or_else(arg, "1")),
        mut_arg("max_connection_age", |arg| or_else(arg, "0")),
        mut_arg("drain_delay", |arg| or_else(arg, "1")),
        mut_arg("drain_timeout", |arg| or_else(arg, "1"))
    )]
    struct Flags {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn policy(flags: &[&str]) -> Result<String> {
        let flags = Flags::try_parse_from([&["service"], flags].concat()).unwrap();
        Ok(flags.serve.check()?.to_string())
    }

    #[test]
    fn a_target_agreement_makes_the_policy_entropy_and_contradicts_any_other() {
        assert_eq!(policy(&[]).unwrap(), "auto");
        assert_eq!(policy(&["--policy", "fixed:0:4"]).unwrap(), "fixed:0:4");
        assert_eq!(policy(&["--policy", "entropy"]).unwrap(), "entropy@0.9");
        let target = ["--target-agreement", "0.8"];
        assert_eq!(policy(&target).unwrap(), "entropy@0.8");
        let with = |name| policy(&[&target[..], &["--policy", name]].concat());
        assert_eq!(with("entropy").unwrap(), "entropy@0.8");
        for other in ["auto", "fixed:0:4", "entropy@0.8", "entropy:2"] {
            let error = with(other).unwrap_err().to_string();
            assert!(
                error.contains("--target-agreement") && error.contains(other),
                "{error}"
            );
        }
        let error = policy(&["--target-agreement", "1"]).unwrap_err();
        assert!(error.to_string().contains("below 1"), "{error}");
    }
}
