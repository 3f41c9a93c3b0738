//! `dssd heads report`: what heads are worth, and what drafting with them brings.

mod cloze;
mod document;
mod early_exit;
mod folder;
mod material;
mod page;
mod speculation;
mod summary;

use super::{available_threads, progress};
use crate::{
    bench::{
        pair::{Pair, PairSettings, Runs, pass_seconds, verifier},
        stages::Stages,
        subject::Subject,
    },
    client::Client,
    oracle::Truth,
};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use cloze::Cloze;
use document::{Report, spread};
use dssd_common::{checkpoint::demo, kernels::Kernels, serve::Dtype, tokenizer::Tokenizer};
use dssd_heads::corpus::{Encoder, text_hash};
use early_exit::EarlyExitRow;
use folder::{Folder, Setup};
use material::{Material, MaterialArgs};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use speculation::{Bench, Exits, Grid, LONGEST_DRAFT, Plan, TEMPERATURES};
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
}

/// Measures, writes the report and tells the gist of it.
pub(super) async fn run(args: ReportArgs) -> Result<bool> {
    let begun = Instant::now();
    let amounts = args.amounts();
    let folder = args.model.clone().map_or_else(demo::folder, Ok)?;
    let kernels = Arc::new(Kernels::new(amounts.threads));
    let subject = Subject::open(&folder, Dtype::Auto, Arc::clone(&kernels))?;
    let tokenizer = Tokenizer::open(&folder)?.map(Arc::new);
    let encoder = Encoder::new(&subject.checkpoint, tokenizer.clone());
    let end = subject.checkpoint.generation_defaults();
    let end = end.eos_token_ids.first().copied();
    let cloze = (args.cloze.as_deref()).map(|path| Cloze::read(path, &encoder, end));
    let cloze = cloze.transpose()?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let material = (args.material).gather(&subject.checkpoint, &encoder, &amounts)?;
    let dirs = if args.heads.is_empty() {
        vec![folder]
    } else {
        args.heads.clone()
    };
    let setup = Setup {
        checkpoint: &subject.checkpoint,
        kernels,
        material: &material,
        text_hash: text_hash(&args.material.text)?,
        seed: amounts.seed,
    };
    let mut folders = Vec::new();
    for dir in &dirs {
        folders.push(measure_folder(&setup, dir)?);
    }
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
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{report}\nwritten to {}\n", args.out.display()),
    }
    Ok(true)
}

fn measure_folder(setup: &Setup<'_>, dir: &Path) -> Result<Folder> {
    let bar = progress(STEPS as usize, "asking every head")?;
    let folder = setup.measure(dir, &mut |share| bar.set_position((share * STEPS) as u64));
    bar.finish_and_clear();
    folder
}

fn write(out: &Path, report: &Report) -> Result<()> {
    let file = |name: &str, content: String| {
        let path = out.join(name);
        std::fs::write(&path, content).with_context(|| path.display().to_string())
    };
    file("report.json", serde_json::to_string_pretty(report)?)?;
    file("report.html", page::page(report)?)
}

/// The running services, and what they are asked with.
struct Lab<'a> {
    subject: &'a Subject,
    tokenizer: Option<Arc<Tokenizer>>,
    heads: &'a Path,
    material: &'a Material,
    amounts: &'a Amounts,
}

/// What the services told.
struct Measured {
    early_exit: Vec<EarlyExitRow>,
    cloze: Option<cloze::ClozeReport>,
    speculation: Vec<speculation::Speculation>,
    splits: [usize; 2],
}

impl Lab<'_> {
    async fn measure(&self, folder: &Folder, cloze: Option<&Cloze>) -> Result<Measured> {
        let plan = self.plan(folder)?;
        let stages = Stages::new(2 + plan.split_b + plan.stages());
        let (early_exit, cloze) = self
            .early_exits(folder, cloze, plan.split_b, &stages)
            .await?;
        stages.begin("passes of the model alone");
        let passes = pass_seconds(self.subject, LONGEST_DRAFT as usize + 1)?;
        let settings = PairSettings {
            heads: Some(self.heads.to_owned()),
            max_draft_tokens: Some(LONGEST_DRAFT),
            ..PairSettings::default()
        };
        stages.begin("starting the pair");
        let pair = Pair::start(self.subject, settings).await?;
        let mut runs = self.runs(pair.client()?).await?;
        let mut bench = Bench {
            runs: &mut runs,
            random: ChaCha8Rng::seed_from_u64(self.amounts.seed),
            passes: &passes,
            stages: &stages,
        };
        let mut speculation = Vec::new();
        for temperature in TEMPERATURES {
            speculation.push(plan.measure(&mut bench, temperature).await?);
        }
        pair.stop().await?;
        Ok(Measured {
            early_exit,
            cloze,
            speculation,
            splits: [plan.split_a, plan.split_b],
        })
    }

    /// Prompts are dealt to the splits in proportion where there are fewer than wanted.
    fn plan(&self, folder: &Folder) -> Result<Plan> {
        let [a, b] = self.amounts.splits;
        let available = self.material.prompts.len();
        let split_a = a.min((available * a / (a + b)).max(1));
        let calibration = folder.calibration.as_ref();
        ensure!(available > split_a, "too few prompts for two splits");
        Ok(Plan {
            exits: Exits {
                layers: folder
                    .heads
                    .iter()
                    .map(|section| section.head.layer)
                    .collect(),
                epsilons: calibration.map_or(Vec::new(), |c| c.epsilons.clone()),
            },
            grid: self.amounts.grid,
            rounds: self.amounts.rounds,
            split_a,
            split_b: b.min(available - split_a),
            seed: self.amounts.seed,
        })
    }

    async fn runs(&self, client: Client) -> Result<Runs> {
        client.ready().await?;
        Ok(Runs {
            client,
            truth: Truth::default(),
            prompts: self.material.prompts.clone(),
            max_new_tokens: self.amounts.max_new_tokens,
            turns: 0,
        })
    }

    /// On a server of their own; the whole model alone where there is no calibration.
    async fn early_exits(
        &self,
        folder: &Folder,
        cloze: Option<&Cloze>,
        prompts: usize,
        stages: &Stages,
    ) -> Result<(Vec<EarlyExitRow>, Option<cloze::ClozeReport>)> {
        let service = verifier(self.subject, self.tokenizer.clone(), |config| {
            config.allow_lossy = true;
            config.heads = Some(self.heads.to_owned());
        });
        let service = service.await?;
        let mut runs = self.runs(Client::new(&[service.uri()?])).await?;
        runs.warm_up(&[crate::bench::pair::Setting::plain(0.0)])
            .await?;
        let mut random = ChaCha8Rng::seed_from_u64(self.amounts.seed);
        let rows = early_exit::measure(&mut runs, folder, prompts, &mut random, stages).await?;
        let told = match cloze {
            Some(cloze) => {
                stages.begin("the cloze task");
                Some(
                    cloze
                        .ask(&runs.client, &early_exit::epsilons(folder))
                        .await?,
                )
            }
            None => None,
        };
        drop(runs);
        service.stop().await?;
        Ok((rows, told))
    }

    fn report(
        &self,
        mut folders: Vec<Folder>,
        measured: Measured,
        quick: bool,
        begun: Instant,
    ) -> Result<Report> {
        let spread = spread(&folders);
        let heads = (folders.first_mut()).map(|folder| std::mem::take(&mut folder.heads));
        let mut report = Report {
            model: self.subject.name.clone(),
            layers: self.subject.checkpoint.config().layers,
            dtype: self.subject.type_name()?,
            threads: self.amounts.threads,
            quick,
            seed: self.amounts.seed,
            seconds: begun.elapsed().as_secs_f64(),
            text: self.material.line(measured.splits),
            max_new_tokens: self.amounts.max_new_tokens,
            heads: heads.unwrap_or_default(),
            early_exit: measured.early_exit,
            cloze: measured.cloze,
            policies: Vec::new(),
            layerskip_grid: Vec::new(),
            dssd_over_layerskip_acceptance: None,
            comparisons: Vec::new(),
            folders,
            spread,
        };
        for told in measured.speculation {
            report.policies.extend(told.rows);
            report.layerskip_grid.extend(told.grid);
            report.comparisons.push(told.comparison);
        }
        let greedy = report
            .comparisons
            .iter()
            .find(|told| told.temperature == 0.0);
        let paper = greedy.and_then(|told| told.layerskip.as_ref());
        report.dssd_over_layerskip_acceptance = paper.map(|p| p.dssd_over_layerskip_acceptance);
        Ok(report)
    }
}
