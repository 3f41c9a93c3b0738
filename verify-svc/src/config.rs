//! Settings of the process: one field for each flag, one environment variable for each field.

use crate::{Error, Result};
use clap::Parser;
use dssd_common::{
    policy::{DEFAULT_POLICY, PolicySpec},
    serve::{Dtype, KvMemory, LogFormat, Switch, parse_seconds},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use tonic::transport::Uri;

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);
const MAX_SEQUENCES: usize = 32;
const MAX_STEP_ROWS: usize = 256;
const MAX_DRAFT_TOKENS: u32 = 8;
const DEFAULT_MAX_NEW_TOKENS: u32 = 256;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Serves a language model; drafters make it faster and never change its answers.
///
/// Example: verify-svc --model models/demo --draft http://127.0.0.1:50052
#[derive(Clone, Debug, Parser)]
#[command(name = "verify-svc", version)]
pub struct Config {
    /// Hugging Face model folder [default: the demo model]
    #[arg(long, env = "DSSD_MODEL", value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Drafters: every address of the name is used; may be repeated [default: none, plain decoding]
    #[arg(
        long = "draft",
        env = "DSSD_DRAFT",
        value_name = "URL",
        value_delimiter = ','
    )]
    pub drafts: Vec<Uri>,
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
    /// Generations at once
    #[arg(long, env = "DSSD_MAX_SEQUENCES", value_name = "N", default_value_t = MAX_SEQUENCES)]
    pub max_sequences: usize,
    /// Tokens of one generation, prompt included [default: what the model is made for]
    #[arg(long, env = "DSSD_MAX_CONTEXT", value_name = "N")]
    pub max_context: Option<usize>,
    /// Rows (token positions) of one step
    #[arg(long, env = "DSSD_MAX_STEP_ROWS", value_name = "N", default_value_t = MAX_STEP_ROWS)]
    pub max_step_rows: usize,
    /// Draft policy of requests that name none: fixed:HEAD:TOKENS, entropy:NATS or off
    #[arg(long, env = "DSSD_POLICY", default_value = DEFAULT_POLICY)]
    pub policy: String,
    /// Longest draft, in tokens
    #[arg(long, env = "DSSD_MAX_DRAFT_TOKENS", value_name = "N", default_value_t = MAX_DRAFT_TOKENS)]
    pub max_draft_tokens: u32,
    /// Generated tokens of requests that do not say how many
    #[arg(long, env = "DSSD_DEFAULT_MAX_NEW_TOKENS", value_name = "N", default_value_t = DEFAULT_MAX_NEW_TOKENS)]
    pub default_max_new_tokens: u32,
    /// Time for running generations to end after a shutdown
    #[arg(long, env = "DSSD_DRAIN_TIMEOUT", value_name = "SECONDS", value_parser = parse_seconds, default_value = "25")]
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
            drafts: Vec::new(),
            listen: LISTEN,
            threads: None,
            dtype: Dtype::Auto,
            kv_memory: None,
            max_sequences: MAX_SEQUENCES,
            max_context: None,
            max_step_rows: MAX_STEP_ROWS,
            policy: DEFAULT_POLICY.to_owned(),
            max_draft_tokens: MAX_DRAFT_TOKENS,
            default_max_new_tokens: DEFAULT_MAX_NEW_TOKENS,
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
            (
                "default-max-new-tokens",
                self.default_max_new_tokens as usize,
            ),
            ("threads", self.threads.unwrap_or(1)),
        ];
        if let Some((flag, _)) = least.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Config(format!("--{flag} must be at least 1")));
        }
        let unfit = |uri: &&Uri| uri.scheme_str() != Some("http") || uri.host().is_none();
        if let Some(uri) = self.drafts.iter().find(unfit) {
            let reason = format!("--draft {uri}: must be http://HOST:PORT");
            return Err(Error::Config(reason));
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
        let parsed = Config::try_parse_from(["verify-svc", "--model", "m"]).unwrap();
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
        assert!(refused(|c| c.max_sequences = 0).contains("--max-sequences"));
        assert!(refused(|c| c.policy = "guess".into()).contains("fixed:HEAD:TOKENS"));
        let tls = |c: &mut Config| c.drafts = vec!["https://drafter:50052".parse().unwrap()];
        assert!(refused(tls).contains("http://HOST:PORT"));
    }
}
