//! Settings of the process: one field for each flag, one environment variable for each field.

use crate::{Error, Result, drafters::DialArgs};
use clap::{Parser, builder::BoolishValueParser};
use dssd_common::{
    policy::PolicySpec,
    serve::{
        HttpListen, ServeArgs, Switch, check_positive, default_settings, or_else, parse_seconds,
    },
};
use std::{path::PathBuf, time::Duration};
use tonic::transport::Uri;

/// Requests that wait, for each sequence that may run, where `--max-queue` does not say.
const QUEUED_PER_SEQUENCE: usize = 4;
/// Most requests that may wait: each is searched for when it leaves.
const MOST_QUEUED: usize = 10_000;
/// Rows that fill prompts in one step, where `--max-prefill-rows` does not say.
const DEFAULT_PREFILL_ROWS: usize = 64;

/// Serves a language model; drafters make it faster and never change its answers.
///
/// Example: verify-svc --model models/demo --draft http://127.0.0.1:50052
#[derive(Clone, Debug, Parser)]
#[command(
    name = "verify-svc",
    version,
    mut_arg("listen", |arg| or_else(arg, "127.0.0.1:50051")),
    mut_arg("http_listen", |arg| or_else(arg, "127.0.0.1:9090")),
    mut_arg("max_sequences", |arg| or_else(arg, "32")),
    mut_arg("max_draft_tokens", |arg| or_else(arg, "8")),
    mut_arg("max_connection_age", |arg| or_else(arg, "1800")),
    mut_arg("drain_delay", |arg| or_else(arg, "2")),
    mut_arg("drain_timeout", |arg| or_else(arg, "25"))
)]
pub struct Config {
    /// What every service has.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Drafters, as http://HOST:PORT or https://HOST:PORT: every address of the name is used; may be repeated [default: none, plain decoding]
    #[arg(
        long = "draft",
        env = "DSSD_DRAFT",
        value_name = "URL",
        value_delimiter = ','
    )]
    pub drafts: Vec<Uri>,
    /// The way to them.
    #[command(flatten)]
    pub dial: DialArgs,
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
    /// Requests that wait for room; 0: none does [default: 4 x max-sequences]
    #[arg(long, env = "DSSD_MAX_QUEUE", value_name = "N")]
    pub max_queue: Option<usize>,
    /// How long a request waits for room before it is refused
    #[arg(long, env = "DSSD_MAX_QUEUE_WAIT", value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub max_queue_wait: Duration,
    /// Rows of one step that fill prompts while other generations decode: bounds what a long prompt costs the others [default: 64, at most max-step-rows]
    #[arg(long, env = "DSSD_MAX_PREFILL_ROWS", value_name = "N")]
    pub max_prefill_rows: Option<usize>,
    /// Whether requests of one client and cache_salt share the keys and values of equal prefixes: on or off
    #[arg(long, env = "DSSD_PREFIX_CACHE", default_value_t = Switch::On)]
    pub prefix_cache: Switch,
    /// Whether the HTTP port shows a page that sends prompts and shows which tokens were drafted: on or off
    #[arg(long, env = "DSSD_PAGE", default_value_t = Switch::Off)]
    pub page: Switch,
    /// Time that a client may leave what was sent unread: its generation rests, keeps its place, and is ended after this
    #[arg(
        long,
        env = "DSSD_READ_TIMEOUT",
        value_name = "SECONDS",
        value_parser = parse_seconds,
        default_value = "60"
    )]
    pub read_timeout: Duration,
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

    /// Requests that wait for room.
    pub(crate) fn max_queue(&self) -> usize {
        let default = self.serve.max_sequences.saturating_mul(QUEUED_PER_SEQUENCE);
        self.max_queue.unwrap_or(default)
    }

    /// Rows of one step that fill prompts while others decode.
    pub(crate) fn max_prefill_rows(&self) -> usize {
        let default = DEFAULT_PREFILL_ROWS.min(self.serve.max_step_rows);
        self.max_prefill_rows.unwrap_or(default)
    }

    /// The default policy, after a check of what needs no model.
    pub(crate) fn check(&self) -> Result<PolicySpec> {
        check_positive(
            "--default-max-new-tokens",
            self.default_max_new_tokens as usize,
        )?;
        check_positive("--max-prefill-rows", self.max_prefill_rows())?;
        let (rows, step) = (self.max_prefill_rows(), self.serve.max_step_rows);
        if rows > step {
            let reason = format!(
                "--max-prefill-rows is {rows}, more than the {step} rows of a step (--max-step-rows)"
            );
            return Err(Error::Config(reason));
        }
        if self.max_queue() > MOST_QUEUED {
            let reason = format!("--max-queue: must be 0 to {MOST_QUEUED}");
            return Err(Error::Config(reason));
        }
        if self.heads.is_some() && !self.allow_lossy {
            let reason = "--heads (or DSSD_HEADS) is for EARLY_EXIT requests here: permit them with --allow-lossy, or leave it out; drafters have a --heads of their own";
            return Err(Error::Config(reason.to_owned()));
        }
        if self.page == Switch::On && self.serve.http_listen == HttpListen::Off {
            let reason = "--page on (or DSSD_PAGE) needs the HTTP port, which --http-listen turns off: leave one of them out";
            return Err(Error::Config(reason.to_owned()));
        }
        self.dial.check(&self.drafts)?;
        Ok(self.serve.check()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

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
        assert_eq!((config.max_queue(), config.max_prefill_rows()), (128, 64));
        assert_eq!(config.max_queue_wait.as_secs(), 10);
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
        assert!(refused(|c| c.max_prefill_rows = Some(0)).contains("--max-prefill-rows"));
        assert!(refused(|c| c.max_prefill_rows = Some(300)).contains("--max-step-rows"));
        assert!(refused(|c| c.max_queue = Some(20_000)).contains("--max-queue"));
        let unused = |c: &mut Config| c.heads = Some("h".into());
        assert!(refused(unused).contains("--allow-lossy"));
        let scheme = |c: &mut Config| c.drafts = vec!["ftp://drafter:1".parse().unwrap()];
        assert!(refused(scheme).contains("http://HOST:PORT"));
        let unencrypted = |c: &mut Config| {
            c.drafts = vec!["http://drafter:50052".parse().unwrap()];
            c.dial.draft_tls_ca = Some("ca".into());
        };
        assert!(refused(unencrypted).contains("--draft https://"));
        let half = |c: &mut Config| c.dial.draft_tls_cert = Some("c".into());
        assert!(refused(half).contains("--draft-tls-key"));
        let nobody = |c: &mut Config| c.dial.draft_token_file = Some("t".into());
        assert!(refused(nobody).contains("--draft-token-file"));
        let half = |c: &mut Config| c.serve.door.tls_key = Some("k".into());
        assert!(refused(half).contains("--tls-cert"));
        let unencrypted = |c: &mut Config| c.serve.door.tls_client_ca = Some("ca".into());
        assert!(refused(unencrypted).contains("--tls-client-ca"));
        let nobody = |c: &mut Config| c.serve.door.max_streams_per_token = Some(1);
        assert!(refused(nobody).contains("--token-file"));
        let unseen = |c: &mut Config| {
            c.page = Switch::On;
            c.serve.http_listen = HttpListen::Off;
        };
        assert!(refused(unseen).contains("--http-listen"));
    }
}
