//! `dssd generate`: a client.

use crate::{
    client::{Client, Update},
    connect::ConnectArgs,
    request::RequestArgs,
    summary::Summary,
    terminal,
};
use anyhow::Result;
use clap::Args;
use dssd_proto::v1::SpeculationMode;
use std::time::Duration;
use tonic::transport::Uri;

/// Generate text on a running verify-svc
///
/// Example: dssd generate --endpoint http://127.0.0.1:50051 "Once upon a time"
#[derive(Args)]
pub(crate) struct GenerateArgs {
    /// Address of a verify-svc, http or https; more of them take over where one is lost
    #[arg(
        long = "endpoint",
        value_name = "URL",
        default_value = "http://127.0.0.1:50051",
        num_args = 1,
        value_parser = endpoint
    )]
    endpoints: Vec<Uri>,
    /// What to continue
    prompt: String,
    #[command(flatten)]
    request: RequestArgs,
    /// Let tokens leave the model at an exit head that agrees with it this often, such as 0.9: the
    /// text may then differ from the whole model's, and the server must run with --allow-lossy
    #[arg(long, value_name = "AGREEMENT", conflicts_with_all = ["policy", "max_draft_tokens"])]
    early_exit: Option<f32>,
    /// Give up after so many seconds, all attempts included
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    deadline: Option<Duration>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// The address of a server.
pub(crate) fn endpoint(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| MUST_BE_HTTP)?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(MUST_BE_HTTP.to_owned()),
    }
}

const MUST_BE_HTTP: &str = "must be http://HOST:PORT or https://HOST:PORT";

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let time = Duration::try_from_secs_f64(seconds).ok();
    time.filter(|time| !time.is_zero() && *time <= LONGEST)
        .ok_or_else(|| format!("must be above 0, and at most {}", LONGEST.as_secs()))
}

/// The longest time that can be asked for: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Runs the command.
pub(crate) async fn run(args: GenerateArgs) -> Result<bool> {
    let dialer = args.connect.dialer(&args.endpoints)?;
    let mut request = args.request.request(&args.prompt);
    if let Some(speculation) = &mut request.speculation {
        speculation.trace = args.request.trace;
        if args.early_exit.is_some() {
            speculation.mode = SpeculationMode::EarlyExit.into();
            speculation.target_agreement = args.early_exit;
        }
    }
    let quiet = args.json;
    let mut watch = move |update: Update<'_>| match update {
        Update::Round(round) => eprintln!("{}", terminal::describe(round)),
        Update::Tokens(tokens) if !quiet => terminal::say(&tokens.text),
        _ => {}
    };
    let generated = Client::with(&dialer, &args.endpoints)
        .within(args.deadline)
        .generate(request, &mut watch)
        .await?;
    let summary = Summary::from(generated);
    if args.json {
        say_line!("{}", serde_json::to_string(&summary)?);
        return Ok(true);
    }
    terminal::say("\n");
    if let Some(exits) = &summary.early_exit {
        eprintln!(
            "{:.0} tokens/s with early exits (lossy): left after {:.1} layers, {:.1} computed for each token, ended by {}",
            summary.tokens_per_second,
            exits.exit_depth,
            exits.layers_per_token,
            summary.finish_reason,
        );
        return Ok(true);
    }
    eprintln!(
        "{:.0} tokens/s, policy {}, {:.0} % of drafted tokens accepted, ended by {}",
        summary.tokens_per_second,
        summary.policy,
        100.0 * summary.draft_acceptance_rate,
        summary.finish_reason,
    );
    if let Some(reasons) = summary.lack_of_drafts() {
        eprintln!("no draft was verified: {reasons}");
    }
    Ok(true)
}
