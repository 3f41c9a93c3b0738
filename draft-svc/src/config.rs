//! Settings of the process: one field for each flag, one environment variable for each field.

use crate::{Error, Result};
use clap::Parser;
use dssd_common::{
    policy::{DEFAULT_POLICY, PolicySpec},
    serve::{Dtype, KvMemory, LogFormat, Switch, parse_seconds},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 50052);
const MAX_SEQUENCES: usize = 64;
const MAX_STEP_ROWS: usize = 256;
const MAX_DRAFT_TOKENS: u32 = 16;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Drafts tokens for verify-svc with the shallow layers of its model.
///
/// Example: draft-svc --model models/demo --policy fixed:1:3
#[derive(Clone, Debug, Parser)]
#[command(name = "draft-svc", version)]
pub struct Config {
    /// Hugging Face model folder, whole or split [default: the demo model]
    #[arg(long, env = "DSSD_MODEL", value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Folder of trained exit heads [default: those in the model folder, else untrained exits]
    #[arg(long, env = "DSSD_HEADS", value_name = "DIR", conflicts_with = "exits")]
    pub heads: Option<PathBuf>,
    /// Layers after which untrained exits sit, such as 2,4,7,9 [default: four, evenly spaced]
    #[arg(long, env = "DSSD_EXITS", value_name = "LAYERS", value_delimiter = ',')]
    pub exits: Option<Vec<usize>>,
    /// Address to listen on
    #[arg(long, env = "DSSD_LISTEN", value_name = "ADDR", default_value_t = LISTEN)]
    pub listen: SocketAddr,
    /// Threads of a pass [default: one for each core]
    #[arg(long, env = "DSSD_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Type of the weights in memory: auto (as stored), f32, bf16 or f16
    #[arg(long, env = "DSSD_DTYPE", default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
    /// KV cache: bytes (512MiB) or a share of the free memory (0.25) [default: what max-sequences can use, up to 0.25]
    #[arg(long, env = "DSSD_KV_MEMORY", value_name = "BYTES|SHARE")]
    pub kv_memory: Option<KvMemory>,
    /// Generations to draft for at once
    #[arg(long, env = "DSSD_MAX_SEQUENCES", value_name = "N", default_value_t = MAX_SEQUENCES)]
    pub max_sequences: usize,
    /// Tokens of one generation, prompt included [default: what the model is made for]
    #[arg(long, env = "DSSD_MAX_CONTEXT", value_name = "N")]
    pub max_context: Option<usize>,
    /// Rows (token positions) of one step
    #[arg(long, env = "DSSD_MAX_STEP_ROWS", value_name = "N", default_value_t = MAX_STEP_ROWS)]
    pub max_step_rows: usize,
    /// Draft policy of generations that name none: fixed:HEAD:TOKENS, entropy:NATS or off
    #[arg(long, env = "DSSD_POLICY", default_value = DEFAULT_POLICY)]
    pub policy: String,
    /// Longest draft, in tokens
    #[arg(long, env = "DSSD_MAX_DRAFT_TOKENS", value_name = "N", default_value_t = MAX_DRAFT_TOKENS)]
    pub max_draft_tokens: u32,
    /// Time for open calls to end after a shutdown
    #[arg(long, env = "DSSD_DRAIN_TIMEOUT", value_name = "SECONDS", value_parser = parse_seconds, default_value = "5")]
    pub drain_timeout: Duration,
    /// Whether server reflection is offered: on or off
    #[arg(long, env = "DSSD_REFLECTION", default_value_t = Switch::On)]
    pub reflection: Switch,
    /// Look of the log: text or json
    #[arg(long, env = "DSSD_LOG_FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl Config {
    /// Defaults for the model in `dir`, whatever the environment says.
    pub fn for_model(dir: PathBuf) -> Self {
        Self {
            model: Some(dir),
            heads: None,
            exits: None,
            listen: LISTEN,
            threads: None,
            dtype: Dtype::Auto,
            kv_memory: None,
            max_sequences: MAX_SEQUENCES,
            max_context: None,
            max_step_rows: MAX_STEP_ROWS,
            policy: DEFAULT_POLICY.to_owned(),
            max_draft_tokens: MAX_DRAFT_TOKENS,
            drain_timeout: DRAIN_TIMEOUT,
            reflection: Switch::On,
            log_format: LogFormat::Text,
        }
    }

    /// The default policy, after a check of what needs no model.
    pub(crate) fn check(&self) -> Result<PolicySpec> {
        let least = [
            ("max-sequences", self.max_sequences),
            ("max-step-rows", self.max_step_rows),
            ("max-draft-tokens", self.max_draft_tokens as usize),
            ("threads", self.threads.unwrap_or(1)),
        ];
        if let Some((flag, _)) = least.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Config(format!("--{flag} must be at least 1")));
        }
        if self.heads.is_some() && self.exits.is_some() {
            let reason = "--exits places untrained exits: give it or --heads, not both";
            return Err(Error::Config(reason.to_owned()));
        }
        self.policy
            .parse()
            .map_err(|error| Error::Config(format!("--policy: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::Config;
    use clap::Parser as _;

    #[test]
    fn defaults_are_those_of_the_command_line() {
        let parsed = Config::try_parse_from(["draft-svc", "--model", "m"]).unwrap();
        assert_eq!(
            format!("{parsed:?}"),
            format!("{:?}", Config::for_model("m".into()))
        );
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::for_model("m".into());
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(refused(|c| c.max_step_rows = 0).contains("--max-step-rows"));
        assert!(refused(|c| c.policy = "guess".into()).contains("fixed:HEAD:TOKENS"));
        let both = |c: &mut Config| (c.heads, c.exits) = (Some("h".into()), Some(vec![1]));
        assert!(refused(both).contains("--heads"));
    }
}
