//! `dssd check`: speculation must not change a token.

mod cluster;
mod comparison;
mod faults;
pub(crate) mod prompts;
mod report;
mod setting;
mod table;

use crate::{
    client::{Client, Cut, Generated, failure},
    connect::ConnectArgs,
    generate::endpoint,
    pair::Model,
};
use anyhow::Result;
use clap::{ArgGroup, Args};
use cluster::Cluster;
use comparison::{Expected, What};
use dssd_common::serve::DeviceName;
use dssd_proto::v1::{GenerateRequest, ScoreRequest, TokenIds, TokenizeRequest, score_request};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
pub(crate) use report::Report;
use report::{Divergence, LeftOut, Row};
use setting::{Sampling, Setting, Source};
use std::path::PathBuf;
use tonic::transport::Uri;

/// Generations at once: batches of changing size are a part of what is checked.
const CONCURRENCY: usize = 12;
/// The same where drafters work ahead, which they do only while nobody waits for them.
const CONCURRENCY_AHEAD: usize = 2;
/// Tokens of each generation where nobody says.
const MAX_NEW_TOKENS: u32 = 40;
/// Prompts of a quick check.
const QUICK_PROMPTS: usize = 8;
/// Alternatives among which the margin of a divergence is looked up.
const MARGIN_ALTERNATIVES: u32 = 20;

/// Why a setting with drafters of another kind is left out.
const OWN_DRAFTERS: &str = "needs --local: a running server keeps its own drafters, and no other \
                            can be attached to it";

/// Compare plain with speculated generation, token for token
///
/// Greedy and sampled settings with several draft policies, one of them with log-probabilities
/// (equal bit for bit), one that resumes from the middle of the plain answer; with --local also
/// drafters that work ahead, and an oracle drafter, which proposes the true tokens with errors at
/// a known rate.
///
/// Exits with 1 on a difference, and where too few drafted tokens were accepted or rejected to
/// prove anything.
///
/// Example: dssd check --local
#[derive(Args)]
#[command(group = ArgGroup::new("target").required(true).args(["local", "endpoint"]))]
pub(crate) struct CheckArgs {
    /// Check both services in this process
    #[arg(long)]
    local: bool,
    /// Hugging Face folder for --local; the demo model if unset
    #[arg(long, value_name = "DIR", conflicts_with = "endpoint")]
    model: Option<PathBuf>,
    /// Where the services of --local run the model: cpu, cuda or cuda:N
    #[arg(long, default_value_t = DeviceName::Cpu, conflicts_with = "endpoint")]
    device: DeviceName,
    /// Check a running verify-svc with the drafters that it has; the settings with drafters of
    /// other kinds are left out, as those cannot be attached to a foreign server
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    endpoint: Option<Uri>,
    /// One prompt a line, or JSON lines with `prompt` or `turns`; built-in ones if unset
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Most tokens of each generation
    #[arg(long, value_name = "N", default_value_t = MAX_NEW_TOKENS, value_parser = clap::value_parser!(u32).range(2..))]
    max_new_tokens: u32,
    /// Stop and restart drafters, and lose, delay, reorder, repeat and spoil what they say
    #[arg(long, conflicts_with = "endpoint")]
    faults: bool,
    /// A few prompts, and no failure for want of accepted or rejected tokens
    #[arg(long)]
    quick: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs the command; false if the check failed.
pub(crate) async fn run(args: CheckArgs) -> Result<bool> {
    let prompts = match &args.prompts {
        Some(path) => prompts::read(path)?,
        None => prompts::built_in(),
    };
    let cluster = match &args.endpoint {
        Some(endpoint) => {
            let endpoint = std::slice::from_ref(endpoint);
            let dialer = args.connect.dialer(endpoint)?;
            Cluster::remote(Client::with(&dialer, endpoint)).await?
        }
        None => {
            let model = Model::open(args.model.clone())?.on(args.device)?;
            Cluster::local(&model, args.faults).await?
        }
    };
    let check = Check::new(cluster, some(prompts, args.quick), args.max_new_tokens);
    let mut report = check.run().await?;
    report.judge(args.quick, args.faults);
    if args.json {
        say_line!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    Ok(report.failures.is_empty())
}

/// Checks both services in this process with the built-in prompts, or with a few of them. `lenient`: few accepted
/// or rejected tokens are no failure.
///
/// # Errors
/// If a service fails.
pub(crate) async fn local(model: &Model, few: bool, lenient: bool) -> Result<Report> {
    let cluster = Cluster::local(model, false).await?;
    let prompts = some(prompts::built_in(), few);
    let mut report = Check::new(cluster, prompts, MAX_NEW_TOKENS).run().await?;
    report.judge(lenient, false);
    Ok(report)
}

/// All prompts, or a few.
fn some(mut prompts: Vec<String>, few: bool) -> Vec<String> {
    if few {
        prompts.truncate(QUICK_PROMPTS);
    }
    prompts
}

struct Check {
    cluster: Cluster,
    prompts: Vec<String>,
    max_new_tokens: u32,
    settings: Vec<Setting>,
    progress: ProgressBar,
    report: Report,
}

impl Check {
    /// Every setting that the cluster has drafters for.
    fn new(cluster: Cluster, prompts: Vec<String>, max_new_tokens: u32) -> Self {
        let possible = |setting: &Setting| match setting.source {
            Source::Oracle => cluster.oracle.is_some(),
            Source::Ahead => cluster.ahead.is_some(),
            Source::Drafters => true,
        };
        let (settings, left_out): (Vec<Setting>, Vec<Setting>) =
            (Setting::all(cluster.exits).into_iter()).partition(possible);
        let left_out = left_out.iter().map(|setting| LeftOut {
            name: setting.name(),
            reason: OWN_DRAFTERS,
        });
        Self {
            max_new_tokens,
            progress: progress(prompts.len() * (Sampling::ALL.len() + settings.len())),
            report: Report {
                prompts: prompts.len(),
                left_out: left_out.collect(),
                ..Report::default()
            },
            settings,
            prompts,
            cluster,
        }
    }

    /// Runs all of them, and stops the cluster.
    async fn run(mut self) -> Result<Report> {
        let settings = std::mem::take(&mut self.settings);
        for sampling in Sampling::ALL {
            self.sampling(sampling, &settings).await?;
        }
        self.progress.finish_and_clear();
        self.cluster.stop().await?;
        Ok(self.report)
    }

    /// One plain run of all prompts, and a run of every setting that samples alike.
    async fn sampling(&mut self, sampling: Sampling, settings: &[Setting]) -> Result<()> {
        let numbered = self.prompts.iter().enumerate();
        let requests: Vec<GenerateRequest> = numbered
            .map(|(index, prompt)| sampling.request(prompt, index, self.max_new_tokens))
            .collect();
        self.progress.set_message("plain decoding");
        let server = self.cluster.drafted.clone();
        let plain = self
            .generate(&server, requests.clone(), CONCURRENCY)
            .await?;
        for setting in settings.iter().filter(|s| s.sampling == sampling) {
            self.progress.set_message(setting.name());
            self.setting(setting, &requests, &plain).await?;
        }
        Ok(())
    }

    async fn setting(
        &mut self,
        setting: &Setting,
        requests: &[GenerateRequest],
        plain: &[Generated],
    ) -> Result<()> {
        let numbered = plain.iter().enumerate();
        let cuts: Vec<Cut> = numbered
            .map(|(number, plain)| setting.cut(plain, number))
            .collect();
        let requests: Vec<GenerateRequest> = (requests.iter().zip(plain).zip(&cuts).enumerate())
            .map(|(number, ((asked, plain), cut))| {
                setting.request(asked, number, (plain, cut.tokens))
            })
            .collect();
        let cluster = &self.cluster;
        let server = match (setting.source, &cluster.oracle, &cluster.ahead) {
            (Source::Oracle, Some(oracle), _) => {
                for (request, plain) in requests.iter().zip(plain) {
                    oracle.truth.tell(&request.request_id, &plain.token_ids);
                }
                &oracle.client
            }
            (Source::Ahead, _, Some(ahead)) => ahead,
            _ => &cluster.drafted,
        };
        let server = server.clone();
        let at_once = match setting.source {
            Source::Ahead => CONCURRENCY_AHEAD,
            Source::Drafters | Source::Oracle => CONCURRENCY,
        };
        let runs = self.generate(&server, requests, at_once).await?;
        let mut row = Row::new(setting);
        for (index, run) in runs.iter().enumerate() {
            let (prompt, plain) = (&self.prompts[index], &plain[index]);
            let expected = Expected {
                plain,
                cut: cuts[index],
                logprobs: setting.compares_logprobs(),
            };
            if let Some(divergence) = self.report.compare(&mut row, prompt, &expected, run)
                && divergence.what == What::Token
            {
                divergence.margin = margin(&server, divergence, &plain.token_ids).await;
            }
        }
        self.report.settings.push(row);
        Ok(())
    }

    /// Runs requests, `at_once` at a time; the answers are in their order.
    async fn generate(
        &self,
        server: &Client,
        requests: Vec<GenerateRequest>,
        at_once: usize,
    ) -> Result<Vec<Generated>> {
        let one = async |request| {
            let generated = server.clone().generate(request, &mut |_| ()).await;
            self.progress.inc(1);
            generated
        };
        stream::iter(requests)
            .map(one)
            .buffered(at_once)
            .try_collect()
            .await
    }
}

/// How far the two tokens of a divergence are apart, in nats; a help for whoever looks for
/// the fault, so a failure to find out is none of the check.
async fn margin(server: &Client, divergence: &Divergence, plain: &[u32]) -> Option<f64> {
    let mut server = server.server();
    let text = divergence.prompt.clone();
    let prompt = server.tokenize(TokenizeRequest { text }).await;
    let explain = |status| tracing::warn!(error = %failure(&status), "no margin");
    let mut ids = prompt.map_err(explain).ok()?.into_inner().token_ids;
    let first_index = ids.len() + divergence.position;
    ids.extend(plain.get(..=divergence.position)?);
    let request = ScoreRequest {
        prompt: Some(score_request::Prompt::TokenIds(TokenIds { ids })),
        first_index: u32::try_from(first_index).ok(),
        logprobs: Some(MARGIN_ALTERNATIVES),
        ..ScoreRequest::default()
    };
    let scores = server.score(request).await.map_err(explain).ok()?;
    let score = scores.into_inner().logprobs.into_iter().next()?;
    let other = score
        .top
        .iter()
        .find(|top| Some(top.token_id) == divergence.speculated)?;
    Some(f64::from(score.logprob) - f64::from(other.logprob))
}

fn progress(generations: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
    let bar = ProgressBar::new(generations as u64);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
