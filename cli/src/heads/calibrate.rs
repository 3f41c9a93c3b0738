//! `dssd heads calibrate`: what a head's entropy promises.

use super::{
    available_threads, progress,
    windows::{Documents, continued},
};
use anyhow::Result;
use clap::{Args, ValueEnum};
use dssd_common::{
    checkpoint::Checkpoint,
    exit::{Calibration, ExitHeads},
    serve::{DeviceName, open_model},
};
use dssd_heads::{
    backbone::{Backbone, Machine},
    calibrate::{CalibrationSettings, Rule, Source, TEMPERATURES, Window, calibrate, collect},
    corpus::{Encoder, text_hash},
    self_text::SelfTextSettings,
};
use std::path::PathBuf;

const DEFAULT_DELTA: f64 = 0.1;
const DEFAULT_PROMPT_TOKENS: usize = 16;
const DEFAULT_TEMPERATURES: [f32; 2] = [0.0, 0.8];
/// Windows that go through the model at once.
const WINDOWS_AT_ONCE: usize = 8;

/// Find out how far each head's entropy can be trusted, and write it beside the heads
///
/// Thresholds for every target agreement, probabilities of acceptance, and what comes of them on
/// documents that they were not chosen on.
///
/// Example: dssd heads calibrate --heads demo-heads --text stories.txt
#[derive(Args)]
pub(crate) struct CalibrateArgs {
    /// Hugging Face folder; the demo model if unset
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Folder with trained heads; calibration.json goes there
    #[arg(long, value_name = "DIR")]
    heads: PathBuf,
    /// Text, as for `heads train`
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    text: Vec<PathBuf>,
    /// Which documents: those that `heads train` kept for measuring, or all (for text that it never saw)
    #[arg(long, value_enum, default_value_t = Documents::HeldOut)]
    documents: Documents,
    /// Positions: the text's own, or those of the model's continuations of its beginnings, which is what drafts run on
    #[arg(long, value_enum, default_value_t = SourceName::Continuations)]
    source: SourceName,
    /// Tokens of each document that are continued [default: 16]
    #[arg(long, value_name = "N")]
    prompt_tokens: Option<usize>,
    /// Temperatures of the continuations, taken in turn [default: 0,0.8]
    #[arg(long, value_name = "T", value_delimiter = ',')]
    temperature: Vec<f32>,
    /// How thresholds are chosen
    #[arg(long, value_enum, default_value_t = RuleName::Conditional)]
    rule: RuleName,
    /// Target agreements
    #[arg(long, value_name = "E", value_delimiter = ',', default_values_t = [0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99])]
    epsilons: Vec<f64>,
    /// Probability that a threshold of the guaranteed rule breaks its promise [default: 0.1]
    #[arg(long, value_name = "D")]
    delta: Option<f64>,
    /// Tokens of text to read, at most
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    tokens: usize,
    /// Most tokens of a window; default: 256, or what the model is made for
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Seed of sampling and of intervals
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Also write one line for each document, token and head (comma-separated)
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Where the model and its heads run: cpu, cuda or cuda:N
    #[arg(long, default_value_t = DeviceName::Cpu)]
    device: DeviceName,
    /// Threads; default: as many as the machine runs at once
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SourceName {
    Text,
    Continuations,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RuleName {
    Paper,
    Conditional,
    Guaranteed,
}

pub(super) fn run(mut args: CalibrateArgs) -> Result<bool> {
    args.refuse_strangers()?;
    if args.temperature.is_empty() {
        args.temperature = DEFAULT_TEMPERATURES.to_vec();
    }
    let settings = CalibrationSettings {
        rule: match args.rule {
            RuleName::Paper => Rule::Paper,
            RuleName::Conditional => Rule::Conditional,
            RuleName::Guaranteed => Rule::Guaranteed,
        },
        epsilons: args.epsilons.clone(),
        delta: args.delta.unwrap_or(DEFAULT_DELTA),
        seed: args.seed,
    };
    settings.check()?;
    let (checkpoint, tokenizer) = open_model(args.model.as_deref())?;
    let mut heads = ExitHeads::open(&args.heads, &checkpoint)?;
    heads.calibration = None;
    args.documents.check(&heads)?;
    let window = args
        .window
        .unwrap_or(checkpoint.config().max_positions.min(256));
    let threads = args.threads.unwrap_or_else(available_threads);
    let machine = Machine::new(args.device.open()?, threads);
    let encoder = Encoder::new(&checkpoint, tokenizer);
    let windows = windows(&args, &checkpoint, &encoder, window, &machine)?;
    let exits: Vec<usize> = heads.heads.iter().map(|head| head.layer).collect();
    let mut backbone = Backbone::load(&checkpoint, &machine, &exits, WINDOWS_AT_ONCE, window)?;
    let positions = windows
        .iter()
        .map(|window| window.tokens.len() - 1 - window.first);
    let bar = progress(positions.sum(), "asking every head")?;
    let samples = collect(
        &mut backbone,
        &heads,
        &windows,
        &TEMPERATURES,
        args.seed,
        &mut |done| bar.set_position(done as u64),
    )?;
    bar.finish_and_clear();
    if let Some(path) = &args.dump {
        samples.dump(path)?;
    }
    let source = Source {
        text_hash: text_hash(&args.text)?,
        description: args.describe(),
    };
    let calibration = calibrate(&heads, &samples, &settings, source)?;
    heads.calibration = Some(calibration.clone());
    heads.save_calibration(&args.heads)?;
    if args.json {
        say_line!("{}", serde_json::to_string(&calibration)?);
    } else {
        print(&calibration, samples.len());
    }
    Ok(true)
}

impl CalibrateArgs {
    /// Settings that the chosen source or rule has no use for.
    fn refuse_strangers(&self) -> Result<()> {
        let continued = self.source == SourceName::Continuations;
        anyhow::ensure!(
            continued || (self.prompt_tokens.is_none() && self.temperature.is_empty()),
            "--prompt-tokens and --temperature belong to --source continuations"
        );
        anyhow::ensure!(
            self.rule == RuleName::Guaranteed || self.delta.is_none(),
            "--delta belongs to --rule guaranteed"
        );
        Ok(())
    }

    fn describe(&self) -> String {
        let source = match self.source {
            SourceName::Text => String::new(),
            SourceName::Continuations => {
                format!("continuations at temperatures {:?} of ", self.temperature)
            }
        };
        format!("{source}{}", self.documents.describe(&self.text))
    }
}

/// The windows to ask the heads about.
fn windows(
    args: &CalibrateArgs,
    checkpoint: &Checkpoint,
    encoder: &Encoder,
    window: usize,
    machine: &Machine,
) -> Result<Vec<Window>> {
    let texts = args
        .documents
        .windows(&args.text, encoder, window, args.tokens)?;
    if args.source == SourceName::Text {
        return Ok(texts);
    }
    let beginning = args.prompt_tokens.unwrap_or(DEFAULT_PROMPT_TOKENS).max(1);
    let settings = SelfTextSettings {
        temperatures: args.temperature.clone(),
        longest: window,
        seed: args.seed,
    };
    continued(checkpoint, machine, &settings, &texts, beginning)
}

fn print(calibration: &Calibration, positions: usize) {
    say_line!(
        "{positions} positions; {} rule; {}",
        calibration.rule,
        calibration.source
    );
    say_line!("layer  target  entropy up to   leaves here   agreement on other documents");
    for head in &calibration.heads {
        for threshold in &head.thresholds {
            let nats = threshold
                .nats
                .map_or("off".into(), |nats| format!("{nats:.3} nats"));
            let realised = threshold.realised.map_or(String::new(), |realised| {
                format!(
                    "{:>10.1} %   {:.3} ({:.3} to {:.3})",
                    100.0 * realised.coverage,
                    realised.agreement,
                    realised.low,
                    realised.high
                )
            });
            say_line!(
                "{:>5}  {:>6.2}  {nats:>13} {realised}",
                head.layer,
                threshold.epsilon
            );
        }
    }
}
