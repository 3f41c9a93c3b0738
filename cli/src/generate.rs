//! `dssd generate`: a client.

use crate::{
    client::{Client, Update},
    request::RequestArgs,
    summary::Summary,
    terminal,
};
use anyhow::Result;
use clap::Args;
use std::io::Write as _;
use tonic::transport::Uri;

/// Generate text on a running verify-svc
///
/// Example: dssd generate --endpoint http://127.0.0.1:50051 "Once upon a time"
#[derive(Args)]
pub(crate) struct GenerateArgs {
    /// Address of a verify-svc; more of them take over where one is lost
    #[arg(
        long = "endpoint",
        value_name = "URL",
        default_value = "http://127.0.0.1:50051",
        num_args = 1
    )]
    endpoints: Vec<Uri>,
    /// What to continue
    prompt: String,
    #[command(flatten)]
    request: RequestArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) async fn run(args: GenerateArgs) -> Result<bool> {
    let mut request = args.request.request(&args.prompt);
    if let Some(speculation) = &mut request.speculation {
        speculation.trace = args.request.trace;
    }
    let quiet = args.json;
    let mut watch = move |update: Update<'_>| match update {
        Update::Round(round) => eprintln!("{}", terminal::describe(round)),
        Update::Tokens(tokens) if !quiet => {
            print!("{}", tokens.text);
            _ = std::io::stdout().flush();
        }
        _ => {}
    };
    let generated = Client::new(&args.endpoints)
        .generate(request, &mut watch)
        .await?;
    let summary = Summary::from(generated);
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
        return Ok(true);
    }
    println!();
    eprintln!(
        "{:.0} tokens/s, policy {}, {:.0} % of drafted tokens accepted, ended by {}",
        summary.tokens_per_second,
        summary.policy,
        100.0 * summary.draft_acceptance_rate,
        summary.finish_reason,
    );
    Ok(true)
}
