//! `dssd heads report`: what heads are worth, and what drafting with them brings.

mod cloze;
mod document;
mod early_exit;
mod folder;
mod lab;
mod material;
mod page;
mod speculation;
mod summary;

use super::{available_threads, progress};
use crate::bench::subject::Subject;
use anyhow::{Context as _, Result};
use clap::Args;
use cloze::Cloze;
use document::Report;
use dssd_common::{
    checkpoint::{Checkpoint, demo},
    exit::ExitHeads,
    serve::Dtype,
    tokenizer::Tokenizer,
};
use dssd_heads::{
    backbone::Machine,
    corpus::{Encoder, text_hash},
};
use folder::{Folder, Setup};
use lab::Lab;
use material::MaterialArgs;
use speculation::Grid;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// Steps of the progress bar over a folder.
const STEPS: f64 = 1000.0;

/// Measure trained heads: on text, and through the running pair
///
/// Writes report.json and report.html, which stands alone. Every speculated text is compared with
/// the plain one.
///
/// Example: dssd heads report --heads demo-heads --text unseen.txt --documents all --out report
#[derive(Args)]
pub(crate) struct ReportArgs {
    /// Hugging Face folder; the demo model if unset
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Folder with trained heads; of several, such as those of several seeds, the first one drafts [default: the model's folder]
    #[arg(long, value_name = "DIR", num_args = 1..)]
    heads: Vec<PathBuf>,
    #[command(flatten)]
    material: MaterialArgs,
    /// A cloze task: JSON lines with `prompt`, `choices` and `answer`, the index of the right one
    #[arg(long, value_name = "FILE")]
    cloze: Option<PathBuf>,
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Tokens of each generation [default: 64; 12 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    max_new_tokens: Option<u32>,
    /// Rounds of the comparison of policies [default: 9; 2 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Measure too little to conclude anything, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Seed of sampling, of orders and of intervals
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Threads; default: as many as the machine runs at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Print report.json instead of a summary
    #[arg(long)]
    json: bool,
}

/// How much is measured.
struct Amounts {
    /// Of text.
    tokens: usize,
    max_new_tokens: u32,
    rounds: usize,
    grid: Grid,
    /// Most prompts of splits A and B.
    splits: [usize; 2],
    seed: u64,
    threads: usize,
}

impl ReportArgs {
    fn amounts(&self) -> Amounts {
        let (tokens, new_tokens, rounds, grid, splits) = match self.quick {
            false => (40_000, 64, 9, Grid::Whole, [24, 36]),
            true => (1000, 12, 2, Grid::Corners, [1, 2]),
        };
        Amounts {
            tokens,
            max_new_tokens: self.max_new_tokens.unwrap_or(new_tokens),
            rounds: self.rounds.map_or(rounds, usize::from),
            grid,
            splits,
            seed: self.seed,
            threads: self.threads.map_or_else(available_threads, usize::from),
        }
    }

    /// Heads that fit the model and the documents.
    fn open(&self, dir: &Path, checkpoint: &Checkpoint) -> Result<ExitHeads> {
        let folder = || format!("--heads {}", dir.display());
        let heads = ExitHeads::open(dir, checkpoint).with_context(folder)?;
        self.material.documents.check(&heads).with_context(folder)?;
        Ok(heads)
    }
}

/// Measures, writes the report and tells the gist of it.
pub(super) async fn run(args: ReportArgs) -> Result<bool> {
    let begun = Instant::now();
    let amounts = args.amounts();
    let folder = args.model.clone().map_or_else(demo::folder, Ok)?;
    let machine = Machine::cpu(amounts.threads);
    let subject = Subject::open(&folder, Dtype::Auto, Arc::clone(&machine.kernels))?;
    let tokenizer = Tokenizer::open(&folder)?.map(Arc::new);
    let encoder = Encoder::new(&subject.checkpoint, tokenizer.clone());
    let end = subject.checkpoint.generation_defaults();
    let end = end.eos_token_ids.first().copied();
    let cloze = (args.cloze.as_deref()).map(|path| Cloze::read(path, &encoder, end, args.seed));
    let cloze = cloze.transpose()?;
    let dirs = if args.heads.is_empty() {
        vec![folder]
    } else {
        args.heads.clone()
    };
    let opened = dirs.iter().map(|dir| args.open(dir, &subject.checkpoint));
    let opened: Vec<ExitHeads> = opened.collect::<Result<_>>()?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let material = (args.material).gather(&subject.checkpoint, &encoder, &machine, &amounts)?;
    let setup = Setup {
        checkpoint: &subject.checkpoint,
        machine: &machine,
        material: &material,
        text_hash: text_hash(&args.material.text)?,
        seed: amounts.seed,
    };
    let folders = measure(&setup, &dirs, &opened)?;
    let lab = Lab {
        subject: &subject,
        tokenizer,
        heads: &dirs[0],
        material: &material,
        amounts: &amounts,
    };
    let measured = lab.measure(&folders[0], cloze.as_ref()).await?;
    let report = lab.report(folders, measured, args.quick, begun)?;
    write(&args.out, &report)?;
    match args.json {
        true => say_line!("{}", serde_json::to_string(&report)?),
        false => say_line!("{report}\nwritten to {}", args.out.display()),
    }
    Ok(true)
}

fn measure(setup: &Setup<'_>, dirs: &[PathBuf], opened: &[ExitHeads]) -> Result<Vec<Folder>> {
    let each = dirs.iter().zip(opened).map(|(dir, heads)| {
        let bar = progress(STEPS as usize, "asking every head")?;
        let observer = &mut |share| bar.set_position((share * STEPS) as u64);
        let folder = setup.measure(dir, heads, observer);
        bar.finish_and_clear();
        folder
    });
    each.collect()
}

fn write(out: &Path, report: &Report) -> Result<()> {
    let file = |name: &str, content: String| {
        let path = out.join(name);
        std::fs::write(&path, content).with_context(|| path.display().to_string())
    };
    file("report.json", serde_json::to_string_pretty(report)?)?;
    file("report.html", page::page(report)?)
}
