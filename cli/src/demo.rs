//! `dssd demo`: the pair at work, on loopback ports of this process.

use crate::{
    bench::timing::{median, median_ratio},
    client::{Client, Generated, Update},
    pair::{self, Model},
    request::{RequestArgs, speculation},
    summary::Summary,
    terminal::{self, Origin, Origins},
};
use anyhow::{Context, Result};
use clap::Args;
use dssd_common::{policy::PolicySpec, serve::DeviceName, tokenizer::TextStream};
use dssd_proto::v1::{GenerateRequest, Tokens};
use serde::Serialize;
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// Pairs of runs that the rates are medians of.
const REPEATS: usize = 7;
/// Drafts where no policy is named. The default of the services drafts only where that pays, and
/// a model as small as the demo's hardly ever lets it: there would be nothing to see.
const SHOWN: PolicySpec = PolicySpec::Fixed { head: 0, tokens: 2 };
/// Time after which no further pair is run.
const REPEAT_TIME: Duration = Duration::from_secs(3);

/// Watch the pair tell a story: what was drafted, what was corrected, and how much faster it is
///
/// Drafts two tokens at the first exit unless a --policy is named, so that there is something to see; `auto`,
/// the default of the services, drafts only where that pays.
///
/// Example: dssd demo --prompt "The old lighthouse" --temperature 0.8 --seed 7
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// What to continue
    #[arg(long, default_value = "Once upon a time, there was a little")]
    prompt: String,
    #[command(flatten)]
    request: RequestArgs,
    /// Plain decoding alone, without drafts
    #[arg(long, conflicts_with = "policy")]
    plain: bool,
    /// Hugging Face folder to run instead of the demo model
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Where both services run it: cpu, cuda or cuda:N
    #[arg(long, default_value_t = DeviceName::Cpu)]
    device: DeviceName,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    summary: Summary,
    plain_tokens_per_second: f64,
    /// None if a single message had all tokens, so that there was no rate to measure.
    speedup: Option<f64>,
    identical_to_plain: bool,
}

/// Runs the command; false if speculation changed the text.
pub(crate) async fn run(args: DemoArgs) -> Result<bool> {
    let model = Model::open(args.model.clone())?.on(args.device)?;
    let drafter = pair::drafter(&model, pair::listener().await?)?;
    let verifier = pair::verifier(&model, vec![drafter.uri()?], pair::listener().await?)?;
    let mut demo = Demo {
        client: Client::new(&[verifier.uri()?]),
        request: args.request.request(&args.prompt),
    };
    let policy = match args.plain {
        true => Some(PolicySpec::Off),
        false => args.request.policy.is_none().then_some(SHOWN),
    };
    if let (Some(policy), Some(asked)) = (policy, &mut demo.request.speculation) {
        let policy = speculation(Some(policy));
        (asked.mode, asked.policy) = (policy.mode, policy.policy);
    }
    // With one seed for all runs, the same text is due in each.
    demo.request.seed.get_or_insert_with(rand::random);
    demo.client.ready().await?;
    demo.warm_up().await?;
    let told = demo.tell(&model, &args).await?;
    let report = demo.compare(told).await?;
    if args.json {
        say_line!("{}", serde_json::to_string(&report)?);
    } else {
        print_report(&report);
    }
    verifier.stop().await?;
    drafter.stop().await?;
    Ok(report.identical_to_plain)
}

struct Demo {
    client: Client,
    request: GenerateRequest,
}

impl Demo {
    /// Until the first drafted tokens, so that no run pays for connecting.
    async fn warm_up(&mut self) -> Result<()> {
        let mut request = self.request.clone();
        request.max_new_tokens = Some(32);
        for _ in 0..2 {
            self.client.generate(request.clone(), &mut |_| ()).await?;
        }
        Ok(())
    }

    /// The run that is shown.
    async fn tell(&mut self, model: &Model, args: &DemoArgs) -> Result<Generated> {
        let mut request = self.request.clone();
        if let Some(speculation) = &mut request.speculation {
            speculation.trace = true;
        }
        let tokenizer = model
            .tokenizer
            .as_ref()
            .context("the model has no tokenizer.json, so it cannot tell a story")?;
        let mut story = Story {
            text: TextStream::new(Arc::clone(tokenizer)),
            origins: Origins::default(),
            colour: terminal::has_colour(),
        };
        let (json, trace) = (args.json, args.request.trace);
        if !json {
            terminal::say(&args.prompt);
        }
        let mut watch = |update: Update<'_>| match update {
            Update::Started(info) => story.origins = Origins::new(info.prompt_token_count),
            Update::Round(round) => {
                story.origins.note(round);
                if trace {
                    eprintln!("{}", terminal::describe(round));
                }
            }
            Update::Tokens(tokens) if !json => story.tell(tokens),
            Update::Tokens(_) => {}
        };
        let generated = self.client.generate(request, &mut watch).await?;
        if !json {
            say_line!("\n");
        }
        Ok(generated)
    }

    /// Times speculated and plain runs in turn, and compares their tokens.
    async fn compare(&mut self, told: Generated) -> Result<Report> {
        let mut plain_request = self.request.clone();
        plain_request.speculation = Some(speculation(Some(PolicySpec::Off)));
        let (mut rates, mut plain_rates) = (Vec::new(), Vec::new());
        let mut identical = true;
        let begun = Instant::now();
        while rates.is_empty() || (rates.len() < REPEATS && begun.elapsed() < REPEAT_TIME) {
            let quick = self
                .client
                .generate(self.request.clone(), &mut |_| ())
                .await?;
            let plain = self
                .client
                .generate(plain_request.clone(), &mut |_| ())
                .await?;
            identical &= told.has_answer_of(&plain) && quick.has_answer_of(&plain);
            rates.push(quick.tokens_per_second);
            plain_rates.push(plain.tokens_per_second);
        }
        let mut summary = Summary::from(told);
        summary.tokens_per_second = median(&rates);
        Ok(Report {
            summary,
            plain_tokens_per_second: median(&plain_rates),
            speedup: Some(median_ratio(&rates, &plain_rates)).filter(|ratio| ratio.is_finite()),
            identical_to_plain: identical,
        })
    }
}

/// The text on its way to the terminal.
struct Story {
    text: TextStream,
    origins: Origins,
    colour: bool,
}

impl Story {
    fn tell(&mut self, tokens: &Tokens) {
        let mut told = String::new();
        for (offset, &token) in tokens.token_ids.iter().enumerate() {
            // What cannot be decoded is missed by nobody but the eye: the report has the text.
            let piece = self.text.push(token).unwrap_or_default();
            let origin = self.origins.of(tokens.first_index + offset as u32);
            told += &terminal::paint(&piece, origin, self.colour);
        }
        terminal::say(&told);
    }
}

fn print_report(report: &Report) {
    let Report { summary, .. } = report;
    let colour = terminal::has_colour();
    if colour {
        say_line!(
            "{} {} of the whole model after a draft, the rest without one",
            terminal::paint("drafted and accepted,", Origin::Draft, colour),
            terminal::paint("correction", Origin::Correction, colour),
        );
    }
    say_line!("policy       {}", summary.policy);
    say_line!(
        "plain        {:.0} tokens/s",
        report.plain_tokens_per_second
    );
    if summary.policy != "off" {
        say_line!("speculated   {:.0} tokens/s", summary.tokens_per_second);
        if let Some(speedup) = report.speedup {
            say_line!("speed-up     {speedup:.2}");
        }
        match summary.lack_of_drafts() {
            Some(reasons) => say_line!("accepted     nothing, for lack of drafts: {reasons}"),
            None => say_line!(
                "accepted     {:.0} % of drafted tokens, {:.2} tokens per verified draft",
                100.0 * summary.draft_acceptance_rate,
                summary.mean_acceptance_length
            ),
        }
    }
    let verdict = match report.identical_to_plain {
        true => "yes",
        false => "NO",
    };
    say_line!("identical    {verdict}");
}
