//! `dssd heads train`: heads that learn from the model's own predictions.

use super::{available_threads, progress};
use anyhow::{Context as _, Result};
use clap::{ArgGroup, Args, ValueEnum};
use dssd_common::{
    checkpoint::lm_head_name,
    exit::{DEFAULT_EXITS, placement},
    kernels::WeightType,
    serve::{DeviceName, open_model},
};
use dssd_heads::{
    backbone::Machine,
    self_text::{SelfTextSettings, write_self_text},
    train::{
        Event, Kind, Material, Outcome, Quality, Recipe, TrainSettings, check_folder, check_room,
        train,
    },
};
use indicatif::ProgressBar;
use serde_json::json;
use std::path::{Path, PathBuf};

/// File of `--out` that holds what the model wrote.
const SELF_TEXT: &str = "self-text.jsonl";
/// Ticks of the progress bar of a training.
const TICKS: usize = 10_000;

/// Train exit heads on what the whole model says
///
/// Needs no labels: each head learns the model's own distribution, at its exit, over whatever
/// text is given. Killed at any moment, it goes on with --resume.
///
/// Example: dssd heads train --text stories.txt --out demo-heads --minutes 10
#[derive(Args)]
#[command(group = ArgGroup::new("source").required(true).multiple(true).args(["text", "self_tokens"]))]
pub(crate) struct TrainArgs {
    /// Hugging Face folder; the demo model if unset
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Text to learn from: plain, with documents parted by <|endoftext|>, or JSON lines (*.jsonl)
    /// with `text` or `token_ids`
    #[arg(long, value_name = "FILE", num_args = 1..)]
    text: Vec<PathBuf>,
    /// Let the model write this many tokens of text and learn from those, too or instead
    #[arg(long = "self", value_name = "TOKENS")]
    self_tokens: Option<usize>,
    /// Temperatures of --self, taken in turn
    #[arg(long, value_name = "T", value_delimiter = ',', default_values_t = [0.7, 1.0], requires = "self_tokens")]
    self_temperature: Vec<f32>,
    /// Text to measure on; a fiftieth of the documents of --text if unset
    #[arg(long, value_name = "FILE")]
    held_out: Option<PathBuf>,
    /// Folder for the heads
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Layers that run before each head, such as 1,2,4,8; default: four, evenly spaced
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    layers: Vec<usize>,
    /// What follows a head's norm
    #[arg(long, value_enum, default_value_t = KindName::Linear)]
    kind: KindName,
    /// Features inside an adapter; default: a quarter of the model's
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// default, or the paper's: linear heads from random numbers, frozen norm, learning rate 1e-4
    #[arg(long, value_enum, default_value_t = RecipeName::Default)]
    recipe: RecipeName,
    /// Highest learning rate; the recipe's if unset
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Most tokens of a window of text; default: 512, or what the model is made for
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Tokens in a step of the optimizer
    #[arg(long, value_name = "N", default_value_t = 4096)]
    step_tokens: usize,
    /// Tokens after which training ends
    #[arg(long, value_name = "N", default_value_t = 20_000_000)]
    tokens: u64,
    /// Minutes after which training ends, if that is sooner
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// Held-out tokens to measure on
    #[arg(long, value_name = "N", default_value_t = 8192)]
    held_out_tokens: usize,
    /// Measurements without anything better before training ends
    #[arg(long, value_name = "N", default_value_t = 10)]
    patience: usize,
    /// Seconds between measurements; the state is written down after each
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    measure_every: f64,
    /// Number format of the stored heads; default: that of the model's LM head
    #[arg(long, value_enum)]
    dtype: Option<StoredType>,
    /// Seed of the order of the text, of random starts and of --self
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where the model runs and the heads learn: cpu, cuda or cuda:N
    #[arg(long, default_value_t = DeviceName::Cpu)]
    device: DeviceName,
    /// Threads; default: as many as the machine runs at once
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Go on with the training that was interrupted in --out
    #[arg(long)]
    resume: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindName {
    Linear,
    Adapter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RecipeName {
    Default,
    Paper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StoredType {
    F32,
    F16,
    Bf16,
}

pub(super) fn run(args: TrainArgs) -> Result<bool> {
    let (checkpoint, tokenizer) = open_model(args.model.as_deref())?;
    let stored = checkpoint.tensor(lm_head_name(checkpoint.config()))?.dtype;
    let settings = args.settings(checkpoint.config(), stored)?;
    settings.check(checkpoint.config())?;
    check_folder(&args.out, args.resume)?;
    let mut material = Material {
        checkpoint,
        tokenizer,
        text: args.text.clone(),
        held_out: args.held_out.clone(),
        out: args.out.clone(),
        machine: Machine::new(
            args.device.open()?,
            args.threads.unwrap_or_else(available_threads),
        ),
    };
    check_room(&material, &settings)?;
    if let Some(tokens) = args.self_tokens {
        material
            .text
            .push(self_text(&args, &material, tokens, settings.window)?);
    }
    let bar = progress(TICKS, "")?;
    let outcome = train(&material, &settings, args.resume, &mut |event| {
        show(&bar, &settings, event)
    })?;
    bar.finish_and_clear();
    if args.json {
        say_line!("{}", report(&outcome));
    } else {
        print(&outcome, &args.out);
    }
    Ok(true)
}

impl TrainArgs {
    fn settings(
        &self,
        config: &dssd_common::checkpoint::ModelConfig,
        stored: WeightType,
    ) -> Result<TrainSettings> {
        let recipe = match self.recipe {
            RecipeName::Default => Recipe::Default,
            RecipeName::Paper => Recipe::Paper,
        };
        let kind = match (self.kind, self.rank) {
            (KindName::Linear, None) => Kind::Linear,
            (KindName::Linear, Some(_)) => anyhow::bail!("--rank belongs to --kind adapter"),
            (KindName::Adapter, rank) => Kind::Adapter {
                rank: rank.unwrap_or(config.hidden / 4),
            },
        };
        anyhow::ensure!(
            recipe == Recipe::Default || kind == Kind::Linear,
            "--recipe paper trains linear heads"
        );
        let layers = if self.layers.is_empty() {
            placement(config.layers, DEFAULT_EXITS)
        } else {
            self.layers.clone()
        };
        let dtype = match self.dtype {
            None => stored,
            Some(StoredType::F32) => WeightType::F32,
            Some(StoredType::F16) => WeightType::F16,
            Some(StoredType::Bf16) => WeightType::Bf16,
        };
        let defaults = recipe.settings(layers, config, dtype);
        Ok(TrainSettings {
            kind,
            learning_rate: self.learning_rate.unwrap_or(defaults.learning_rate),
            window: self.window.unwrap_or(defaults.window),
            step_tokens: self.step_tokens,
            tokens: self.tokens,
            seconds: self.minutes.map(|minutes| minutes * 60.0),
            held_out_tokens: self.held_out_tokens,
            patience: self.patience,
            measure_seconds: self.measure_every,
            seed: self.seed,
            ..defaults
        })
    }
}

/// The file with the model's own text; an interrupted training goes on with what it wrote.
fn self_text(
    args: &TrainArgs,
    material: &Material,
    tokens: usize,
    window: usize,
) -> Result<PathBuf> {
    let path = args.out.join(SELF_TEXT);
    if args.resume && path.exists() {
        return Ok(path);
    }
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let settings = SelfTextSettings {
        temperatures: args.self_temperature.clone(),
        longest: window,
        seed: args.seed,
    };
    let bar = progress(tokens, "the model writes its own text")?;
    let observer = &mut |written| bar.set_position(written as u64);
    write_self_text(
        &material.checkpoint,
        &material.machine,
        &settings,
        tokens,
        &path,
        observer,
    )?;
    bar.finish_and_clear();
    Ok(path)
}

fn show(bar: &ProgressBar, settings: &TrainSettings, event: Event<'_>) {
    match event {
        Event::Sized(size) => {
            let on_gpu = match size.gpu_bytes {
                0 => String::new(),
                bytes => format!(
                    "; at most {} MiB on the GPU, the model included",
                    bytes.div_ceil(1 << 20)
                ),
            };
            bar.suspend(|| {
                eprintln!(
                    "{} heads after layers {:?}, {:.1} million parameters; at most {} MiB of memory \
                     beside the model{on_gpu}",
                    settings.layers.len(),
                    settings.layers,
                    size.parameters as f64 / 1e6,
                    size.peak_bytes.div_ceil(1 << 20),
                );
            });
        }
        Event::Began(quality) => tell(bar, "before training", quality),
        Event::Step { done, tokens, kl } => {
            bar.set_position((done * TICKS as f64) as u64);
            let kl: Vec<String> = kl.iter().map(|kl| format!("{kl:.3}")).collect();
            bar.set_message(format!("{tokens} tokens, KL {}", kl.join(" ")));
        }
        Event::Measured(quality) => tell(bar, "held-out text", quality),
    }
}

fn tell(bar: &ProgressBar, what: &str, quality: &[Quality]) {
    let heads = quality.iter().map(|head| {
        format!(
            "layer {} {:.3} ({:.3} nats)",
            head.layer, head.agreement, head.kl
        )
    });
    let heads: Vec<String> = heads.collect();
    bar.suspend(|| eprintln!("{what}: agreement (KL) {}", heads.join(", ")));
}

fn report(outcome: &Outcome) -> serde_json::Value {
    json!({
        "before": outcome.first,
        "heads": outcome.last,
        "tokens": outcome.tokens,
        "seconds": outcome.seconds,
        "stopped_early": outcome.stopped_early,
    })
}

fn print(outcome: &Outcome, out: &Path) {
    for (before, after) in outcome.first.iter().zip(&outcome.last) {
        say_line!(
            "layer {:>3}   agreement {:.3} -> {:.3}   KL {:.3} -> {:.3} nats",
            after.layer,
            before.agreement,
            after.agreement,
            before.kl,
            after.kl
        );
    }
    say_line!(
        "{} tokens in {:.0} seconds; the heads are in {}",
        outcome.tokens,
        outcome.seconds,
        out.display()
    );
}
