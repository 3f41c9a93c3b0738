//! `dssd bench load`: many clients at once, in a closed and in an open loop.

mod arrivals;
mod buckets;
mod call;
mod closed;
mod counters;
mod ladder;
mod lengths;
mod measures;
mod open;
mod plot;
mod report;
mod table;
mod target;
mod window;
mod workload;

use super::{Output, stages::Stages};
use anyhow::{Context as _, Result};
use arrivals::Rate;
use clap::{CommandFactory as _, error::ErrorKind};
use closed::Span;
use dssd_common::policy::PolicySpec;
use ladder::{Climbed, Ladder};
use measures::{Objectives, Totals};
use open::Plan;
use report::{OpenLoop, Report, Saturation};
use std::{path::PathBuf, sync::Arc, time::Duration};
use target::{Target, TargetArgs};
use workload::{Workload, WorkloadArgs};

/// Numbers of the open loop's requests begin here, those of the ladder below.
const OPEN_LOOP: u64 = 1 << 48;
/// Most streams of a rung, and most calls at once of the open loop.
const MOST_CALLS: i64 = 16384;

/// Load the pair, or running servers, with many requests at once.
///
/// The ladder is a closed loop: on each rung so many streams run at once, each of which asks again as soon as it has
/// its answer, with drafts and without in turn. With --rate an open loop follows, in which requests arrive at
/// random times and wait for nobody. Times are measured here, at the client. Nothing is tried again, except a
/// call that never left the client since its connection was closing.
///
/// Exits with 1 if an answer has missing, doubled or disordered tokens, or differs from another of the same
/// request, or if the servers' own counters, where --metrics names them, do not agree with what came here.
///
/// Example: dssd bench load --streams 1,4,16 --repeats 3 --rate 3x --duration 60
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    workload: WorkloadArgs,
    #[command(flatten)]
    ladder: LadderArgs,
    #[command(flatten)]
    open: OpenArgs,
    /// How to draft where drafts are on.
    #[arg(long, value_name = "POLICY", default_value = "auto", value_parser = drafting)]
    policy: PolicySpec,
    /// Time that passes before each measurement, once every stream has begun.
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds_or_none)]
    warm_up: Duration,
    /// Time of a call, after which it is given up and counted as an error.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    timeout: Duration,
    /// Time to the first token up to which an answer counts as good.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    slo_ttft: Option<Duration>,
    /// Mean time from token to token up to which an answer counts as good.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    slo_itl: Option<Duration>,
    #[command(flatten)]
    output: Output,
}

/// The closed loop.
#[derive(clap::Args)]
struct LadderArgs {
    /// Numbers of streams, one rung for each.
    #[arg(long, value_name = "N,N…", value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 64], value_parser = clap::value_parser!(u32).range(1..=MOST_CALLS))]
    streams: Vec<u32>,
    /// Measurements of each rung, with drafts and without.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    /// Time of one measurement.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    seconds: Duration,
    /// Measure until so many calls have ended, instead of for a time.
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Compare the answers of equal requests with drafts and without.
    #[arg(long)]
    verify: bool,
    /// Draw the ladder.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// The open loop alone.
    #[arg(long, requires = "rate", conflicts_with_all = ["streams", "repeats", "seconds", "requests", "verify", "plot"])]
    no_ladder: bool,
}

/// The open loop.
#[derive(clap::Args)]
struct OpenArgs {
    /// Requests per second that arrive at random times, or such as 3x: times what the ladder's best rung took.
    #[arg(long, value_name = "R|Kx")]
    rate: Option<Rate>,
    /// How long they arrive, after the warm-up.
    #[arg(long, value_name = "SECONDS", default_value = "30", requires = "rate", value_parser = seconds)]
    duration: Duration,
    /// Calls under way at once; requests beyond them are not sent, and counted.
    #[arg(long, value_name = "N", default_value_t = 1024, requires = "rate", value_parser = clap::value_parser!(u32).range(1..=MOST_CALLS))]
    max_outstanding: u32,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let time = seconds_or_none(text)?;
    match time.is_zero() {
        true => Err("must be above 0".to_owned()),
        false => Ok(time),
    }
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok();
    let time = time.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.filter(|time| *time <= LONGEST)
        .ok_or_else(|| format!("must be seconds, at most {}", LONGEST.as_secs()))
}

/// The longest time that can be asked for: a week.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

fn drafting(text: &str) -> Result<PolicySpec, String> {
    match text
        .parse()
        .map_err(|error: dssd_common::Error| error.to_string())?
    {
        PolicySpec::Off => Err("drafts that are off are measured beside any policy".to_owned()),
        policy => Ok(policy),
    }
}

/// What every measurement needs.
struct Load {
    target: Target,
    workload: Workload,
    settings: Settings,
}

/// How measurements are made.
struct Settings {
    policy: PolicySpec,
    span: Span,
    warm_up: Duration,
    timeout: Duration,
    objectives: Objectives,
}

/// Runs the ladder and the open loop and tells them; false if an answer was wrong.
///
/// # Errors
/// If a service fails, nothing could be measured, or the picture cannot be written.
pub(crate) async fn run(args: Args) -> Result<bool> {
    args.check();
    let most = args.ladder.streams.iter().max().copied().unwrap_or(1);
    let most = most.max(args.open.max_outstanding) as usize;
    let target = args.target.open(most).await?;
    let load = Load {
        workload: args.workload.open(&target).await?,
        target,
        settings: args.settings(),
    };
    let load = Arc::new(load);
    let counters = load.target.counters().await?;
    let mut report = args.measure(&load).await?;
    if let Some(counters) = counters {
        let compared = counters.compare(&report.totals).await?;
        report.counters = compared.counts;
        report.server_refusal_delay = compared.refusal_delay;
    }
    let load = Arc::into_inner(load).context("a call is still under way")?;
    load.target.stop().await?;
    if let Some(file) = &args.ladder.plot {
        std::fs::write(file, plot::svg(&report)?).with_context(|| file.display().to_string())?;
    }
    args.output.print(&report)?;
    let differing = report.verified.map_or(0, |verified| verified.differing);
    let agree = report.counters.iter().all(|count| count.agrees);
    Ok(report.wrong == 0 && differing == 0 && agree)
}

impl Args {
    /// Ends the process with a sentence if flags contradict each other in ways that clap does not see.
    fn check(&self) {
        let relative = matches!(self.open.rate, Some(Rate::TimesSaturation(_)));
        if self.ladder.no_ladder && relative {
            let reason = "--rate Kx is a multiple of what the ladder measures: give requests per second with --no-ladder";
            let mut command = crate::Arguments::command();
            command.error(ErrorKind::ArgumentConflict, reason).exit();
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            policy: self.policy,
            span: match self.ladder.requests {
                Some(calls) => Span::Calls(calls),
                None => Span::Time(self.ladder.seconds),
            },
            warm_up: self.warm_up,
            timeout: self.timeout,
            objectives: Objectives {
                ttft: self.slo_ttft,
                itl: self.slo_itl,
            },
        }
    }

    async fn measure(&self, load: &Arc<Load>) -> Result<Report> {
        let model = load.target.model_name().await?;
        let ladder = match self.ladder.no_ladder {
            true => None,
            false => Some(Ladder::new(&self.ladder)),
        };
        let turns = ladder.as_ref().map_or(0, Ladder::turns);
        let stages = Stages::new(turns + usize::from(self.open.rate.is_some()));
        let climbed = match &ladder {
            Some(ladder) => ladder.climb(load, &stages).await?,
            None => Climbed::default(),
        };
        let open = match self.open.rate {
            Some(rate) => Some(self.open_loop(load, rate, &climbed, &stages).await?),
            None => None,
        };
        let mut totals: Totals = climbed.totals;
        if let Some((_, measured)) = &open {
            totals.merge(&measured.measures.totals);
        }
        let wrong = open.as_ref().map_or(0, |(_, m)| m.measures.wrong);
        Ok(Report {
            model,
            endpoints: load.target.endpoints.clone(),
            policy: self.policy.to_string(),
            seed: self.workload.seed,
            repeats: self.ladder.repeats,
            rungs: climbed.rungs,
            ratios: climbed.ratios,
            saturation: climbed.saturation,
            open_loop: open.map(|(open, _)| open),
            verified: self.ladder.verify.then_some(climbed.verified),
            wrong: climbed.wrong + wrong,
            totals,
            counters: Vec::new(),
            server_refusal_delay: None,
        })
    }

    async fn open_loop(
        &self,
        load: &Arc<Load>,
        rate: Rate,
        climbed: &Climbed,
        stages: &Stages,
    ) -> Result<(OpenLoop, open::Measured)> {
        let saturation = climbed.saturation.as_ref();
        let rate = match rate {
            Rate::PerSecond(rate) => rate,
            Rate::TimesSaturation(times) => times * requests_per_second(saturation)?,
        };
        let plan = Plan {
            rate,
            duration: self.open.duration,
            most_outstanding: self.open.max_outstanding as usize,
            first: OPEN_LOOP,
        };
        stages.begin(format!("open loop, {rate:.1} requests per second"));
        let measured = open::run(load, plan).await?;
        let report = OpenLoop::new(plan, self.policy, &measured, saturation);
        Ok((report, measured))
    }
}

fn requests_per_second(saturation: Option<&Saturation>) -> Result<f64> {
    let rate = saturation.map(|saturation| saturation.requests_per_second);
    rate.filter(|rate| *rate > 0.0)
        .context("the ladder found no rate to take a multiple of")
}
